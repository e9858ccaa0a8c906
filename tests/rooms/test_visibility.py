"""Who may read what of a room, and when: before they joined, after they left, from another node."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms import replicas
from tests.deployment import User
from tests.rooms.play import CLIENT, Play, text_of
from tests.support import aio


def history_visibility(value: str) -> dict[str, Any]:
    return {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": value}}


async def sync(play: Play, user: User, since: str | None = None, **query: str) -> dict[str, Any]:
    if since is not None:
        query["since"] = since
    return await play.ask(user, "GET", "/sync", **query)


def texts_in(section: dict[str, Any]) -> list[str]:
    return [text_of(event) for event in section["timeline"]["events"] if event["type"] == "m.room.encrypted"]


async def topic_as_read_by(play: Play, user: User, room_id: str) -> str:
    path = f"/rooms/{quote(room_id)}/state/m.room.topic/"
    return str((await play.ask(user, "GET", path))["topic"])


async def set_topic(play: Play, user: User, room_id: str, topic: str) -> None:
    await play.ask(user, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": topic})


@aio
async def test_a_new_replica_shows_no_more_than_the_room_allows(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, initial_state=[history_visibility("joined")])
    for number in range(40):
        await play.send(alice, room_id, f"before {number}")
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.change(bob, room_id, "join")
    await play.settle()
    await play.send(alice, room_id, "welcome")
    await play.settle()
    assert await play.texts(bob, room_id) == ["welcome"]
    section = (await sync(play, bob))["rooms"]["join"][room_id]
    assert texts_in(section) == ["welcome"]
    await replicas.copy_histories(play.server)
    assert await play.texts(bob, room_id) == ["welcome"]


@aio
async def test_who_comes_back_is_not_told_what_was_said_without_them(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice, preset="public_chat", initial_state=[history_visibility("joined")])
    await play.change(bob, room_id, "join")
    since = (await sync(play, bob))["next_batch"]
    await play.change(bob, room_id, "leave")
    await play.send(alice, room_id, "bob is gone")
    await play.change(bob, room_id, "join")
    await play.send(alice, room_id, "bob is back")
    section = (await sync(play, bob, since))["rooms"]["join"][room_id]
    assert texts_in(section) == ["bob is back"]


@pytest.mark.parametrize("limit", ["0", "1"])
@aio
async def test_the_context_of_an_event_has_no_more_than_was_asked_for(play: Play, limit: str) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    sent = [await play.send(alice, room_id, f"{number}") for number in range(5)]
    path = f"/rooms/{quote(room_id)}/context/{quote(sent[2])}"
    found = await play.ask(alice, "GET", path, limit=limit)
    assert len(found["events_before"]) + len(found["events_after"]) == int(limit)
    earlier = await play.ask(
        alice, "GET", f"/rooms/{quote(room_id)}/messages", dir="b", limit="1", **{"from": found["start"]}
    )
    assert [text_of(event) for event in earlier["chunk"]] == ["1"]


@aio
async def test_a_page_of_no_events(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await play.send(alice, room_id, "hello")
    for direction in "bf":
        path = f"/rooms/{quote(room_id)}/messages"
        page = await play.ask(alice, "GET", path, dir=direction, limit="0")
        assert page["chunk"] == []
        following = await play.ask(alice, "GET", path, dir=direction, limit="1", **{"from": page["end"]})
        assert following["chunk"][0]["type"] == ("m.room.encrypted" if direction == "b" else "m.room.create")


@aio
async def test_every_token_of_a_page_is_accepted(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    path = f"/rooms/{quote(room_id)}/messages"
    page = await play.ask(alice, "GET", path, dir="f", limit="3")
    again = await play.ask(alice, "GET", path, dir="f", limit="3", **{"from": page["start"]})
    assert again["chunk"] == page["chunk"]


@aio
async def test_a_forgotten_room_cannot_be_read(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    await play.change(bob, room_id, "leave")
    assert await play.texts(bob, room_id) == ["hello"]
    await play.change(bob, room_id, "forget")
    for path in ("/messages?dir=b", f"/event/{quote(event_id)}", "/state", "/members"):
        assert (await play.refused(bob, "GET", f"/rooms/{quote(room_id)}{path}")).status in (403, 404)
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.change(bob, room_id, "join")
    assert await play.texts(bob, room_id) == ["hello"]


@pytest.mark.parametrize("later", ["ban", "invite"])
@aio
async def test_the_state_for_who_left_is_that_of_their_leaving(play: Play, later: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    await set_topic(play, alice, room_id, "with bob")
    await play.change(bob, room_id, "leave")
    await set_topic(play, alice, room_id, "about bob")
    await play.change(alice, room_id, later, user_id=bob.user_id)
    if later == "invite":
        await play.change(bob, room_id, "leave")
    assert await topic_as_read_by(play, bob, room_id) == "with bob"
    state = (await bob.asks("GET", f"{CLIENT}/rooms/{quote(room_id)}/members")).json["chunk"]
    assert {e["state_key"]: e["content"]["membership"] for e in state}[bob.user_id] == "leave"


@aio
async def test_the_members_of_a_time_that_one_may_not_see(play: Play) -> None:
    alice, bob, dora = await play.user("alice"), await play.user("bob"), await play.user("dora")
    room_id = await play.create(alice, preset="public_chat", initial_state=[history_visibility("joined")])
    await play.change(dora, room_id, "join")
    then = (await sync(play, alice))["next_batch"]
    await play.change(dora, room_id, "leave")
    await play.change(bob, room_id, "join")
    path = f"/rooms/{quote(room_id)}/members"

    async def dora_then(user: User) -> str:
        chunk = (await play.ask(user, "GET", path, at=then))["chunk"]
        return str(next(e["content"]["membership"] for e in chunk if e["state_key"] == dora.user_id))

    assert await dora_then(alice) == "join"
    assert await dora_then(bob) == "leave", "as it was when bob came"


@pytest.mark.parametrize("how", ["declined", "taken back"])
@pytest.mark.parametrize("home", ["tehran", "paris"])
@pytest.mark.parametrize("before", [False, True])
@aio
async def test_an_invitation_that_came_to_nothing_is_told(play: Play, how: str, home: str, before: bool) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", home)
    room_id = await play.create(alice)
    if before:
        await play.change(alice, room_id, "invite", user_id=bob.user_id)
        await play.change(bob, room_id, "join")
        await play.settle()
        await sync(play, bob)
        await play.change(bob, room_id, "leave")
        await play.settle()
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    first = await sync(play, bob)
    assert room_id in first["rooms"]["invite"]
    if how == "declined":
        await play.change(bob, room_id, "leave")
    else:
        await play.change(alice, room_id, "kick", user_id=bob.user_id)
    await play.settle()
    then = await sync(play, bob, first["next_batch"])
    section = then["rooms"]["leave"][room_id]
    assert [event["content"]["membership"] for event in section["timeline"]["events"]] == ["leave"]


@aio
async def test_the_invited_see_what_the_room_is_wherever_they_are_at_home(play: Play) -> None:
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.create(alice, name="Garden", invite=[bob.user_id])
    await play.change(bob, room_id, "join")
    await play.change(alice, room_id, "invite", user_id=dora.user_id)
    await play.settle()
    invited = (await sync(play, dora))["rooms"]["invite"][room_id]["invite_state"]["events"]
    kinds = {event["type"]: event["content"] for event in invited}
    assert kinds["m.room.name"] == {"name": "Garden"}
    assert kinds["m.room.member"]["membership"] == "invite"


@aio
async def test_an_answer_that_was_lost_is_given_again_with_its_members(play: Play) -> None:
    alice, bob, dora = await play.user("alice"), await play.user("bob"), await play.user("dora")
    room_id = await play.room_of(alice, bob, dora)
    for number in range(12):
        await play.send(alice, room_id, f"{number}")
    lazy = '{"room":{"state":{"lazy_load_members":true}}}'
    since = (await sync(play, bob, filter=lazy))["next_batch"]
    await play.send(dora, room_id, "hello")

    async def members(since: str) -> tuple[list[str], str]:
        found = await sync(play, bob, since, filter=lazy)
        return [event["state_key"] for event in found["rooms"]["join"][room_id]["state"]["events"]], found["next_batch"]

    assert (await members(since))[0] == [dora.user_id]
    told, since = await members(since)
    assert told == [dora.user_id]
    await play.send(dora, room_id, "hello again")
    assert (await members(since))[0] == []


@aio
async def test_a_token_of_the_future_throws_no_message_away(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    messages = {bob.user_id: {bob.device_id: {"secret": "rose"}}}
    await play.ask(alice, "PUT", "/sendToDevice/m.test/t1", {"messages": messages})
    await sync(play, bob, "s999999999_0")
    assert [event["content"] for event in (await sync(play, bob))["to_device"]["events"]] == [{"secret": "rose"}]
