"""Events that are sent later are sent once: when another node orders the room, when their device is gone, and while
their sender is being moved."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.context import Server
from homeserver.protocol.errors import NodeUnavailable
from homeserver.residency.moves.rehoming import all_follow
from homeserver.rooms import delayed, say
from homeserver.rooms.transactions import Seen
from homeserver.runtime.doors import Doors
from homeserver.storage import client_transactions
from homeserver.storage import delayed_events as stored
from homeserver.storage.directory import Kind
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from tests.deployment import User
from tests.rooms.play import CLIENT, Cast, Play, cast, play
from tests.rooms.test_delayed_events import act, later, pass_time
from tests.rooms.test_outage import breakable, cut_off, reconnect
from tests.support import ON_SQLITE, Databases, aio

__all__ = ["cast", "play"]


async def log_out(user: User) -> None:
    """End the session of a device, which is gone then."""
    assert (await user.asks("POST", f"{CLIENT}/logout", {})).status == 200


@pytest.mark.parametrize("rehomed", [False, True])
@pytest.mark.parametrize("logged_out", ["never", "before", "after"])
@aio
async def test_once_wherever_the_room_is_ordered(
    cast: Cast, engines: Databases, monkeypatch: pytest.MonkeyPatch, logged_out: str, rehomed: bool
) -> None:
    """A kill after the room's home has ordered it, which is down when it is tried again."""
    play = await breakable(cast, engines)
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.room_of(alice, bob, dora)
    await play.settle()
    await play.end()  # nothing is replicated
    await later(bob, room_id, "once", 1000, "t")
    if logged_out == "before":
        await log_out(bob)
    real = stored.end

    async def killed(*_: object) -> None:
        raise NodeUnavailable("paris")

    monkeypatch.setattr(stored, "end", killed)
    assert await pass_time(play, 1, "paris") == delayed.RETRY
    assert await play.texts(alice, room_id) == ["once"]
    if logged_out == "after":
        await log_out(bob)
    monkeypatch.setattr(stored, "end", real)
    paris = play.node("paris")
    vars(paris.memory(Seen)).update(vars(Seen()))
    if rehomed:
        await all_follow(play.server, room_id, paris, ["tehran", "paris"])
        await play.server.nodes.directory.reroute_all([(Kind.ROOM, room_id)], "paris")
    await cut_off(play, engines, "tehran")
    assert await pass_time(play, 5, "paris") == delayed.RETRY
    assert await play.texts(dora, room_id) == []
    await reconnect(play, engines, "tehran")
    await play.begin()
    assert await pass_time(play, 5, "paris") is None
    await play.settle()
    assert await play.texts(alice, room_id) == await play.texts(dora, room_id) == ["once"]


async def _noted(tx: Transaction) -> int:
    return len(await tx.all("SELECT txn_key FROM client_transactions"))


@ON_SQLITE
@aio
async def test_nothing_is_kept_of_a_device_that_waits_for_nothing(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await play.send(bob, room_id, "at once")
    await later(bob, room_id, "later", 1000, "t")
    await pass_time(play, 1, "paris")
    await later(bob, room_id, "not yet", 1000, "u")
    node = play.node("paris")
    assert await node.read(_noted) == 2
    assert len(await node.read(client_transactions.asked)) == 2
    await log_out(bob)
    assert await node.read(_noted) == 0


@ON_SQLITE
@aio
async def test_none_is_sent_while_its_sender_is_being_moved(play: Play) -> None:
    alice = await play.user("alice")
    room_id, doors = await play.create(alice), play.server.nodes.directory.memory(Doors)
    await later(alice, room_id, "due", 1000, "t")
    early = await later(alice, room_id, "early", 100_000, "u")
    with doors.closed(alice.user_id):
        assert await pass_time(play, 1) == delayed.RETRY
        acting = asyncio.ensure_future(act(play, early, "send"))
        await play.settle()
        found = [await play.node("tehran").read(stored.find, early)]
        assert [each.action for each in found if each is not None] == [None]
        assert not acting.done()
    assert (await acting).status == 200
    assert await pass_time(play, 5) is None
    assert sorted(await play.texts(alice, room_id)) == ["due", "early"]


@ON_SQLITE
@aio
async def test_it_is_looked_for_again_after_a_move_meanwhile(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await play.user("alice")
    room_id, doors = await play.create(alice), play.server.nodes.directory.memory(Doors)
    delay_id = await later(alice, room_id, "once", 100_000, "t")
    real = delayed._place_of
    looked: list[str] = []

    async def moved_meanwhile(server: Server, wanted: str) -> tuple[Node, str]:
        looked.append(wanted)
        if len(looked) > 1:
            return await real(server, wanted)
        with doors.closed(alice.user_id):
            return play.node("paris"), alice.user_id  # where it was, and is no more

    monkeypatch.setattr(delayed, "_place_of", moved_meanwhile)
    assert (await act(play, delay_id, "cancel")).status == 200
    assert len(looked) == 2


@ON_SQLITE
@aio
async def test_who_moves_its_sender_waits_until_it_is_sent(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when whoever asked for it to be sent has gone away."""
    alice = await play.user("alice")
    room_id, doors = await play.create(alice), play.server.nodes.directory.memory(Doors)
    delay_id = await later(alice, room_id, "once", 100_000, "t")
    begun, go_on = asyncio.Event(), asyncio.Event()
    real = say.send

    async def slow(*args: Any, **more: Any) -> str:
        begun.set()
        await go_on.wait()
        return await real(*args, **more)

    monkeypatch.setattr(say, "send", slow)
    acting = asyncio.ensure_future(delayed.act(play.server, delay_id, "send"))
    await begun.wait()
    acting.cancel()
    await asyncio.wait([acting])
    with doors.closed(alice.user_id):
        empty = asyncio.ensure_future(doors.empty(alice.user_id))
        await asyncio.wait([empty], timeout=0)
        assert not empty.done()
        go_on.set()
        await empty
    assert await play.texts(alice, room_id) == ["once"]
