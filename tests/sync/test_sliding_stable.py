"""The stable form of sliding sync: where it differs from the one that clients speak."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment import User
from tests.rooms.play import Play
from tests.support import aio
from tests.sync.sliding import EVERYTHING, Client, ask_stable, members, set_data, set_state, state_of

TYPES: list[dict[str, Any]] = [{"type": "m.room.name"}, {"type": "m.room.topic", "state_key": ""}]


def stable(user: User, limit: int = 10, **wanted: Any) -> Client:
    """A connection with one list of all rooms; ``wanted``: what it says of the state."""
    return Client(user, {"lists": {"all": {"timeline_limit": limit, "required_state": wanted}}}, stable=True)


@aio
async def test_a_list_without_a_range_is_of_all_rooms(play: Play) -> None:
    alice = await play.user("alice")
    rooms = [await play.create(alice) for _ in range(3)]
    client = stable(alice)
    answer = await client.sync()
    assert answer["lists"] == {"all": {"count": 3}}
    assert answer["rooms"].keys() == set(rooms)
    first = {"all": {"timeline_limit": 1, "required_state": {}, "range": [0, 1]}, "none": {"range": [3, 9]}}
    answer = await Client(alice, {"lists": first}, stable=True).sync()
    assert answer["rooms"].keys() == set(rooms[1:])
    assert answer["lists"] == {"all": {"count": 3}, "none": {"count": 3}}
    assert all(entry["lists"] == ["all"] for entry in answer["rooms"].values())


@aio
async def test_the_position_is_in_the_body(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    client = stable(alice)
    await client.sync()
    waiting = await client.waits()
    await play.send(bob, room_id, "hello")
    assert (await waiting)["rooms"][room_id]["num_live"] == 1
    assert (await ask_stable(alice, pos="rubbish")).errcode == "M_UNKNOWN_POS"


@aio
async def test_state_is_wanted_and_left_out(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, name="Roses", topic="Red", invite=[bob.user_id])
    await play.change(bob, room_id, "join")
    await play.settle()
    mine, bobs = ("m.room.member", alice.user_id), ("m.room.member", bob.user_id)

    async def wanted(**state: Any) -> set[tuple[str, str]]:
        return set(state_of(await stable(alice, 1, **state).room(room_id)))

    everything = await wanted(include=[{}])
    assert {mine, bobs, ("m.room.create", ""), ("m.room.name", "")} <= everything
    assert await wanted() == set()
    assert await wanted(include=TYPES) == {("m.room.name", ""), ("m.room.topic", "")}
    assert await wanted(include=TYPES, exclude=[{"type": "m.room.name"}]) == {("m.room.topic", "")}
    without_members = await wanted(include=[{}], exclude=[{"type": "m.room.member"}])
    assert without_members == everything - {mine, bobs}
    lazily = await wanted(include=[{}], exclude=[{"type": "m.room.member"}], lazy_members=True)
    assert lazily == everything - {mine}
    assert await wanted(include=[{"state_key": bob.user_id}]) == {bobs}


@aio
async def test_what_is_no_more_is_told(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, name="Roses")
    await set_state(play, alice, room_id, "m.room.avatar", {"url": "mxc://example.org/abc"})
    client = stable(alice)
    first = await client.room(room_id)
    assert (first["name"], first["avatar"], first["membership"]) == ("Roses", "mxc://example.org/abc", "join")
    await set_state(play, alice, room_id, "m.room.name", {})
    await set_state(play, alice, room_id, "m.room.avatar", {})
    entry = await client.room(room_id)
    assert (entry["name"], entry["avatar"], entry["heroes"]) == (None, None, [])
    await set_data(play, alice, "m.direct", {alice.user_id: [room_id]})
    assert (await client.room(room_id))["is_dm"] is True
    await set_data(play, alice, "m.direct", {})
    assert (await client.room(room_id))["is_dm"] is False


@aio
async def test_invitations_and_larger_timelines_by_their_names(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice)
    invited = await play.create(bob, invite=[alice.user_id])
    client = stable(alice, 1)
    rooms = await client.rooms()
    assert rooms[invited]["membership"] == "invite"
    assert {event["type"] for event in rooms[invited]["stripped_state"]} >= {"m.room.create", "m.room.member"}
    assert "invite_state" not in rooms[invited]
    more = {"lists": {"all": {"timeline_limit": 5, "filters": {"is_invited": False}}}}
    entry = await client.room(room_id, **more)
    assert entry["expanded_timeline"] is True
    assert "unstable_expanded_timeline" not in entry


@aio
async def test_extensions_are_the_same(play: Play) -> None:
    alice = await play.user("alice")
    answer = await Client(alice, {"extensions": EVERYTHING}, stable=True).sync()
    assert set(answer["extensions"]) == set(EVERYTHING)


@aio
async def test_lazy_members(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    await play.send(bob, room_id, "hello")
    client = stable(alice, 1, lazy_members=True)
    assert members(await client.room(room_id)) == {bob.user_id}


@pytest.mark.parametrize(
    "body",
    [
        {"set_presence": "dancing"},
        {"timeout": -1},
        {"timeout": "1"},
        {"pos": 1},
        {"lists": {str(number): {} for number in range(101)}},
        {"room_subscriptions": {f"!{number}:b": {} for number in range(101)}},
        {"lists": {"a": {"range": [1]}}},
        {"lists": {"a": {"range": [[0, 1]]}}},
        {"lists": {"a": {"required_state": [["m.room.name", ""]]}}},
        {"lists": {"a": {"required_state": {"include": ["m.room.name"]}}}},
        {"lists": {"a": {"required_state": {"include": [{"type": 1}]}}}},
        {"lists": {"a": {"required_state": {"lazy_members": 1}}}},
    ],
)
@aio
async def test_what_is_malformed_is_refused(play: Play, body: dict[str, Any]) -> None:
    alice = await play.user("alice")
    answer = await ask_stable(alice, **body)
    assert (answer.status, answer.errcode) in [(400, "M_BAD_JSON"), (400, "M_INVALID_PARAM")]
