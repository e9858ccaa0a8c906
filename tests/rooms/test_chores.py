"""What accounts ask of rooms: changed profiles are shown, closed accounts leave; once, whatever happens in between."""

from __future__ import annotations

import asyncio
from functools import partial
from urllib.parse import quote

import pytest

from homeserver.accounts import deactivation
from homeserver.accounts.deactivation import DEACTIVATED
from homeserver.accounts.profile import CHANGED
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms import chores, nearby
from homeserver.storage import chores as stored
from homeserver.storage.engine import Transaction
from tests.deployment import User
from tests.rooms.play import Cast, Play
from tests.support import Databases, aio


async def rename(play: Play, user: User, name: str) -> None:
    await play.ask(user, "PUT", f"/profile/{quote(user.user_id)}/displayname", {"displayname": name})


async def names(play: Play, reader: User, room_id: str, user: User) -> list[str | None]:
    """The display names that a user's member events had, oldest first."""
    return [
        event["content"].get("displayname")
        for event in await play.timeline(reader, room_id)
        if event.get("state_key") == user.user_id and event["content"]["membership"] == "join"
    ]


async def waiting(play: Play, node: str, kind: str) -> int:
    return len(await play.node(node).read(stored.waiting, kind, 100))


@aio
async def test_a_new_name_reaches_the_rooms_that_lack_it(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    old = await play.room_of(alice, bob)
    await rename(play, bob, "Bob")
    fresh = await play.room_of(alice, bob)
    left = await play.room_of(alice, bob)
    await play.change(bob, left, "leave")
    await chores.spread_profiles(play.server)
    await play.assert_equal(old)
    await play.settle()
    assert await names(play, alice, old, bob) == [None, "Bob"]
    assert await names(play, alice, fresh, bob) == ["Bob"]
    assert await names(play, alice, left, bob) == ["Bob"]
    assert await waiting(play, "paris", CHANGED) == 0
    await chores.spread_profiles(play.server)
    assert await names(play, alice, old, bob) == [None, "Bob"]


@aio
async def test_many_changes_are_said_once(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    for number in range(5):
        await rename(play, alice, f"Alice {number}")
    assert await waiting(play, "tehran", CHANGED) == 5
    await chores.spread_profiles(play.server)
    assert await names(play, alice, room_id, alice) == [None, "Alice 4"]
    assert await waiting(play, "tehran", CHANGED) == 0


@aio
async def test_a_name_that_was_taken_away(play: Play) -> None:
    alice = await play.user("alice")
    await rename(play, alice, "Alice")
    room_id = await play.create(alice)
    await rename(play, alice, "")
    await chores.spread_profiles(play.server)
    assert await names(play, alice, room_id, alice) == ["Alice", None]


@aio
async def test_what_was_cut_off_is_taken_up(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    rooms = [await play.create(alice) for _ in range(4)]
    other = await play.create(bob)
    await rename(play, alice, "Alice")
    await rename(play, bob, "Bob")
    asked = 0
    nearest = nearby.nearest

    async def fails_third(*args: object) -> object:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise NodeUnavailable("tehran")
        return await nearest(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(nearby, "nearest", fails_third)
    with pytest.raises(NodeUnavailable):
        await chores.spread_profiles(play.server)
    assert await waiting(play, "tehran", CHANGED) == 1, "what could be done was done"
    assert await names(play, bob, other, bob) == [None, "Bob"]
    await chores.spread_profiles(play.server)
    for room_id in rooms:
        assert await names(play, alice, room_id, alice) == [None, "Alice"]
    assert await waiting(play, "tehran", CHANGED) == 0


@aio
async def test_a_closed_account_leaves_everywhere(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    joined = await play.room_of(alice, bob)
    own = await play.room_of(bob, alice)
    invited = await play.create(alice, invite=[bob.user_id])
    banned = await play.room_of(alice, bob)
    await play.change(alice, banned, "ban", user_id=bob.user_id)
    await play.settle()
    await deactivation.deactivate(play.server, bob.user_id)
    assert await waiting(play, "paris", DEACTIVATED) == 1
    await chores.leave_rooms(play.server)
    await play.settle()
    expected = {joined: "leave", own: "leave", invited: "leave", banned: "ban"}
    for room_id, value in expected.items():
        assert (await play.replica("tehran", room_id)).now.membership(bob.user_id) == value
    assert await waiting(play, "paris", DEACTIVATED) == 0
    count = len(await play.timeline(alice, joined))
    await chores.leave_rooms(play.server)
    assert len(await play.timeline(alice, joined)) == count


@aio
async def test_a_node_that_is_away_keeps_no_other_from_its_chores(cast: Cast, engines: Databases) -> None:
    await engines.make_breakable("tehran")
    play = await cast()
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    hers, his = await play.create(alice), await play.create(bob)
    await rename(play, alice, "Alice")
    await rename(play, bob, "Bob")
    await engines.take_away("tehran")
    await play.node("tehran").engine.probe()
    with pytest.raises(NodeUnavailable):
        await chores.spread_profiles(play.server)
    assert await names(play, bob, his, bob) == [None, "Bob"]
    await engines.bring_back("tehran")
    await play.node("tehran").engine.probe()
    await chores.spread_profiles(play.server)
    assert await names(play, alice, hers, alice) == [None, "Alice"]


@aio
async def test_more_than_are_read_together(play: Play) -> None:
    alice = await play.user("alice")
    caller = await alice.caller()
    room_id = await play.create(alice)
    await rename(play, alice, "Alice")

    async def ask(tx: Transaction) -> None:
        for _ in range(2 * chores.AT_ONCE):
            stored.ask(tx, CHANGED, caller.user_nid)

    await caller.node.write(ask)
    await chores.spread_profiles(play.server)
    assert await caller.node.read(stored.waiting, CHANGED, 10) == []
    assert await names(play, alice, room_id, alice) == [None, "Alice"]


@aio
async def test_asking_pokes_the_job(play: Play) -> None:
    alice = await play.user("alice")
    ran: asyncio.Queue[str] = asyncio.Queue()
    for name, _ in chores.JOBS.values():
        play.server.jobs.add(name, partial(ran.put, name))
    play.server.jobs.start()
    poking = asyncio.create_task(chores.poke(play.server))
    try:
        names = {name for name, _ in chores.JOBS.values()}
        assert {await ran.get() for _ in names} == names, "what was left by an earlier run"
        await rename(play, alice, "Alice")
        assert await ran.get() == "spread profiles"
        await deactivation.deactivate(play.server, alice.user_id)
        assert await ran.get() == "leave rooms"
    finally:
        poking.cancel()
        await play.server.jobs.stop()
