"""Taking positions without asking for them: right whatever was taken before, and never the same twice."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.storage import streams
from homeserver.storage.engine import ConstraintViolation, Transaction
from homeserver.storage.nodes import Node
from homeserver.storage.streams import Stream
from tests.deployment import Deployment
from tests.support import aio

KEY = 7


async def take(tx: Transaction, node: Node, count: int) -> range:
    first = streams.take(tx, node.position, count)
    last = first + count - 1
    tx.after_commit(lambda: node.announce(last, [(Stream.TO_DEVICE, [KEY])]))
    return range(first, last + 1)


async def take_unannounced(tx: Transaction) -> None:
    await streams.allocate(tx, 3)


@aio
async def test_positions_follow_each_other(deployment: Deployment) -> None:
    node = deployment.node("tehran")
    start = node.position
    taken = await asyncio.gather(*(node.advance(take, node, count) for count in (1, 5, 2)))
    assert sorted(pos for part in taken for pos in part) == list(range(start + 1, start + 9))
    assert node.position == await node.read(streams.current) == start + 8


@aio
async def test_positions_that_nobody_was_told_of_are_left_out(deployment: Deployment) -> None:
    node = deployment.node("tehran")
    before = node.position
    await node.advance(take_unannounced)
    assert node.position == before
    trips = node.engine.trips
    assert list(await node.advance(take, node, 2)) == [before + 4, before + 5]
    assert node.changes.changed(Stream.TO_DEVICE, KEY, before + 4)
    assert node.engine.trips > trips + 1
    trips = node.engine.trips
    assert list(await node.advance(take, node, 1)) == [before + 6]
    assert node.engine.trips == trips + 1


@aio
async def test_another_constraint_is_no_reason_to_try_again(deployment: Deployment) -> None:
    node = deployment.node("tehran")
    before = await node.read(streams.current)
    attempts = 0

    async def break_one(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        streams.take(tx, node.position, 1)
        await tx.run("INSERT INTO stream (id, position, history) VALUES (1, 1, 1)")

    with pytest.raises(ConstraintViolation):
        await node.advance(break_one)
    assert attempts == 1
    assert await node.read(streams.current) == before
