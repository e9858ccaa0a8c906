"""What waits at the same time is written together; and each of it still stands or falls alone."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.protocol.errors import InvalidParam, NodeUnavailable
from homeserver.storage import group_commit, streams
from homeserver.storage.engine import NestedTransaction, Transaction, UniqueViolation
from homeserver.storage.nodes import Node
from homeserver.storage.streams import Stream
from tests.deployment import Deploy, Deployment
from tests.support import Databases, aio

KEY = 7


async def note(tx: Transaction, node: Node, name: str, count: int = 1) -> range:
    """Leave a row, and take positions."""
    tx.later("INSERT INTO received_messages (message_key, ts) VALUES (?, 0)", [(name.encode(),)])
    first = streams.take(tx, node.position, count)
    last = first + count - 1
    tx.after_commit(lambda: node.announce(last, [(Stream.TO_DEVICE, [KEY])]))
    return range(first, last + 1)


async def refuse(tx: Transaction, node: Node, name: str) -> None:
    """Leave a row, and think better of it."""
    await note(tx, node, name)
    raise InvalidParam("No")


async def noted(node: Node) -> list[str]:
    async def look(tx: Transaction) -> list[str]:
        rows = await tx.all("SELECT message_key FROM received_messages ORDER BY message_key")
        return [row[0].decode() for row in rows]

    return await node.read(look)


@aio
async def test_one_commit_for_all_who_wait(deployment: Deployment) -> None:
    node = deployment.node("tehran")
    start, trips = node.position, node.engine.trips
    taken = await asyncio.gather(*(node.advance_together(note, node, name, len(name)) for name in ("a", "bbb", "cc")))
    assert node.engine.trips == trips + 1
    assert taken == [range(start + 1, start + 2), range(start + 2, start + 5), range(start + 5, start + 7)]
    assert node.position == await node.read(streams.current) == start + 6
    assert await noted(node) == ["a", "bbb", "cc"]


@aio
async def test_positions_asked_for_and_taken_in_one_transaction(deployment: Deployment) -> None:
    node = deployment.node("tehran")
    start = node.position

    async def ask(tx: Transaction) -> int:
        return await streams.allocate(tx, 2)

    taken = await asyncio.gather(
        node.advance_together(note, node, "a"), node.advance_together(ask), node.advance_together(note, node, "b")
    )
    assert list(taken) == [range(start + 1, start + 2), start + 2, range(start + 4, start + 5)]


@aio
async def test_there_is_a_limit_to_it(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MOST", 2)
    node = deployment.node("tehran")
    trips = node.engine.trips
    await asyncio.gather(*(node.advance_together(note, node, name) for name in "abcde"))
    assert node.engine.trips == trips + 3
    assert await noted(node) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("fault", [InvalidParam, UniqueViolation])
@aio
async def test_one_that_fails_takes_no_other_along(deployment: Deployment, fault: type[Exception]) -> None:
    node = deployment.node("tehran")
    await node.advance_together(note, node, "twice")
    blamed = refuse if fault is InvalidParam else note
    first, failed, last = await asyncio.gather(
        node.advance_together(note, node, "a"),
        node.advance_together(blamed, node, "twice" if blamed is note else "never"),
        node.advance_together(note, node, "b"),
        return_exceptions=True,
    )
    assert isinstance(failed, fault)
    assert isinstance(first, range)
    assert isinstance(last, range)
    assert last.start == first.stop == node.position
    assert await noted(node) == ["a", "b", "twice"]


@aio
async def test_the_same_twice_at_once(deployment: Deployment) -> None:
    node = deployment.node("tehran")
    both = await asyncio.gather(*(node.advance_together(note, node, "same") for _ in range(2)), return_exceptions=True)
    assert [type(each) for each in both] == [range, UniqueViolation]
    assert await noted(node) == ["same"]


@aio
async def test_one_that_is_cancelled_takes_no_other_along(deployment: Deployment) -> None:
    node = deployment.node("tehran")
    release = asyncio.Event()

    async def hold(tx: Transaction) -> None:
        await release.wait()

    holding = asyncio.ensure_future(node.write(hold))
    await asyncio.sleep(0)
    leading = asyncio.ensure_future(node.advance_together(note, node, "leading"))
    await asyncio.sleep(0)
    gone, stays = (asyncio.ensure_future(node.advance_together(note, node, name)) for name in ("gone", "stays"))
    await asyncio.sleep(0)
    leading.cancel()
    gone.cancel()
    release.set()
    assert await stays
    await holding
    assert leading.cancelled()
    assert gone.cancelled()
    assert await noted(node) == ["stays"]


@aio
async def test_a_node_that_is_down_is_so_for_all(deploy: Deploy, engines: Databases) -> None:
    await engines.make_breakable("tehran")
    deployment = await deploy()
    node = deployment.node("tehran")
    await engines.take_away("tehran")
    failed = await asyncio.gather(*(node.advance_together(note, node, name) for name in "ab"), return_exceptions=True)
    assert [type(each) for each in failed] == [NodeUnavailable, NodeUnavailable]


@aio
async def test_not_inside_another_transaction(deployment: Deployment) -> None:
    tehran, paris = deployment.node("tehran"), deployment.node("paris")

    async def nest(tx: Transaction) -> None:
        await paris.advance_together(note, paris, "nested")

    with pytest.raises(NestedTransaction):
        await tehran.write(nest)
    with pytest.raises(NestedTransaction):
        await tehran.advance_together(nest)
    assert await noted(paris) == []
