"""Holding two heads that a log has signed against its tree: whether the larger goes on from the smaller, or both cannot
be true.

Nothing is believed of whoever shows the tree: its hashes lead to the root that the log has signed, or they say nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol import merkle
from homeserver.protocol.merkle import InvalidProof

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.protocol.checkpoints import Head
    from homeserver.protocol.merkle import Subtree


class Fork(NamedTuple):
    """What shows that two heads cannot both be true. ``other``: the root of the first leaves of the larger one, as many
    as the smaller has (its own, where both are as large); ``proof``: the proof of consistency between those two."""

    other: bytes
    proof: tuple[bytes, ...]


class Untold(Exception):
    """The log does not tell what is asked of it; says why."""


def parts(one: Head, two: Head) -> set[Subtree]:
    """The subtrees whose roots tell how two heads stand to each other."""
    smaller, larger = in_order(one, two)
    if smaller.size in (0, larger.size):
        return set()
    grown = merkle.consistency_parts(smaller.size, larger.size)
    return {*merkle.frontier_parts(smaller.size), *(part for group in grown for part in group)}


def compare(one: Head, two: Head, roots: Mapping[Subtree, bytes]) -> Fork | None:
    """Why two heads cannot both be true, or None when one goes on from the other. ``roots``: those of `parts`.

    Raises Untold when these are not of the tree of the larger head.
    """
    smaller, larger = in_order(one, two)
    if smaller.size == 0:
        return None
    if smaller.size == larger.size:
        return None if smaller.root == larger.root else Fork(larger.root, ())
    other = merkle.folded([roots[part] for part in merkle.frontier_parts(smaller.size)])
    proof = merkle.assembled(merkle.consistency_parts(smaller.size, larger.size), roots)
    try:
        merkle.check_consistency(smaller.size, other, *larger, proof)
    except InvalidProof:
        raise Untold(f"the hashes are not those of the {larger.size} leaves that were signed") from None
    return None if other == smaller.root else Fork(other, tuple(proof))


def in_order(one: Head, two: Head) -> tuple[Head, Head]:
    """The smaller and the larger head; as they come, where they are as large."""
    return (two, one) if two.size < one.size else (one, two)
