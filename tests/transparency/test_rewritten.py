"""Somebody with the database of a node, and even its keys, changes what its log has said: whoever looks can tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from homeserver.control import commands
from homeserver.protocol import merkle
from homeserver.protocol.key_log import Leaf
from homeserver.storage import key_log
from homeserver.storage.engine import Transaction
from homeserver.transparency import heads, sequencing
from homeserver.transparency.heads import KeyLog
from tests.deployment import Deploy, Deployment
from tests.support import ON_SQLITE, aio
from tests.transparency.stranger import Stranger
from tests.transparency.test_key_log import ORIGIN, caught_up, device

Change = Callable[[Transaction], Awaitable[None]]


async def written(deployment: Deployment) -> Stranger:
    """A log with three leaves."""
    for name in ("alice", "bob", "carol"):
        await device(deployment, name)
    await caught_up(deployment)
    return Stranger(deployment)


async def removed(tx: Transaction) -> None:
    """The middle leaf is taken out, and those behind it close up."""
    await tx.run("DELETE FROM key_log_leaves WHERE leaf_index = 1")
    await tx.run("UPDATE key_log_leaves SET leaf_index = 1 WHERE leaf_index = 2")


async def reordered(tx: Transaction) -> None:
    """Two leaves change places."""
    for before, after in ((0, 99), (1, 0), (99, 1)):
        await tx.run("UPDATE key_log_leaves SET leaf_index = ? WHERE leaf_index = ?", after, before)


async def back_dated(tx: Transaction) -> None:
    """The last leaf says an earlier time."""
    last = Leaf.read((await key_log.leaves(tx, 2, 3))[0])
    await tx.run("UPDATE key_log_leaves SET leaf = ? WHERE leaf_index = 2", replace(last, time=5).write())


@pytest.mark.parametrize("change", [removed, reordered, back_dated])
@ON_SQLITE
@aio
async def test_leaves_that_were_changed_are_not_those_that_were_signed(deployment: Deployment, change: Change) -> None:
    stranger = await written(deployment)
    assert len(await stranger.leaves()) == 3
    await deployment.node("tehran").write(change)
    with pytest.raises(AssertionError):
        await stranger.leaves()


@pytest.mark.parametrize("change", [reordered, back_dated])
@ON_SQLITE
@aio
async def test_a_history_that_was_signed_anew_is_not_served(deploy: Deploy, change: Change) -> None:
    """With all keys and tables of the node, but not those of the directory; and who has an earlier checkpoint sees it
    in any case."""
    deployment = await deploy()
    stranger = await written(deployment)
    before = await stranger.checkpoint()
    node = deployment.node("tehran")

    async def rewrite(tx: Transaction) -> bytes:
        await change(tx)
        await tx.run("UPDATE key_log SET hashed = 0, checkpoint = NULL")
        await tx.run("DELETE FROM key_log_tiles")
        note = await sequencing._hash_some(tx, deployment.server, node, ORIGIN)
        assert note is not None
        return note

    forged = heads.read(await node.write(rewrite))
    assert forged.head.size == before.head.size
    assert forged.head.root != before.head.root
    again = await deploy()
    await caught_up(again)
    assert (await Stranger(again).raw("checkpoint"))[0] == 503
    assert again.node("tehran").memory(KeyLog).fault == "the first 3 leaves are not those that were shown"
    entries = await node.read(key_log.leaves, 0, 3)
    tree = merkle.Frontier()
    for entry in entries:
        tree, _ = tree.append(merkle.leaf_hash(entry))
    with pytest.raises(merkle.InvalidProof):
        merkle.check_consistency(3, before.head.root, 3, tree.root(), [])


@ON_SQLITE
@aio
async def test_a_leaf_that_goes_before_it_is_in_the_tree_stops_the_log(deployment: Deployment) -> None:
    await written(deployment)
    await device(deployment, "dora")
    await deployment.node("tehran").write(_lose_last)
    with pytest.raises(sequencing.Damaged, match="leaves of the key log of tehran are missing between 3 and 4"):
        await caught_up(deployment)
    assert (await Stranger(deployment).checkpoint()).head.size == 3
    told = (await commands.perform(deployment.server, "log-status", {}))["logs"][0]
    assert (told["size"], told["fault"]) == (3, "leaves of the key log of tehran are missing between 3 and 4")


async def _lose_last(tx: Transaction) -> None:
    await tx.run("DELETE FROM key_log_leaves WHERE leaf_index = 3")
