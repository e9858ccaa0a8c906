"""The Merkle tree of a log: known roots, every proof of small trees, and no forged bit that passes.

The eight leaves and their roots are those that implementations of RFC 6962 compare themselves by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import ParamSpec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol.merkle import (
    EMPTY_ROOT,
    LARGEST,
    Frontier,
    InvalidProof,
    Subtree,
    assembled,
    check_consistency,
    check_inclusion,
    consistency_parts,
    folded,
    frontier_parts,
    inclusion_parts,
    leaf_hash,
    node_hash,
)

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

P = ParamSpec("P")

TREE = 33
"""Leaves of the tree of which all proofs are tried."""


def plain_root(hashes: list[bytes]) -> bytes:
    """The root, word for word as RFC 6962 defines it."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    half = 1
    while half * 2 < len(hashes):
        half *= 2
    return sha256(b"\x01" + plain_root(hashes[:half]) + plain_root(hashes[half:])).digest()


def grown(size: int) -> tuple[list[Frontier], dict[Subtree, bytes], list[bytes]]:
    """A tree as of each of its sizes, all its whole subtrees, and the hashes of its leaves."""
    hashes = [leaf_hash(index.to_bytes(4, "big")) for index in range(size)]
    known: dict[Subtree, bytes] = {}
    trees = [Frontier()]
    for hashed in hashes:
        tree, whole = trees[-1].append(hashed)
        trees.append(tree)
        known.update(whole)
    return trees, known, hashes


TREES, KNOWN, HASHES = grown(TREE)
TREE_ROOTS = [tree.root() for tree in TREES]


def refused(check: Callable[P, None], *args: P.args, **kw: P.kwargs) -> bool:
    """Whether what is shown does not prove it."""
    try:
        check(*args, **kw)
    except InvalidProof:
        return True
    return False


def test_the_roots_of_known_leaves() -> None:
    tree = Frontier()
    assert tree.root().hex() == ROOTS[0]
    for leaf, root in zip(LEAVES, ROOTS[1:], strict=True):
        tree, _ = tree.append(leaf_hash(leaf))
        assert tree.root().hex() == root


def test_known_proofs() -> None:
    """The path of the sixth of eight leaves, and from six leaves to eight: made of subtrees by the RFC's definition."""
    hashed = [leaf_hash(leaf) for leaf in LEAVES]
    parts = inclusion_parts(5, 8)
    assert parts == [[Subtree(0, 4)], [Subtree(1, 3)], [Subtree(2, 0)]]
    left = bytes.fromhex(ROOTS[4])
    sixes = node_hash(hashed[6], hashed[7])
    check_inclusion(5, 8, hashed[5], [hashed[4], sixes, left], bytes.fromhex(ROOTS[8]))
    fours = node_hash(hashed[4], hashed[5])
    assert consistency_parts(6, 8) == [[Subtree(1, 2)], [Subtree(1, 3)], [Subtree(2, 0)]]
    check_consistency(6, bytes.fromhex(ROOTS[6]), 8, bytes.fromhex(ROOTS[8]), [fours, sixes, left])


@given(st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_a_tree_is_what_it_is_by_definition(size: int) -> None:
    trees, known, hashes = grown(size)
    assert trees[-1].root() == plain_root(hashes)
    parts = frontier_parts(size)
    assert tuple(known[part] for part in parts) == trees[-1].roots
    assert folded([known[part] for part in parts]) == trees[-1].root()
    for part in known:
        span = hashes[part.place << part.level : (part.place + 1) << part.level]
        assert known[part] == plain_root(span)


def test_every_leaf_of_every_tree_is_proved() -> None:
    for size in range(1, TREE + 1):
        for index in range(size):
            proof = assembled(inclusion_parts(index, size), KNOWN)
            check_inclusion(index, size, HASHES[index], proof, TREE_ROOTS[size])
            for other in range(size):
                if other != index:
                    assert refused(check_inclusion, other, size, HASHES[index], proof, TREE_ROOTS[size])


def test_every_growth_of_every_tree_is_proved() -> None:
    for second in range(TREE + 1):
        for first in range(second + 1):
            proof = assembled(consistency_parts(first, second), KNOWN)
            check_consistency(first, TREE_ROOTS[first], second, TREE_ROOTS[second], proof)


def flips(raw: bytes) -> list[bytes]:
    """All that differ from this in one bit."""
    return [
        raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :] for bit in range(len(raw) * 8)
    ]


