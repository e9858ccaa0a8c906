"""What clients read of a room: its state, its members, its timeline, one event and what surrounds it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from tests.deployment import User
from tests.rooms.play import CLIENT, Play, cast, play, text_of
from tests.support import aio

__all__ = ["cast", "play"]


def of(room_id: str, *rest: str) -> str:
    return "/".join((f"{CLIENT}/rooms/{quote(room_id)}", *(quote(part, safe="") for part in rest)))


async def got(user: User, room_id: str, *rest: str, **query: str) -> Any:
    answer = await user.asks("GET", of(room_id, *rest), **query)
    assert answer.status == 200, answer
    return answer.json


async def refused(user: User, room_id: str, *rest: str, **query: str) -> tuple[int, str | None]:
    answer = await user.asks("GET", of(room_id, *rest), **query)
    return answer.status, answer.errcode


async def set_topic(play: Play, user: User, room_id: str, topic: str) -> None:
    await play.ask(user, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic", {"topic": topic})
    await play.settle()


# -- the state


@aio
async def test_the_whole_state(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await set_topic(play, alice, room_id, "Roses")
    await set_topic(play, alice, room_id, "Tulips")
    for user in (alice, bob):
        state = await got(user, room_id, "state")
        keys = [(event["type"], event["state_key"]) for event in state]
        assert len(keys) == len(set(keys))
        assert {("m.room.create", ""), ("m.room.member", alice.user_id), ("m.room.member", bob.user_id)} <= set(keys)
        assert {event["room_id"] for event in state} == {room_id}
        (topic,) = (event for event in state if event["type"] == "m.room.topic")
        assert topic["content"] == {"topic": "Tulips"}
        assert topic["unsigned"]["prev_content"] == {"topic": "Roses"}


@aio
async def test_old_clients_need_no_state_key_either(play: Play) -> None:
    alice = await play.user("alice")
    room = f"/_matrix/client/r0/rooms/{quote(await play.room_of(alice))}"
    for ending, topic in (("", {"topic": "Roses"}), ("/", {"topic": "Tulips"})):
        path = f"{room}/state/m.room.topic{ending}"
        assert (await alice.asks("PUT", path, topic)).status == 200
        assert (await alice.asks("GET", path)).json == topic


@aio
async def test_one_entry_of_the_state(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, topic="Roses")
    for path in (("m.room.topic",), ("m.room.topic", "")):
        await play.ask(alice, "PUT", of(room_id, "state", *path).removeprefix(CLIENT), {"topic": "Tulips"})
        assert await got(alice, room_id, "state", *path) == {"topic": "Tulips"}
        assert await got(alice, room_id, "state", *path, format="content") == {"topic": "Tulips"}
        event = await got(alice, room_id, "state", *path, format="event")
        assert (event["type"], event["state_key"], event["sender"]) == ("m.room.topic", "", alice.user_id)
        assert (event["room_id"], event["content"]) == (room_id, {"topic": "Tulips"})
        assert event["event_id"].startswith("$")
    assert await got(alice, room_id, "state", "m.room.member", alice.user_id) == {"membership": "join"}
    assert await refused(alice, room_id, "state", "m.room.name") == (404, "M_NOT_FOUND")
    assert await refused(alice, room_id, "state", "m.room.topic", "other") == (404, "M_NOT_FOUND")
    assert await refused(alice, room_id, "state", "m.room.topic", format="xml") == (400, "M_INVALID_PARAM")


@aio
async def test_setting_the_state(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    path = f"/rooms/{quote(room_id)}/state"
    answer = await play.ask(alice, "PUT", path + "/org.example.note/a%2Fb", {"text": "x"})
    await play.settle()
    assert (await got(bob, room_id, "state", "org.example.note", "a/b", format="event"))["event_id"] == answer[
        "event_id"
    ]
    forbidden = await play.refused(bob, "PUT", path + "/m.room.topic/", {"topic": "Weeds"})
    assert (forbidden.status, forbidden.errcode) == (403, "M_FORBIDDEN")
    not_json = await play.refused(alice, "PUT", path + "/m.room.topic/", b"{")
    assert (not_json.status, not_json.errcode) == (400, "M_NOT_JSON")
    assert (await play.refused(alice, "POST", path + "/m.room.topic/", {})).errcode == "M_UNRECOGNIZED"


@pytest.mark.parametrize(
    ("content", "errcode"),
    [
        ({"alias": "garden"}, "M_INVALID_PARAM"),
        ({"alias": "#nowhere:example.org"}, "M_BAD_ALIAS"),
        ({"alias": "#garden:example.org", "alt_aliases": ["#other:example.org"]}, "M_BAD_ALIAS"),
        ({"alias": "#garden:example.org", "alt_aliases": "#garden:example.org"}, "M_BAD_JSON"),
    ],
)
@aio
async def test_canonical_aliases_lead_to_their_room(play: Play, content: dict[str, Any], errcode: str) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await play.create(alice, room_alias_name="other")
    await play.ask(alice, "PUT", f"/directory/room/{quote('#garden:example.org')}", {"room_id": room_id})
    path = f"/rooms/{quote(room_id)}/state/m.room.canonical_alias"
    answer = await play.refused(alice, "PUT", path, content)
    assert (answer.status, answer.errcode) == (400, errcode)
    good = {"alias": "#garden:example.org", "alt_aliases": ["#garden:example.org"]}
    await play.ask(alice, "PUT", path, good)
    await play.ask(alice, "DELETE", f"/directory/room/{quote('#garden:example.org')}")
    await play.ask(alice, "PUT", path, {"alt_aliases": ["#garden:example.org"]})  # what stands there is not asked again


@aio
async def test_who_may_read_the_state(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob)
    await set_topic(play, alice, room_id, "Roses")
    await play.change(bob, room_id, "leave")
    await set_topic(play, alice, room_id, "Tulips")
    for rest in (("state",), ("state", "m.room.topic"), ("members",), ("joined_members",), ("messages",)):
        assert await refused(carol, room_id, *rest, dir="b") == (403, "M_FORBIDDEN")
        assert await refused(carol, "!nowhere:example.org", *rest, dir="b") == (403, "M_FORBIDDEN")
    assert await got(bob, room_id, "state", "m.room.topic") == {"topic": "Roses"}
    (topic,) = (event for event in await got(bob, room_id, "state") if event["type"] == "m.room.topic")
    assert topic["content"] == {"topic": "Roses"}
    assert await got(alice, room_id, "state", "m.room.topic") == {"topic": "Tulips"}


# -- members


async def members(user: User, room_id: str, **query: str) -> dict[str, str]:
    chunk = (await got(user, room_id, "members", **query))["chunk"]
    assert {event["type"] for event in chunk} <= {"m.room.member"}
    return {event["state_key"].split(":")[0][1:]: event["content"]["membership"] for event in chunk}


@aio
async def test_the_members_of_a_room(play: Play) -> None:
    alice, bob, carol, dan = [
        await play.user(name, node)
        for name, node in (("alice", "tehran"), ("bob", "paris"), ("carol", "tehran"), ("dan", "tehran"))
    ]
    room_id = await play.room_of(alice, bob, carol)
    before = (await play.ask(alice, "GET", "/sync"))["next_batch"]
    await play.change(carol, room_id, "leave")
    await play.change(alice, room_id, "invite", user_id=dan.user_id)
    await play.settle()
    everybody = {"alice": "join", "bob": "join", "carol": "leave", "dan": "invite"}
    assert await members(alice, room_id) == await members(bob, room_id) == everybody
    assert await members(alice, room_id, membership="join") == {"alice": "join", "bob": "join"}
    assert await members(alice, room_id, membership="ban") == {}
    assert await members(alice, room_id, not_membership="leave") == {"alice": "join", "bob": "join", "dan": "invite"}
    either = await members(alice, room_id, membership="leave", not_membership="join")
    assert either == {"carol": "leave", "dan": "invite"}
    assert await members(alice, room_id, membership="join", not_membership="leave") == {
        "alice": "join",
        "bob": "join",
        "dan": "invite",
    }
    assert await members(alice, room_id, at=before) == {"alice": "join", "bob": "join", "carol": "join"}
    assert await members(carol, room_id) == {"alice": "join", "bob": "join", "carol": "leave"}, "as they left it"
    for query in ({"membership": "friend"}, {"not_membership": "friend"}, {"at": "yesterday"}):
        assert await refused(alice, room_id, "members", **query) == (400, "M_INVALID_PARAM")


@aio
async def test_the_joined_members(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    profile = f"/profile/{quote(bob.user_id)}"
    await play.ask(bob, "PUT", profile + "/displayname", {"displayname": "Bob"})
    await play.ask(bob, "PUT", profile + "/avatar_url", {"avatar_url": "mxc://example.org/rose"})
    room_id = await play.room_of(alice, bob, carol)
    shown = {"display_name": "Bob", "avatar_url": "mxc://example.org/rose"}
    found = (await got(alice, room_id, "joined_members"))["joined"]
    assert found == {alice.user_id: {}, bob.user_id: shown, carol.user_id: {}}
    await play.change(carol, room_id, "leave")
    found = (await got(alice, room_id, "joined_members"))["joined"]
    assert found == {alice.user_id: {}, bob.user_id: shown}
    assert await refused(carol, room_id, "joined_members") == (403, "M_FORBIDDEN")


# -- the timeline


@aio
async def test_pages_of_messages(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    since = (await play.ask(bob, "GET", "/sync"))["next_batch"]
    for number in range(25):
        await play.send(alice, room_id, str(number))
    await play.settle()
    backwards: list[str] = []
    token: dict[str, str] = {}
    for size in (10, 10, 5):
        page = await got(bob, room_id, "messages", dir="b", to=since, **token)
        assert page["start"] == token.get("from", page["start"])
        assert len(page["chunk"]) == size
        assert {event["room_id"] for event in page["chunk"]} == {room_id}
        backwards += [text_of(event) for event in page["chunk"]]
        assert ("end" in page) == (size == 10)
        token = {"from": page.get("end", "")}
    assert backwards == [str(number) for number in reversed(range(25))]
    forwards = await got(bob, room_id, "messages", **{"from": since}, dir="f", limit="100")
    assert (forwards["start"], "end" in forwards) == (since, False)
    assert [text_of(event) for event in forwards["chunk"]] == backwards[::-1]
    first = await got(bob, room_id, "messages", dir="f", limit="1")
    assert [event["type"] for event in first["chunk"]] == ["m.room.create"]
    mine = (await got(alice, room_id, "messages", dir="b", limit="1"))["chunk"][0]["unsigned"]
    assert mine["transaction_id"].startswith("txn")
    assert mine["age"] >= 0


@aio
async def test_messages_that_pass_a_filter(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await play.send(alice, room_id, "from alice")
    await play.send(bob, room_id, "from bob")
    await play.settle()

    async def found(definition: dict[str, Any]) -> dict[str, Any]:
        page: dict[str, Any] = await got(alice, room_id, "messages", dir="b", filter=orjson.dumps(definition).decode())
        return page

    only = await found({"types": ["m.room.encrypted"], "not_senders": [alice.user_id], "lazy_load_members": True})
    assert [text_of(event) for event in only["chunk"]] == ["from bob"]
    assert [event["state_key"] for event in only["state"]] == [bob.user_id]
    assert len((await found({"limit": 1}))["chunk"]) == 1
    assert (await found({"not_rooms": [room_id]}))["chunk"] == []
    assert (await found({"rooms": []}))["chunk"] == []
    assert "state" not in await found({})


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"dir": "x"}, "M_INVALID_PARAM"),
        ({"dir": "b", "limit": "many"}, "M_INVALID_PARAM"),
        ({"dir": "b", "from": "yesterday"}, "M_INVALID_PARAM"),
        ({"dir": "b", "to": "tomorrow"}, "M_INVALID_PARAM"),
        ({"dir": "b", "filter": "{"}, "M_INVALID_PARAM"),
        ({"dir": "b", "filter": '{"types": 5}'}, "M_BAD_JSON"),
    ],
)
@aio
async def test_questions_for_messages_that_are_none(play: Play, query: dict[str, str], errcode: str) -> None:
    alice = await play.user("alice")
    assert await refused(alice, await play.create(alice), "messages", **query) == (400, errcode)


# -- one event


@aio
async def test_one_event(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id, other = await play.room_of(alice, bob), await play.create(alice)
    event_id = await play.send(alice, room_id, "roses")
    await play.settle()
    for user in (alice, bob):
        event = await got(user, room_id, "event", event_id)
        assert (event["event_id"], event["room_id"], event["sender"]) == (event_id, room_id, alice.user_id)
        assert text_of(event) == "roses"
        assert ("transaction_id" in event["unsigned"]) == (user is alice)
    assert await refused(alice, other, "event", event_id) == (404, "M_NOT_FOUND")
    assert await refused(alice, room_id, "event", "$unknown") == (404, "M_NOT_FOUND")
    assert (await refused(carol, room_id, "event", event_id))[0] in (403, 404)
    await play.change(bob, room_id, "leave")
    later = await play.send(alice, room_id, "without bob")
    await play.settle()
    assert await refused(bob, room_id, "event", later) == (404, "M_NOT_FOUND")
    assert text_of(await got(bob, room_id, "event", event_id)) == "roses"


@aio
async def test_the_context_of_an_event(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    ids = [await play.send(alice, room_id, str(number)) for number in range(9)]
    await set_topic(play, alice, room_id, "Roses")
    around = await got(bob, room_id, "context", ids[4], limit="4")
    assert text_of(around["event"]) == "4"
    assert [text_of(event) for event in around["events_before"]] == ["3", "2"]
    assert [text_of(event) for event in around["events_after"]] == ["5", "6"]
    state = {(event["type"], event["state_key"]) for event in around["state"]}
    assert {("m.room.create", ""), ("m.room.member", alice.user_id)} <= state
    assert ("m.room.topic", "") not in state, "the state is that of the last event"
    for direction, token, wanted in (("b", around["start"], ["1", "0"]), ("f", around["end"], ["7", "8"])):
        page = await got(bob, room_id, "messages", **{"from": token}, dir=direction, limit="2")
        assert [text_of(event) for event in page["chunk"]] == wanted
    alone = await got(bob, room_id, "context", ids[4], limit="0")
    assert (alone["events_before"], alone["events_after"]) == ([], [])
    assert text_of(alone["event"]) == "4"
    usual = await got(bob, room_id, "context", ids[4])
    assert len(usual["events_before"]) + len(usual["events_after"]) == 10
    assert await refused(bob, room_id, "context", "$unknown") == (404, "M_NOT_FOUND")


@aio
async def test_a_filter_of_the_context_holds_for_the_state_too(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "roses")

    async def found(**definition: Any) -> tuple[list[str], set[str], set[str]]:
        around = await got(alice, room_id, "context", event_id, limit="50", filter=orjson.dumps(definition).decode())
        assert text_of(around["event"]) == "roses", "the event itself is not filtered"
        members = {event["state_key"] for event in around["state"] if event["type"] == "m.room.member"}
        before = [event["type"] for event in around["events_before"]]
        return before, {event["type"] for event in around["state"]}, members

    assert await found(types=["m.room.create"]) == (["m.room.create"], {"m.room.create"}, set())
    assert await found(not_rooms=[room_id]) == ([], set(), set())
    assert (await found(lazy_load_members=True, types=["m.room.member"]))[2] == {alice.user_id, bob.user_id}
    assert await found(lazy_load_members=True, types=["m.*"], not_senders=[bob.user_id], limit=1) != ([], set(), set())


# -- /sync


@pytest.mark.parametrize("name", ["state_after", "org.matrix.msc4222.state_after"])
@aio
async def test_the_state_after_the_timeline_has_the_name_that_was_asked_for(play: Play, name: str) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, topic="Roses")
    wish = {name.replace("state_after", "use_state_after"): "true"}
    room = (await play.ask(alice, "GET", "/sync", **wish))["rooms"]["join"][room_id]
    assert [key for key in room if "state" in key] == [name]
    assert {"m.room.create", "m.room.topic"} <= {event["type"] for event in room[name]["events"]}
    plain = (await play.ask(alice, "GET", "/sync", **dict.fromkeys(wish, "false")))["rooms"]["join"][room_id]
    assert [key for key in plain if "state" in key] == ["state"]
    await play.change(alice, room_id, "leave")
    left = (await play.ask(alice, "GET", "/sync", **wish, filter='{"room": {"include_leave": true}}'))["rooms"]["leave"]
    assert [key for key in left[room_id] if "state" in key] == [name]
