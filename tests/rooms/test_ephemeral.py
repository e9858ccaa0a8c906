"""Receipts and typing: who is told what, on either side of the border, and who is left asleep."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.push import unread
from homeserver.rooms import ephemeral, state
from homeserver.storage import outbox
from homeserver.storage import rooms as stored_rooms
from homeserver.storage.nodes import Node
from homeserver.sync.filters import EventFilter
from tests.deployment import FLOWING, User
from tests.rooms.play import Cast, Play, told
from tests.support import aio

NO_RECEIPTS = FLOWING.replace('classes = ["*"]', 'classes = ["events", "keys"]')


class Reader:
    """One who asks again and again for what has changed."""

    def __init__(self, play: Play, user: User, *, part: EventFilter | None = None) -> None:
        self.play = play
        self.user = user
        self.part = part or EventFilter()
        self.since: int | None = None
        self.seen = 0

    async def news(self, room_id: str) -> list[Any]:
        caller = await self.user.caller()
        node = caller.node
        mine = await node.read(stored_rooms.memberships_of, caller.user_nid)
        upto, tick = node.position, ephemeral.now(node)
        found = await ephemeral.events(self.play.server, caller, mine, self.since, upto, self.seen, self.part)
        self.since, self.seen = upto, tick
        room = await state.get(node, room_id)
        assert set(found) <= {room.nid}
        return told(found.get(room.nid, []))


async def mark(play: Play, user: User, room_id: str, event_id: str, kind: str = "m.read", **body: Any) -> None:
    await play.ask(user, "POST", f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id)}", body)
    await play.settle()


def receipts(events: list[Any]) -> dict[tuple[str, str, str], Any]:
    """(event, kind, user) to the receipt."""
    return {
        (event_id, kind, user_id): receipt
        for event in events
        if event["type"] == "m.receipt"
        for event_id, kinds in event["content"].items()
        for kind, users in kinds.items()
        for user_id, receipt in users.items()
    }


@aio
async def test_a_receipt_reaches_both_sides_once(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    await play.settle()
    readers = [Reader(play, alice), Reader(play, bob)]
    for reader in readers:
        assert await reader.news(room_id) == []
    await mark(play, bob, room_id, event_id)
    now = play.server.clock.now_ms()
    for reader in readers:
        assert receipts(await reader.news(room_id)) == {(event_id, "m.read", bob.user_id): {"ts": now}}
        assert await reader.news(room_id) == []
    assert len(receipts(await Reader(play, alice).news(room_id))) == 1, "who comes anew is told all"


@aio
async def test_nothing_is_read_when_nothing_changed(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read tells all; without news there is none. Counted for this task alone: deliveries read at any time."""
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    caller = await alice.caller()
    mine = await caller.node.read(stored_rooms.memberships_of, caller.user_nid)
    position, tick = caller.node.position, ephemeral.now(caller.node)
    part, me, reads = EventFilter(), asyncio.current_task(), 0
    read = Node.read

    async def counted(node: Node, *args: Any, **kw: Any) -> Any:
        nonlocal reads
        reads += asyncio.current_task() is me
        return await read(node, *args, **kw)

    monkeypatch.setattr(Node, "read", counted)
    assert await ephemeral.events(play.server, caller, mine, position, position, tick, part) == {}
    assert reads == 0
    await mark(play, bob, room_id, await play.send(alice, room_id, "hello"))
    reads = 0
    assert await ephemeral.events(play.server, caller, mine, position, caller.node.position, tick, part)
    assert reads == 1


@aio
async def test_a_private_receipt_is_its_owners(play: Play) -> None:
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.room_of(alice, bob, dora)
    event_id = await play.send(alice, room_id, "hello")
    await play.settle()
    await mark(play, bob, room_id, event_id, "m.read.private")
    assert await Reader(play, alice).news(room_id) == []
    assert await Reader(play, dora).news(room_id) == []
    assert list(receipts(await Reader(play, bob).news(room_id))) == [(event_id, "m.read.private", bob.user_id)]


