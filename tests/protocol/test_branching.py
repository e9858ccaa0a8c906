"""Two heads of a log against its tree: every fork is seen, whatever the sizes, and no honest log is accused."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest

from homeserver.protocol import branching, merkle
from homeserver.protocol.branching import Fork, Untold
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.merkle import Frontier, Subtree, leaf_hash
from homeserver.protocol.witnessing import MOST_HASHES

MOST = 40
SIZES = range(1, MOST + 1)


class Tree:
    """A log whose leaves are others from ``fork`` on."""

    def __init__(self, fork: int) -> None:
        tree = Frontier()
        self.heads = [Head(0, tree.root())]
        self.roots: dict[Subtree, bytes] = {}
        for number in range(MOST):
            tree, whole = tree.append(leaf_hash(f"{number} {number >= fork}".encode()))
            self.roots |= dict(whole)
            self.heads.append(Head(tree.size, tree.root()))


@cache
def forked(at: int) -> Tree:
    """The log as it is after it was forked behind so many leaves."""
    return Tree(at)


TRUE = Tree(MOST)


def compared(old: Head, new: Head, tree: Tree) -> Fork | None:
    """What the tree says, which is asked for no more than is needed."""
    return branching.compare(old, new, {part: tree.roots[part] for part in branching.parts(old, new)})


@pytest.mark.parametrize("old", SIZES)
def test_every_fork_is_seen(old: int) -> None:
    for new in SIZES:
        for at in range(min(old, new)):
            fork = forked(at)
            # Whoever shows the larger of both shows it all.
            tree, smaller, larger = (
                (TRUE, fork.heads[new], TRUE.heads[old]) if new < old else (fork, TRUE.heads[old], fork.heads[new])
            )
            found = compared(TRUE.heads[old], fork.heads[new], tree)
            assert found is not None
            assert found.other == tree.heads[smaller.size].root != smaller.root
            merkle.check_consistency(smaller.size, found.other, *larger, found.proof)
            assert len(found.proof) <= MOST_HASHES


def test_no_honest_log_is_accused() -> None:
    for old, new in product(range(MOST + 1), repeat=2):
        assert compared(TRUE.heads[old], TRUE.heads[new], TRUE) is None


def test_hashes_of_something_else_accuse_nobody() -> None:
    """Neither noise nor the tree of another history."""
    for old, new in product(SIZES, repeat=2):
        parts = branching.parts(TRUE.heads[old], TRUE.heads[new])
        for wrong in parts:
            roots = {part: TRUE.roots[part] if part != wrong else bytes(32) for part in parts}
            with pytest.raises(Untold):
                branching.compare(TRUE.heads[old], TRUE.heads[new], roots)
        smaller = min(old, new)
        if old != new:
            with pytest.raises(Untold):
                compared(TRUE.heads[old], TRUE.heads[new], forked(smaller - 1))


def test_few_hashes_are_enough() -> None:
    one, two = Head(2**62 - 1, bytes(32)), Head(2**63 - 1, bytes(32))
    assert len(branching.parts(one, two)) < 2 * MOST_HASHES
    assert branching.parts(one, one) == branching.parts(Head(0, merkle.EMPTY_ROOT), two) == set()
