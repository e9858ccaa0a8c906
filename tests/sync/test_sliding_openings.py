"""Sliding sync: what a new connection is told of a room as others were told it before."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.rooms.state_rows import StateRows
from homeserver.sync.sliding.openings import Openings
from homeserver.sync.sliding.wanted import of_elements, of_pairs, parted
from tests.deployment import User
from tests.rooms.play import Play
from tests.support import aio
from tests.sync.sliding import LAZY, ME, Client, members, set_state, state_of, types, window

NAME = ["m.room.name", ""]
TOPIC = ["m.room.topic", ""]
CREATE = ["m.room.create", ""]
ALICE = "@alice:example.org"


async def told(user: User, room_id: str, *pairs: list[str], limit: int = 1) -> dict[str, Any]:
    """What a new connection is told of a room."""
    return await Client(user, {"lists": {"all": window(limit=limit, state=[*pairs])}}).room(room_id)


@aio
async def test_what_one_was_told_is_not_looked_for_again(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice, name="100 %d %s roses", topic="%", invite=[bob.user_id])
    await play.change(bob, room_id, "join")
    await play.send(alice, room_id, "hello")
    pairs = [NAME, TOPIC, CREATE, LAZY, ME]
    first = await told(alice, room_id, *pairs)
    rows, openings = play.node("tehran").memory(StateRows).held, play.node("tehran").memory(Openings).held
    await told(bob, room_id, *pairs)  # whose own member event is looked for
    asked, used = rows.hits + rows.misses, openings.hits
    await play.deployment.clock.advance(60)
    later, again = await told(bob, room_id, *pairs), await told(alice, room_id, *pairs)
    assert (rows.hits + rows.misses, openings.hits) == (asked + 1, used + 2), "but for bob's own"
    assert first["name"] == later["name"] == "100 %d %s roses"
    assert members(first) == members(again) == {alice.user_id}
    assert members(later) == {alice.user_id, bob.user_id}
    assert [first[count] for count in ("joined_count", "invited_count")] == [2, 0]
    assert state_of(first) == state_of(again)
    assert state_of(again).items() < state_of(later).items()
    before = {event["event_id"]: event["unsigned"]["age"] for event in first["required_state"]}
    assert {event["event_id"]: event["unsigned"]["age"] - 60_000 for event in again["required_state"]} == before


@aio
async def test_a_room_that_has_changed_is_told_as_it_is(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol", "paris")
    room_id = await play.room_of(alice, bob, carol)
    await play.send(alice, room_id, "hello")
    await play.settle()
    pairs = [NAME, TOPIC, LAZY, ME]
    entry = await told(bob, room_id, *pairs)
    assert ("name" in entry, members(entry)) == (False, {alice.user_id, bob.user_id})
    assert {hero["user_id"] for hero in entry["heroes"]} == {alice.user_id, carol.user_id}
    assert {hero["user_id"] for hero in (await told(alice, room_id, *pairs))["heroes"]} == {bob.user_id, carol.user_id}
    await set_state(play, alice, room_id, "m.room.name", {"name": "Roses"})
    await set_state(play, alice, room_id, "m.room.topic", {"topic": "Red"})
    entry = await told(bob, room_id, *pairs)
    assert (entry["name"], "heroes" in entry, entry["joined_count"]) == ("Roses", False, 3)
    assert members(entry) == {alice.user_id, bob.user_id}
    assert state_of(entry)["m.room.topic", ""] == {"topic": "Red"}
    await play.send(carol, room_id, "said elsewhere")
    await play.settle()
    assert members(await told(bob, room_id, *pairs)) == {carol.user_id, bob.user_id}
    profile = {"membership": "join", "displayname": "Robert"}
    await set_state(play, bob, room_id, "m.room.member", profile, bob.user_id)
    entry = await told(bob, room_id, *pairs)
    assert state_of(entry)["m.room.member", bob.user_id] == profile
    await play.change(carol, room_id, "leave")
    await play.settle()
    entry = await told(bob, room_id, *pairs)
    assert (entry["joined_count"], members(entry)) == (2, {carol.user_id, bob.user_id})
    assert state_of(entry)["m.room.member", carol.user_id]["membership"] == "leave"


@aio
async def test_what_was_redacted_is_told_to_nobody(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice, topic="secret", invite=[bob.user_id])
    await play.change(bob, room_id, "join")
    entry = await told(alice, room_id, TOPIC)
    event_id = entry["required_state"][0]["event_id"]
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/t1", {})
    for user in (alice, bob):
        assert state_of(await told(user, room_id, TOPIC)) == {("m.room.topic", ""): {}}


@aio
async def test_what_different_clients_want_is_kept_apart(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice, name="Roses", topic="Red", invite=[bob.user_id])
    await play.change(bob, room_id, "join")
    for user in (alice, bob):
        await play.send(user, room_id, "hello")
    names = ("m.room.name", "")
    for user in (alice, bob, alice):
        mine = ("m.room.member", user.user_id)
        assert state_of(await told(user, room_id, NAME)).keys() == {names}
        assert state_of(await told(user, room_id, NAME, ME)).keys() == {names, mine}
        assert state_of(await told(user, room_id, ME)).keys() == {mine}
        assert (await told(user, room_id))["required_state"] == []
        assert members(await told(user, room_id, LAZY, ME)) == {bob.user_id, user.user_id}
        entry = await told(user, room_id, LAZY, ME, limit=2)
        assert sorted(members(entry)) == sorted(event["state_key"] for event in entry["required_state"])
        assert members(entry) == {alice.user_id, bob.user_id}
        assert members(await told(user, room_id, ["m.room.member", "*"], ME)) == {alice.user_id, bob.user_id}


@aio
async def test_who_came_later_is_told_by_what_they_may_see(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await play.create(alice, invite=[bob.user_id], initial_state=[hidden])
    await play.send(alice, room_id, "before")
    await told(alice, room_id, LAZY, limit=2)
    await play.change(bob, room_id, "join")
    for user, seen in ((alice, True), (bob, False), (alice, True)):
        entry = await told(user, room_id, LAZY, limit=2)
        assert ("m.room.encrypted" in types(entry)) is seen
        assert types(entry)[-1] == "m.room.member"
        assert members(entry) == {event["sender"] for event in entry["timeline"]}
        then = {event["state_key"]: event["unsigned"].get("membership") for event in entry["required_state"]}
        assert then == (
            {alice.user_id: None, bob.user_id: None} if seen else {alice.user_id: "leave", bob.user_id: "join"}
        )


def test_what_is_wanted_because_of_who_asks_stands_apart() -> None:
    pairs = [("m.room.name", ""), ("m.room.member", "$LAZY"), ("m.room.member", "$ME")]
    wanted = of_pairs(pairs, ALICE)
    assert parted(wanted, ALICE) == (of_pairs(pairs[:2], ALICE), of_pairs(pairs[2:], ALICE))
    assert parted(wanted, ALICE)[0] is parted(of_pairs(pairs, "@bob:example.org"), "@bob:example.org")[0]
    common, own = parted(of_elements([(None, None)], [("m.room.member", "$ME")], True, ALICE), ALICE)
    assert common.lazy
    assert not common.takes(("m.room.name", ""))
    assert own.takes(("m.room.name", ""))
    assert not own.takes(("m.room.member", ALICE))