@pytest.mark.parametrize("kind", ["m.read", "m.read.private", "m.fully_read"])
@aio
async def test_nothing_moves_backwards(play: Play, kind: str) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    first, second = await play.send(alice, room_id, "1"), await play.send(alice, room_id, "2")
    await mark(play, alice, room_id, second, kind)
    position = play.node("tehran").position
    await mark(play, alice, room_id, first, kind)
    assert play.node("tehran").position == position
    if kind == "m.fully_read":
        path = f"/user/{quote(alice.user_id)}/rooms/{quote(room_id)}/account_data/m.fully_read"
        assert await play.ask(alice, "GET", path) == {"event_id": second}
        assert await Reader(play, alice).news(room_id) == []
    else:
        assert list(receipts(await Reader(play, alice).news(room_id))) == [(second, kind, alice.user_id)]


@aio
async def test_threads_are_read_apart(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    root = await play.send(alice, room_id, "root")
    reply = await play.send(alice, room_id, "reply", relates_to={"rel_type": "m.thread", "event_id": root})
    await play.settle()
    await mark(play, bob, room_id, reply, thread_id=root)
    await mark(play, bob, room_id, root, thread_id="main")
    await mark(play, bob, room_id, reply)
    news = await Reader(play, alice).news(room_id)
    found = [
        (event_id, receipt.get("thread_id"))
        for event in news
        for event_id, kinds in event["content"].items()
        for receipt in kinds["m.read"].values()
    ]
    assert sorted(found, key=str) == sorted([(reply, root), (root, "main"), (reply, None)], key=str)


@pytest.mark.parametrize("thread_id", ["", 7, None, "nothing", "$unknown"])
@aio
async def test_a_thread_that_is_none(play: Play, thread_id: object) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    event_id = await play.send(alice, room_id, "1")
    path = f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}"
    refused = await play.refused(alice, "POST", path, {"thread_id": thread_id})
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    refused = await play.refused(alice, "POST", path.replace("m.read", "m.fully_read"), {"thread_id": "main"})
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")


@aio
async def test_what_cannot_be_read(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id, other = await play.create(alice), await play.create(alice)
    event_id = await play.send(alice, room_id, "1")
    for path, body, errcode in (
        (f"/rooms/{quote(room_id)}/receipt/m.seen/{quote(event_id)}", {}, "M_INVALID_PARAM"),
        (f"/rooms/{quote(room_id)}/receipt/m.read/nothing", {}, "M_INVALID_PARAM"),
        (f"/rooms/{quote(other)}/receipt/m.read/{quote(event_id)}", {}, "M_NOT_FOUND"),
        (f"/rooms/{quote(room_id)}/read_markers", {"m.read": 7}, "M_BAD_JSON"),
        (f"/rooms/{quote(room_id)}/read_markers", {"m.read": "seven"}, "M_INVALID_PARAM"),
    ):
        assert (await play.refused(alice, "POST", path, body)).errcode == errcode
    path = f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}"
    assert (await play.refused(bob, "POST", path, {})).errcode == "M_FORBIDDEN"
    assert await Reader(play, alice).news(room_id) == []


@aio
async def test_markers_move_together(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    first, second = await play.send(alice, room_id, "1"), await play.send(alice, room_id, "2")
    body = {"m.fully_read": first, "m.read": second, "m.read.private": second}
    await play.ask(alice, "POST", f"/rooms/{quote(room_id)}/read_markers", body)
    found = receipts(await Reader(play, alice).news(room_id))
    assert set(found) == {(second, "m.read", alice.user_id), (second, "m.read.private", alice.user_id)}
    path = f"/user/{quote(alice.user_id)}/rooms/{quote(room_id)}/account_data/m.fully_read"
    assert await play.ask(alice, "GET", path) == {"event_id": first}
    assert await play.ask(alice, "POST", f"/rooms/{quote(room_id)}/read_markers", {}) == {}


@aio
async def test_reading_ends_what_was_unread(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    sent = [await play.send(alice, room_id, f"{number}") for number in range(3)]
    await play.settle()
    caller = await bob.caller()
    room = await state.get(caller.node, room_id)

    async def count() -> int:
        return (await unread.count(caller.node, room, caller.user_nid, bob.user_id, caller.node.position))[0]

    assert await count() == 3
    await mark(play, bob, room_id, sent[1])
    assert await count() == 1
    await mark(play, bob, room_id, sent[2], "m.read.private")
    assert await count() == 0


@aio
async def test_receipts_and_typing_stay_where_no_flow_is_named(cast: Cast) -> None:
    play = await cast(policy=NO_RECEIPTS)
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.room_of(alice, bob, dora)
    event_id = await play.send(alice, room_id, "hello")
    await play.settle()
    await play.end()
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})
    assert await play.node("paris").read(outbox.depth) == {}, "it does not even wait at the border"
    await play.begin()
    await play.settle()
    await play.ask(bob, "PUT", f"/rooms/{quote(room_id)}/typing/{quote(bob.user_id)}", {"typing": True})
    assert len(await Reader(play, dora).news(room_id)) == 2
    assert await Reader(play, alice).news(room_id) == []


