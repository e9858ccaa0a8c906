"""What clients used before there was `/sync` tells the same as it does."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms.state import arrivals
from tests.deployment import User
from tests.rooms.play import CLIENT, Play, cast, play, text_of
from tests.support import aio

__all__ = ["cast", "play"]


async def events(play: Play, user: User, since: str | None = None, **more: str) -> dict[str, Any]:
    return await play.ask(user, "GET", "/events", **({} if since is None else {"from": since}), **more)


def texts(chunk: list[dict[str, Any]]) -> list[str]:
    return [text_of(event) for event in chunk if event["type"] == "m.room.encrypted"]


async def asks_and_waits(
    play: Play, key: tuple[Any, ...], user: User, since: str, **more: str
) -> asyncio.Task[dict[str, Any]]:
    """A request for events, which waits for the key to be woken."""
    asked = asyncio.create_task(events(play, user, since, **more))
    while not any(each._future for each in play.server.wakeups.listeners.get(key, ())):  # noqa: ASYNC110
        await asyncio.sleep(0)
    return asked


@aio
async def test_the_stream_goes_on_where_it_ended(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    rooms = [await play.room_of(alice, bob) for _ in range(2)]
    begin = await events(play, bob)
    assert begin["chunk"] == []
    for number in range(4):
        await play.send(alice, rooms[number % 2], str(number))
    await play.settle()
    found = await events(play, bob, begin["end"])
    assert (texts(found["chunk"]), found["start"]) == (["0", "1", "2", "3"], begin["end"])
    assert [event["room_id"] for event in found["chunk"]] == [rooms[0], rooms[1]] * 2
    assert (await events(play, bob, found["end"]))["chunk"] == []


@aio
async def test_the_stream_waits(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    since = (await events(play, bob))["end"]
    caller = await bob.caller()
    waiting = await asks_and_waits(play, (caller.node.name, caller.user_nid), bob, since, timeout="30000")
    await play.send(alice, room_id, "now")
    assert texts((await waiting)["chunk"]) == ["now"]


@aio
async def test_a_long_stretch_comes_in_parts(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.sync.legacy.AT_ONCE", 3)
    alice = await play.user("alice")
    rooms = [await play.room_of(alice) for _ in range(2)]
    since = (await events(play, alice))["end"]
    sent = []
    for number in range(10):
        sent.append(str(number))
        await play.send(alice, rooms[0 if number < 7 else 1], str(number))
    seen: list[str] = []
    for _ in range(5):
        found = await events(play, alice, since)
        assert len(found["chunk"]) <= 3
        seen += texts(found["chunk"])
        since = found["end"]
    assert seen == sent


@aio
async def test_leaving_ends_the_stream_of_a_room(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    since = (await events(play, bob))["end"]
    await play.send(alice, room_id, "before")
    await play.change(alice, room_id, "kick", user_id=bob.user_id)
    await play.send(alice, room_id, "after")
    found = await events(play, bob, since)
    assert texts(found["chunk"]) == ["before"]
    assert found["chunk"][-1]["content"]["membership"] == "leave"


@aio
async def test_peeking_at_one_room(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice)
    refused = await bob.asks("GET", CLIENT + "/events", room_id=room_id)
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    path = f"/rooms/{quote(room_id)}/state/m.room.history_visibility"
    await play.ask(alice, "PUT", path, {"history_visibility": "world_readable"})
    since = (await events(play, bob, room_id=room_id))["end"]
    key = arrivals(play.node("tehran"), await play.replica("tehran", room_id))
    waiting = await asks_and_waits(play, key, bob, since, room_id=room_id, timeout="30000")
    await play.send(alice, room_id, "in the open")
    found = await waiting
    assert (texts(found["chunk"]), found["chunk"][0]["room_id"]) == (["in the open"], room_id)


@aio
async def test_a_snapshot(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    joined = await play.room_of(alice, bob)
    left = await play.room_of(alice, bob)
    invited = await play.create(alice, invite=[bob.user_id])
    for number in range(3):
        await play.send(alice, joined, str(number))
    await play.change(bob, left, "leave")
    await play.ask(bob, "PUT", f"/user/{quote(bob.user_id)}/account_data/org.example", {"a": 1})
    await play.ask(bob, "PUT", f"/user/{quote(bob.user_id)}/rooms/{quote(joined)}/tags/u.work", {})
    await play.settle()
    found = await play.ask(bob, "GET", "/initialSync", limit="2")
    rooms = {room["room_id"]: room for room in found["rooms"]}
    assert {room_id: room["membership"] for room_id, room in rooms.items()} == {joined: "join", invited: "invite"}
    assert texts(rooms[joined]["messages"]["chunk"]) == ["1", "2"]
    earlier = await play.ask(
        bob,
        "GET",
        f"/rooms/{quote(joined)}/messages",
        **{"dir": "b", "limit": "1", "from": rooms[joined]["messages"]["start"]},
    )
    assert texts(earlier["chunk"]) == ["0"]
    members = [event["state_key"] for event in rooms[joined]["state"] if event["type"] == "m.room.member"]
    assert sorted(members) == [alice.user_id, bob.user_id]
    assert rooms[joined]["visibility"] == "private"
    assert [entry["type"] for entry in rooms[joined]["account_data"]] == ["m.tag"]
    assert rooms[invited]["invite"]["state_key"] == bob.user_id
    assert "org.example" in [entry["type"] for entry in found["account_data"]]
    archived = await play.ask(bob, "GET", "/initialSync", archived="true")
    assert {room["room_id"]: room["membership"] for room in archived["rooms"]}[left] == "leave"
    await play.send(alice, joined, "next")
    await play.settle()
    assert texts((await events(play, bob, found["end"]))["chunk"]) == ["next"]


@aio
async def test_a_snapshot_of_one_room(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol")
    room_id = await play.create(alice, invite=[bob.user_id, carol.user_id], visibility="public")
    await play.change(bob, room_id, "join")
    await play.send(alice, room_id, "seen")
    await play.change(bob, room_id, "leave")
    await play.send(alice, room_id, "not seen")
    path = f"/rooms/{quote(room_id)}/initialSync"
    mine = await play.ask(alice, "GET", path)
    assert (mine["membership"], mine["visibility"]) == ("join", "public")
    assert texts(mine["messages"]["chunk"]) == ["seen", "not seen"]
    his = await play.ask(bob, "GET", path)
    assert (his["membership"], texts(his["messages"]["chunk"])) == ("leave", ["seen"])
    for user in (carol, await play.user("dave")):
        assert (await user.asks("GET", CLIENT + path)).errcode == "M_FORBIDDEN"


@aio
async def test_one_event_by_its_id(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice)
    event_id = await play.send(alice, room_id, "text")
    found = await play.ask(alice, "GET", f"/events/{quote(event_id)}")
    assert (text_of(found), found["room_id"]) == ("text", room_id)
    for user, asked in ((bob, event_id), (alice, "$nothing")):
        assert (await user.asks("GET", CLIENT + f"/events/{quote(asked)}")).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/events", {"from": "nonsense"}),
        ("/events", {"timeout": "x"}),
        ("/events", {"timeout": "-1"}),
        ("/initialSync", {"limit": "x"}),
        ("/initialSync", {"archived": "perhaps"}),
    ],
)
@aio
async def test_what_cannot_be_asked(play: Play, path: str, query: dict[str, str]) -> None:
    alice = await play.user("alice")
    answer = await alice.asks("GET", CLIENT + path, **query)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