def flipped(proof: list[bytes]) -> Iterator[list[bytes]]:
    """All proofs that differ from this in one bit."""
    for place, step in enumerate(proof):
        for forged in flips(step):
            yield [*proof[:place], forged, *proof[place + 1 :]]


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 2), (2, 3), (4, 7), (5, 8), (6, 7), (20, 21), (13, 33)])
def test_no_single_bit_of_inclusion_can_be_forged(index: int, size: int) -> None:
    proof = assembled(inclusion_parts(index, size), KNOWN)
    root, hashed = TREE_ROOTS[size], HASHES[index]
    assert not refused(check_inclusion, index, size, hashed, proof, root)
    assert all(refused(check_inclusion, index, size, forged, proof, root) for forged in flips(hashed))
    assert all(refused(check_inclusion, index, size, hashed, proof, forged) for forged in flips(root))
    assert all(refused(check_inclusion, index, size, hashed, forged, root) for forged in flipped(proof))
    assert all(refused(check_inclusion, index ^ 1 << bit, size, hashed, proof, root) for bit in range(64))


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 3), (3, 7), (4, 7), (6, 8), (7, 8), (8, 33), (21, 33)])
def test_no_single_bit_of_consistency_can_be_forged(first: int, second: int) -> None:
    proof = assembled(consistency_parts(first, second), KNOWN)
    older, newer = TREE_ROOTS[first], TREE_ROOTS[second]
    assert not refused(check_consistency, first, older, second, newer, proof)
    assert all(refused(check_consistency, first, forged, second, newer, proof) for forged in flips(older))
    assert all(refused(check_consistency, first, older, second, forged, proof) for forged in flips(newer))
    assert all(refused(check_consistency, first, older, second, newer, forged) for forged in flipped(proof))
    others = [size for size in range(TREE + 1) if size != first]
    assert all(refused(check_consistency, size, older, second, newer, proof) for size in others)


def test_proofs_are_no_longer_and_no_shorter() -> None:
    for index, size in [(0, 1), (4, 7), (5, 8), (32, 33)]:
        proof = assembled(inclusion_parts(index, size), KNOWN)
        root = TREE_ROOTS[size]
        for other in [[*proof, root], [root, *proof], *([proof[:-1], proof[1:]] if proof else [])]:
            assert refused(check_inclusion, index, size, HASHES[index], other, root)
    for first, second in [(0, 5), (5, 5), (4, 8), (3, 7), (8, 33)]:
        proof = assembled(consistency_parts(first, second), KNOWN)
        older, newer = TREE_ROOTS[first], TREE_ROOTS[second]
        for other in [[*proof, newer], [newer, *proof], *([proof[:-1], proof[1:], []] if proof else [])]:
            assert refused(check_consistency, first, older, second, newer, other)


def test_a_history_that_was_changed_shows() -> None:
    """A leaf removed, two exchanged, one written anew: none is consistent with what was there before."""
    leaves = HASHES[:20]
    for other in (
        [*leaves[:7], *leaves[8:]],
        [*leaves[:7], leaves[8], leaves[7], *leaves[9:]],
        [*leaves[:7], leaf_hash(b"other"), *leaves[8:]],
    ):
        tree = Frontier()
        known: dict[Subtree, bytes] = {}
        for hashed in other:
            tree, whole = tree.append(hashed)
            known.update(whole)
        proof = assembled(consistency_parts(12, tree.size), known)
        assert refused(check_consistency, 12, TREE_ROOTS[12], tree.size, tree.root(), proof)


def test_trees_of_one_size_have_one_root() -> None:
    with pytest.raises(InvalidProof, match="Two trees of 5 leaves have different roots"):
        check_consistency(5, TREE_ROOTS[4], 5, TREE_ROOTS[5], [])
    with pytest.raises(InvalidProof, match="Two trees of 0 leaves"):
        check_consistency(0, TREE_ROOTS[1], 5, TREE_ROOTS[5], [])
    check_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])


@given(st.integers(1, LARGEST), st.data())
@settings(max_examples=60, deadline=None)
def test_proofs_of_huge_trees_stay_short(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    for parts in (inclusion_parts(index, size), consistency_parts(index, size)):
        assert len(parts) <= 64
        assert sum(map(len, parts)) <= 64 * 2
        assert all((part.place + 1) << part.level <= size for group in parts for part in group)


def test_what_is_no_tree() -> None:
    for index, size in [(0, 0), (3, 3), (-1, 3), (0, LARGEST + 1)]:
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_parts(index, size)
        with pytest.raises(InvalidProof, match="no leaf"):
            check_inclusion(index, size, EMPTY_ROOT, [], EMPTY_ROOT)
    for first, second in [(4, 3), (-1, 3)]:
        with pytest.raises(ValueError, match="does not begin"):
            consistency_parts(first, second)
        with pytest.raises(InvalidProof, match="does not begin"):
            check_consistency(first, EMPTY_ROOT, second, EMPTY_ROOT, [])
    with pytest.raises(InvalidProof, match="32 bytes"):
        check_inclusion(0, 1, b"short", [], b"short")
    with pytest.raises(ValueError, match="perfect subtrees"):
        Frontier(3, (EMPTY_ROOT,))