@aio
async def test_a_receipt_waits_for_a_node_that_is_held_up(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    await play.settle()
    await play.end()
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})
    assert await Reader(play, alice).news(room_id) == []
    await play.begin()
    await play.settle()
    assert list(receipts(await Reader(play, alice).news(room_id))) == [(event_id, "m.read", bob.user_id)]


@aio
async def test_a_filter_holds(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await mark(play, alice, room_id, await play.send(alice, room_id, "1"))
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}", {"typing": True})
    only_typing = EventFilter(types=frozenset({"m.typing"}).__contains__)
    assert [event["type"] for event in await Reader(play, alice, part=only_typing).news(room_id)] == ["m.typing"]
    elsewhere = EventFilter(not_rooms=frozenset({room_id}))
    assert await Reader(play, alice, part=elsewhere).news(room_id) == []


# typing -------------------------------------------------------------------------------------


async def types(play: Play, user: User, room_id: str, **body: Any) -> None:
    await play.ask(user, "PUT", f"/rooms/{quote(room_id)}/typing/{quote(user.user_id)}", {"typing": True, **body})


def typists(events: list[Any]) -> list[list[str]]:
    return [event["content"]["user_ids"] for event in events if event["type"] == "m.typing"]


@aio
async def test_typing_begins_and_ends(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    readers = [Reader(play, alice), Reader(play, bob)]
    for reader in readers:
        assert await reader.news(room_id) == []
    await types(play, bob, room_id, timeout=20_000)
    for reader in readers:
        assert typists(await reader.news(room_id)) == [[bob.user_id]]
        assert await reader.news(room_id) == []
    await play.deployment.clock.advance(15)
    await types(play, bob, room_id, timeout=20_000)
    for reader in readers:
        assert await reader.news(room_id) == [], "a renewal is no news"
    await play.deployment.clock.advance(15)
    for reader in readers:
        assert await reader.news(room_id) == []
    await play.deployment.clock.advance(6)
    for reader in readers:
        assert typists(await reader.news(room_id)) == [[]]
    await types(play, alice, room_id)
    await types(play, bob, room_id)
    assert typists(await readers[1].news(room_id)) == [sorted([alice.user_id, bob.user_id])]
    await types(play, alice, room_id, typing=False)
    assert typists(await readers[0].news(room_id)) == [[bob.user_id]]
    await play.deployment.clock.advance(200)
    assert typists(await readers[0].news(room_id)) == [[]]
    assert typists(await Reader(play, alice).news(room_id)) == [], "who comes anew is not told that nobody types"


@aio
async def test_typing_wakes_the_residents_on_both_sides(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    keys = [("tehran", (await alice.caller()).user_nid), ("paris", (await bob.caller()).user_nid)]
    with play.server.wakeups.listen(keys) as listener:
        await types(play, alice, room_id)
        assert await listener.wait(0) == set(keys)
        await types(play, alice, room_id)
        assert await listener.wait(0) == set()


@aio
async def test_typing_is_for_oneself_where_one_is(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice)
    path = f"/rooms/{quote(room_id)}/typing/"
    for user, whose, body, errcode in (
        (alice, bob, {"typing": True}, "M_FORBIDDEN"),
        (bob, bob, {"typing": True}, "M_FORBIDDEN"),
        (alice, alice, {}, "M_MISSING_PARAM"),
        (alice, alice, {"typing": "yes"}, "M_BAD_JSON"),
        (alice, alice, {"typing": True, "timeout": -1}, "M_INVALID_PARAM"),
        (alice, alice, {"typing": True, "timeout": 1.5}, "M_BAD_JSON"),
    ):
        assert (await play.refused(user, "PUT", path + quote(whose.user_id), body)).errcode == errcode
    assert await Reader(play, alice).news(room_id) == []
