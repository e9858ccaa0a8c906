"""What relates to an event is read page by page; the threads of a room are listed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.errors import NotFound
from homeserver.rooms import relating
from tests.deployment import User
from tests.rooms.play import Play, cast, play, text_of
from tests.support import aio

__all__ = ["cast", "play"]

REACTION = "m.reaction"


def to(rel_type: str, event_id: str) -> dict[str, Any]:
    return {"rel_type": rel_type, "event_id": event_id}


async def related(play: Play, user: User, room_id: str, event_id: str, rest: str = "") -> dict[str, Any]:
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/relations/{quote(event_id)}{rest}"
    answer = await user.asks("GET", path)
    assert answer.status == 200, answer.json
    found: dict[str, Any] = answer.json
    return found


async def threads(play: Play, user: User, room_id: str, query: str = "") -> dict[str, Any]:
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/threads{query}"
    answer = await user.asks("GET", path)
    assert answer.status == 200, answer.json
    found: dict[str, Any] = answer.json
    return found


def texts(answer: dict[str, Any]) -> list[str]:
    return [text_of(event) for event in answer["chunk"]]


async def react(play: Play, user: User, room_id: str, event_id: str, key: str) -> str:
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": key}}
    path = f"/rooms/{quote(room_id)}/send/{REACTION}/{quote(event_id + key)}"
    found: str = (await play.ask(user, "PUT", path, content))["event_id"]
    return found


async def ignore(play: Play, user: User, other: User) -> None:
    path = f"/user/{quote(user.user_id)}/account_data/m.ignored_user_list"
    await play.ask(user, "PUT", path, {"ignored_users": {other.user_id: {}}})


@aio
async def test_children_newest_first_and_page_by_page(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    root = await play.send(alice, room_id, "root")
    for number in range(5):
        await play.send(alice, room_id, f"reply {number}", relates_to=to("m.thread", root))
        await play.send(alice, room_id, f"elsewhere {number}")
    await play.settle()
    for user in (alice, bob):
        first = await related(play, user, room_id, root, "?limit=2")
        assert texts(first) == ["reply 4", "reply 3"]
        assert "prev_batch" not in first
        assert all(event["room_id"] == room_id for event in first["chunk"])
        second = await related(play, user, room_id, root, f"?limit=2&from={first['next_batch']}")
        assert texts(second) == ["reply 2", "reply 1"]
        third = await related(play, user, room_id, root, f"?limit=2&from={second['next_batch']}")
        assert texts(third) == ["reply 0"]
        assert "next_batch" not in third
        back = await related(play, user, room_id, root, f"?limit=2&dir=f&from={third['prev_batch']}")
        assert texts(back) == ["reply 1", "reply 2"]
        again = await related(play, user, room_id, root, f"?from={first['next_batch']}&to={second['next_batch']}")
        assert texts(again) == ["reply 2", "reply 1"]
        assert texts(await related(play, user, room_id, root, f"?from={second['next_batch']}&dir=b&to=s0_0")) == [
            "reply 0"
        ]
        forwards = await related(play, user, room_id, root, "?dir=f&limit=2")
        assert texts(forwards) == ["reply 0", "reply 1"]
        onwards = await related(play, user, room_id, root, f"?dir=f&from={forwards['next_batch']}")
        assert texts(onwards) == ["reply 2", "reply 3", "reply 4"]
        assert "recursion_depth" not in onwards


@aio
async def test_by_the_way_they_relate_and_by_type(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.room_of(alice)
    root = await play.send(alice, room_id, "root")
    await play.send(alice, room_id, "reply", relates_to=to("m.thread", root))
    await play.send(alice, room_id, "edit", relates_to=to("m.replace", root))
    await react(play, alice, room_id, root, "👍")
    assert [event["type"] for event in (await related(play, alice, room_id, root))["chunk"]] == [
        REACTION,
        "m.room.encrypted",
        "m.room.encrypted",
    ]
    assert texts(await related(play, alice, room_id, root, "/m.thread")) == ["reply"]
    assert texts(await related(play, alice, room_id, root, "/m.replace")) == ["edit"]
    assert (await related(play, alice, room_id, root, "/m.annotation"))["chunk"][0]["type"] == REACTION
    assert (await related(play, alice, room_id, root, f"/m.thread/{REACTION}"))["chunk"] == []
    assert texts(await related(play, alice, room_id, root, "/m.thread/m.room.encrypted")) == ["reply"]


@aio
async def test_what_relates_to_what_relates(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.room_of(alice)
    root = await play.send(alice, room_id, "root")
    reply = await play.send(alice, room_id, "reply", relates_to=to("m.thread", root))
    edit = await play.send(alice, room_id, "edit", relates_to=to("m.replace", reply))
    await react(play, alice, room_id, reply, "👍")
    await play.send(alice, room_id, "about the edit", relates_to=to("m.reference", edit))
    plain = await related(play, alice, room_id, root, "?recurse=false")
    assert (texts(plain), plain["recursion_depth"]) == (["reply"], 1)
    deep = await related(play, alice, room_id, root, "?recurse=true")
    assert [event["type"] for event in deep["chunk"]] == [
        "m.room.encrypted",
        REACTION,
        "m.room.encrypted",
        "m.room.encrypted",
    ]
    assert deep["recursion_depth"] == 3
    edits = await related(play, alice, room_id, root, "/m.replace?recurse=true")
    assert texts(edits) == ["edit"]
    page = await related(play, alice, room_id, root, "?recurse=true&limit=1")
    assert texts(page) == ["about the edit"]
    rest = await related(play, alice, room_id, root, f"?recurse=true&from={page['next_batch']}")
    assert len(rest["chunk"]) == 3


@aio
async def test_a_walk_is_bounded(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await play.user("alice")
    room_id = await play.room_of(alice)
    last = root = await play.send(alice, room_id, "0")
    for number in range(1, 9):
        last = await play.send(alice, room_id, str(number), relates_to=to("m.reference", last))
    found = await related(play, alice, room_id, root, "?recurse=true")
    assert (len(found["chunk"]), found["recursion_depth"]) == (relating.DEPTH, relating.DEPTH)
    monkeypatch.setattr(relating, "PARENTS", 2)
    found = await related(play, alice, room_id, root, "?recurse=true")
    assert (len(found["chunk"]), found["recursion_depth"]) == (2, 2)


@aio
async def test_only_what_the_reader_may_see(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, carol)
    await play.ask(
        alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.history_visibility", {"history_visibility": "joined"}
    )
    root = await play.send(alice, room_id, "root")
    await play.send(alice, room_id, "before", relates_to=to("m.thread", root))
    await play.ask(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    await play.settle()
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/join", {})
    await play.settle()
    await play.send(carol, room_id, "after", relates_to=to("m.thread", root))
    await play.settle()
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/relations/{quote(root)}"
    refused = await bob.asks("GET", path)
    assert (refused.status, refused.errcode) == (404, NotFound.errcode)
    assert (await threads(play, bob, room_id))["chunk"] == []
    stranger = await play.user("dave")
    assert (await stranger.asks("GET", path)).status == 403
    await play.ask(
        alice,
        "PUT",
        f"/user/{quote(alice.user_id)}/account_data/m.ignored_user_list",
        {"ignored_users": {carol.user_id: {}}},
    )
    assert texts(await related(play, alice, room_id, root)) == ["before"]
    assert texts(await related(play, carol, room_id, root)) == ["after", "before"]
    other = await play.room_of(alice)
    elsewhere = f"/_matrix/client/v1/rooms/{quote(other)}/relations/{quote(root)}"
    assert (await alice.asks("GET", elsewhere)).status == 404


@aio
async def test_threads_by_their_newest_event(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    roots = [await play.send(alice, room_id, f"root {number}") for number in range(3)]
    await play.send(bob, room_id, "no root")
    await play.settle()
    for root in roots:
        await play.send(alice, room_id, "first", relates_to=to("m.thread", root))
    await play.settle()
    newest = await play.send(bob, room_id, "second", relates_to=to("m.thread", roots[0]))
    await play.settle()
    for user in (alice, bob):
        found = await threads(play, user, room_id)
        assert texts(found) == ["root 0", "root 2", "root 1"]
        assert "next_batch" not in found
        summed = found["chunk"][0]["unsigned"]["m.relations"]["m.thread"]
        assert (summed["count"], text_of(summed["latest_event"])) == (2, "second")
        page = await threads(play, user, room_id, "?limit=1")
        onwards = await threads(play, user, room_id, f"?limit=1&from={page['next_batch']}")
        last = await threads(play, user, room_id, f"?limit=2&from={onwards['next_batch']}")
        assert [texts(each) for each in (page, onwards, last)] == [["root 0"], ["root 2"], ["root 1"]]
        assert "next_batch" not in last
    assert texts(await threads(play, bob, room_id, "?include=participated")) == ["root 0"]
    assert len((await threads(play, alice, room_id, "?include=participated"))["chunk"]) == 3
    await play.ask(bob, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(newest)}/r1", {})
    await play.settle()
    for user in (alice, bob):
        assert texts(await threads(play, user, room_id)) == ["root 2", "root 1", "root 0"]
    assert (await threads(play, bob, room_id, "?include=participated"))["chunk"] == []


@aio
async def test_a_thread_without_events_is_none_and_a_new_one_brings_it_back(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.room_of(alice)
    root = await play.send(alice, room_id, "root")
    only = await play.send(alice, room_id, "only", relates_to=to("m.thread", root))
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(only)}/r1", {})
    assert (await threads(play, alice, room_id))["chunk"] == []
    await play.send(alice, room_id, "another", relates_to=to("m.thread", root))
    assert texts(await threads(play, alice, room_id)) == ["root"]


@aio
async def test_the_root_of_somebody_ignored_says_nothing(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    root = await play.send(bob, room_id, "root")
    await play.send(alice, room_id, "reply", relates_to=to("m.thread", root))
    await play.ask(
        alice,
        "PUT",
        f"/user/{quote(alice.user_id)}/account_data/m.ignored_user_list",
        {"ignored_users": {bob.user_id: {}}},
    )
    (shown,) = (await threads(play, alice, room_id))["chunk"]
    assert (shown["event_id"], shown["content"]) == (root, {})


@aio
async def test_threads_that_went_on_without_somebody(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    ended = await play.send(alice, room_id, "ended")
    await play.send(alice, room_id, "reply", relates_to=to("m.thread", ended))
    going_on = await play.send(alice, room_id, "going on")
    await play.send(alice, room_id, "reply", relates_to=to("m.thread", going_on))
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/leave", {})
    await play.send(alice, room_id, "later", relates_to=to("m.thread", going_on))
    assert texts(await threads(play, bob, room_id)) == ["ended"]


@pytest.mark.parametrize("query", ["?limit=0", "?limit=x", "?from=nonsense", "?dir=up", "?recurse=maybe", "?to=%00"])
@aio
async def test_what_cannot_be_asked(play: Play, query: str) -> None:
    alice = await play.user("alice")
    room_id = await play.room_of(alice)
    root = await play.send(alice, room_id, "root")
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/relations/{quote(root)}{query}"
    answer = await alice.asks("GET", path)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
