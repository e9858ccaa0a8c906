"""What relates to an event is bundled with it where clients read it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.rooms import state
from homeserver.rooms.aggregations import Look
from tests.deployment import User
from tests.rooms.play import Play, cast, play, text_of
from tests.support import ON_SQLITE, aio
from tests.sync.sliding import Client, window

__all__ = ["cast", "play"]


def to(rel_type: str, event_id: str) -> dict[str, Any]:
    return {"rel_type": rel_type, "event_id": event_id}


async def event(play: Play, user: User, room_id: str, event_id: str) -> dict[str, Any]:
    return await play.ask(user, "GET", f"/rooms/{quote(room_id)}/event/{quote(event_id)}")


async def related(play: Play, user: User, room_id: str, event_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await event(play, user, room_id, event_id))["unsigned"].get("m.relations", {})
    return found


async def redact(play: Play, user: User, room_id: str, event_id: str) -> None:
    await play.ask(user, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/r{event_id[1:9]}", {})
    await play.settle()


@aio
async def test_a_thread_is_summed_up_at_its_root(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob, carol)
    root = await play.send(alice, room_id, "root")
    await play.send(alice, room_id, "first", relates_to=to("m.thread", root))
    last = await play.send(bob, room_id, "last", relates_to=to("m.thread", root))
    await play.send(bob, room_id, "better", relates_to=to("m.replace", last))
    await play.settle()
    for user, took_part in ((alice, True), (bob, True), (carol, False)):
        thread = (await related(play, user, room_id, root))["m.thread"]
        assert (thread["count"], thread["current_user_participated"]) == (2, took_part)
        assert (text_of(thread["latest_event"]), thread["latest_event"]["room_id"]) == ("last", room_id)
        assert text_of(thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]) == "better"
    ignoring: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    await play.ask(carol, "PUT", f"/user/{quote(carol.user_id)}/account_data/m.ignored_user_list", ignoring)
    thread = (await related(play, carol, room_id, root))["m.thread"]
    assert (thread["count"], text_of(thread["latest_event"])) == (1, "first")
    await redact(play, bob, room_id, last)
    for user in (alice, bob):
        thread = (await related(play, user, room_id, root))["m.thread"]
        assert (thread["count"], text_of(thread["latest_event"])) == (1, "first")


@aio
async def test_the_newest_valid_replacement(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    original = await play.send(alice, room_id, "cake")
    await play.settle()
    assert await related(play, bob, room_id, original) == {}
    edits = []
    for text in ("good cake", "better cake"):
        await play.deployment.clock.advance(1)
        edits.append(await play.send(alice, room_id, text, relates_to=to("m.replace", original)))
    await play.deployment.clock.advance(1)
    await play.send(bob, room_id, "not yours", relates_to=to("m.replace", original))
    await play.send(alice, room_id, "an edit of an edit", relates_to=to("m.replace", edits[1]))
    await play.settle()
    for user in (alice, bob):
        assert text_of((await related(play, user, room_id, original))["m.replace"]) == "better cake"
        assert await related(play, user, room_id, edits[1]) == {}
    await redact(play, alice, room_id, edits[1])
    for user in (alice, bob):
        assert text_of((await related(play, user, room_id, original))["m.replace"]) == "good cake"
    await redact(play, alice, room_id, original)
    for user in (alice, bob):
        assert await related(play, user, room_id, original) == {}


@aio
async def test_references(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    parent = await play.send(alice, room_id, "parent")
    children = [await play.send(user, room_id, "child", relates_to=to("m.reference", parent)) for user in (alice, bob)]
    await play.settle()
    for user in (alice, bob):
        found = await related(play, user, room_id, parent)
        assert found == {"m.reference": {"chunk": [{"event_id": child} for child in children]}}


@pytest.mark.parametrize("reading", ["messages", "context", "limited sync", "whole sync"])
@aio
async def test_where_it_is_bundled(play: Play, reading: str) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await play.send(alice, room_id, "before")
    parent = await play.send(alice, room_id, "parent")
    since = (await play.ask(alice, "GET", "/sync"))["next_batch"]
    await play.send(alice, room_id, "child", relates_to=to("m.reference", parent))
    path = f"/rooms/{quote(room_id)}"
    if reading == "messages":
        found = (await play.ask(alice, "GET", path + "/messages", dir="b"))["chunk"]
    elif reading == "context":
        around = await play.ask(alice, "GET", f"{path}/context/{quote(parent)}")
        found = [around["event"]]
        assert "m.relations" not in around["events_before"][0]["unsigned"]
    elif reading == "limited sync":
        limit = orjson.dumps({"room": {"timeline": {"limit": 3}}}).decode()
        section = (await play.ask(alice, "GET", "/sync", filter=limit))["rooms"]["join"][room_id]
        assert section["timeline"]["limited"]
        found = section["timeline"]["events"]
    else:
        await play.send(alice, room_id, "later", relates_to=to("m.reference", parent))
        section = (await play.ask(alice, "GET", "/sync", since=since))["rooms"]["join"][room_id]
        assert all("m.relations" not in event["unsigned"] for event in section["timeline"]["events"])
        return
    (shown,) = (event for event in found if event["event_id"] == parent)
    assert "m.reference" in shown["unsigned"]["m.relations"]


@aio
async def test_relations_of_history_that_a_new_node_was_given(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice)
    parent = await play.send(alice, room_id, "parent")
    child = await play.send(alice, room_id, "child", relates_to=to("m.reference", parent))
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    await play.change(bob, room_id, "join")
    await play.settle()
    assert await related(play, bob, room_id, parent) == {"m.reference": {"chunk": [{"event_id": child}]}}


async def bundled_now(play: Play, user: User, room_id: str, reading: str) -> dict[str, dict[str, Any]]:
    """What a client that begins is told to relate to the newest events of a room, by event id."""
    if reading == "classic":
        answer = await play.ask(user, "GET", "/sync", filter='{"room":{"timeline":{"limit":4}}}')
        events = answer["rooms"]["join"][room_id]["timeline"]["events"]
    else:
        extensions = {"receipts": {"enabled": reading == "sliding with receipts"}}
        lists = {"all": window(limit=4)}
        events = (await Client(user).sync(lists=lists, extensions=extensions))["rooms"][room_id]["timeline"]
    return {each["event_id"]: each["unsigned"].get("m.relations", {}) for each in events}


@pytest.mark.parametrize("reading", ["classic", "sliding", "sliding with receipts"])
@ON_SQLITE
@aio
async def test_what_comes_later_is_bundled_where_there_was_nothing(play: Play, reading: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    sent = [await play.send(alice, room_id, str(number)) for number in range(4)]
    assert await bundled_now(play, bob, room_id, reading) == {event_id: {} for event_id in sent}
    room = await state.get(play.node("tehran"), room_id)
    assert [each.event_id for each in room.recent if each.bare] == sent, "it is known of all"
    engine = play.node("tehran").engine
    before, _ = engine.trips, await bundled_now(play, bob, room_id, reading)
    known = engine.trips - before
    for each in room.recent:
        each.bare = False
    before, _ = engine.trips, await bundled_now(play, bob, room_id, reading)
    assert engine.trips - before == known + (reading != "sliding with receipts"), "nobody asks again"
    edit = await play.send(alice, room_id, "better", relates_to=to("m.replace", sent[2]))
    assert [each.event_id for each in room.recent if each.bare] == [sent[0], sent[1], sent[3]]
    found = await bundled_now(play, bob, room_id, reading)
    assert {event_id: list(told) for event_id, told in found.items() if told} == {sent[2]: ["m.replace"]}
    await redact(play, alice, room_id, edit)
    assert not any((await bundled_now(play, bob, room_id, reading)).values())


@ON_SQLITE
@aio
async def test_what_comes_during_a_look_is_not_missed(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    root = await play.send(alice, room_id, "root")
    room = await state.get(play.node("tehran"), room_id)
    newest = room.recent[-1]
    look = Look([room])
    await play.send(alice, room_id, "better", relates_to=to("m.replace", root))
    look.note(room, [newest], ())
    assert not newest.bare
    Look([room]).note(room, [newest], ())
    assert newest.bare
    room.relates()  # what history brings may relate to anything
    assert not newest.bare
