"""The Merkle tree of a log (RFC 6962, RFC 9162): hashes, proofs of inclusion and of consistency, and what they prove.

A tree is known by the roots of its perfect subtrees, each named by its level (0: leaves) and its place in that level.
None of them ever changes, so a log of any size is appended to with as many hashes as its size has binary digits.
Verifying raises InvalidProof and otherwise returns nothing, so that no result can be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256().digest()
"""The root of the tree without leaves."""

LARGEST: Final = 2**63 - 1
"""Leaves that a tree may have."""


class InvalidProof(ValueError):
    """What was shown does not prove what it was shown for; says why."""


class Subtree(NamedTuple):
    """A perfect subtree: the leaves from ``place * 2**level`` on, ``2**level`` of them."""

    level: int
    place: int


Parts = list[list[Subtree]]
"""For each hash of a proof the subtrees, left to right, of which it is made."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


# growing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that is needed of a tree to append to it: the roots of the perfect subtrees it consists of, left to right."""

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError when there are more or fewer roots than the size has."""
        if not 0 <= self.size <= LARGEST or len(self.roots) != self.size.bit_count():
            raise ValueError(f"a tree of {self.size} leaves does not consist of {len(self.roots)} perfect subtrees")

    def append(self, hashed: bytes) -> tuple[Frontier, list[tuple[Subtree, bytes]]]:
        """The tree with one more leaf, of which this is the hash; and the subtrees that became whole by it, the leaf
        among them."""
        roots = list(self.roots)
        whole = [(Subtree(0, self.size), hashed)]
        level, size = 0, self.size
        while size & 1:
            hashed = node_hash(roots.pop(), hashed)
            size >>= 1
            level += 1
            whole.append((Subtree(level, size), hashed))
        return Frontier(self.size + 1, (*roots, hashed)), whole

    def root(self) -> bytes:
        """The root of the whole tree."""
        return folded(self.roots)


def folded(roots: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that follow on each other, each smaller than the one before it."""
    if not roots:
        return EMPTY_ROOT
    found = roots[-1]
    for root in reversed(roots[:-1]):
        found = node_hash(root, found)
    return found


def frontier_parts(size: int) -> list[Subtree]:
    """The perfect subtrees of which a tree of ``size`` leaves consists, left to right."""
    return _span(0, size)


def _span(start: int, end: int) -> list[Subtree]:
    """The perfect subtrees of a range of leaves whose start is a multiple of a power of two no smaller than it."""
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append(Subtree(level, start >> level))
        start += 1 << level
    return found


# proving ------------------------------------------------------------------------------------


def inclusion_parts(index: int, size: int) -> Parts:
    """Of what the proof consists that leaf ``index`` is in the tree of ``size`` leaves; see `assembled`.

    Raises ValueError when there is no such leaf.
    """
    if not 0 <= index < size <= LARGEST:
        raise ValueError(f"there is no leaf {index} in a tree of {size} leaves")
    found: Parts = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_half(end - start)
        if index < middle:
            found.append(_span(middle, end))
            end = middle
        else:
            found.append(_span(start, middle))
            start = middle
    return found[::-1]


def consistency_parts(first: int, second: int) -> Parts:
    """Of what the proof consists that the tree of ``second`` leaves begins with that of ``first``; see `assembled`.

    Raises ValueError when the first is not the smaller.
    """
    if not 0 <= first <= second <= LARGEST:
        raise ValueError(f"a tree of {second} leaves does not begin with one of {first}")
    if first in (0, second):
        return []
    found: Parts = []
    start, end = 0, second
    while end != first:
        middle = start + _left_half(end - start)
        if first <= middle:
            found.append(_span(middle, end))
            end = middle
        else:
            found.append(_span(start, middle))
            start = middle
    if start:
        found.append(_span(start, end))
    return found[::-1]


def assembled(parts: Parts, hashes: Mapping[Subtree, bytes]) -> list[bytes]:
    """The proof, where the roots of all subtrees that are in it are known."""
    return [folded([hashes[part] for part in group]) for group in parts]


def _left_half(size: int) -> int:
    """The largest power of two below a size of two or more."""
    return 1 << (size - 1).bit_length() - 1


# believing ----------------------------------------------------------------------------------


def check_inclusion(index: int, size: int, hashed: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Raise InvalidProof unless the leaf of this hash is the one at ``index`` in the tree of ``size`` and ``root``."""
    if not 0 <= index < size <= LARGEST:
        raise InvalidProof(f"There is no leaf {index} in a tree of {size} leaves")
    _check_hashes([hashed, root, *proof])
    place, last, found = index, size - 1, hashed
    for sibling in proof:
        if last == 0:
            raise InvalidProof("The proof of inclusion is too long")
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            place, last = _up_to_left_turn(place, last)
        else:
            found = node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise InvalidProof("The proof of inclusion is too short")
    if found != root:
        raise InvalidProof("The proof of inclusion leads to another root")


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Raise InvalidProof unless the tree of ``second`` leaves begins with all leaves of that of ``first``."""
    if not 0 <= first <= second <= LARGEST:
        raise InvalidProof(f"A tree of {second} leaves does not begin with one of {first}")
    _check_hashes([first_root, second_root, *proof])
    if first in (0, second):
        if proof:
            raise InvalidProof("The proof of consistency is too long")
        expected = EMPTY_ROOT if first == 0 else second_root
        if first_root != expected:
            raise InvalidProof(f"Two trees of {first} leaves have different roots")
        return
    _check_growth(first, first_root, second, second_root, proof)


def _check_growth(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> None:
    # A first tree that is perfect is a subtree of the second: its root is left out of the proof.
    hashes = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    older, newer = _grown(first, second, hashes)
    if older != first_root:
        raise InvalidProof("The proof of consistency leads to another root of the smaller tree")
    if newer != second_root:
        raise InvalidProof("The proof of consistency leads to another root of the larger tree")


def beginning(first: int, second: int, second_root: bytes, proof: Sequence[bytes]) -> bytes | None:
    """The root of the first leaves of a larger tree, which a proof of consistency shows, whatever it was made for.

    None when it does not say: it leads to another root of the larger tree, or ``first`` is a power of two, whose root
    is not part of such a proof.
    """
    if not 0 < first < second <= LARGEST or first & (first - 1) == 0:
        return None
    try:
        _check_hashes([second_root, *proof])
        older, newer = _grown(first, second, proof)
    except InvalidProof:
        return None
    return older if newer == second_root else None


def _grown(first: int, second: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of the smaller and of the larger tree, to which a proof of consistency leads."""
    if not hashes:
        raise InvalidProof("The proof of consistency is too short")
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    older = newer = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise InvalidProof("The proof of consistency is too long")
        if place & 1 or place == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            place, last = _up_to_left_turn(place, last)
        else:
            newer = node_hash(newer, sibling)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise InvalidProof("The proof of consistency is too short")
    return older, newer


def _up_to_left_turn(place: int, last: int) -> tuple[int, int]:
    """Past the levels in which the right edge of the tree has no sibling."""
    while not place & 1 and place:
        place, last = place >> 1, last >> 1
    return place, last


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise InvalidProof(f"A hash has {HASH_BYTES} bytes")
