"""Sliding sync: which rooms belong to a user's list, in which order, in which ranges, with which filters."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import User
from tests.rooms.play import Play
from tests.support import aio
from tests.sync.sliding import Client, ask, set_data, set_state, types, window


async def listed(user: User, **filters: Any) -> list[str]:
    """The rooms of a list, in its order."""
    answer = await ask(user, lists={"all": window(**filters)})
    assert answer.status == 200, answer
    found = answer.json["lists"]["all"]
    ordered: list[str] = found["ops"][0]["room_ids"]
    assert found["count"] == len(ordered)
    assert set(answer.json["rooms"]) == set(ordered)
    return ordered


# -- membership


@aio
async def test_rooms_of_every_membership_but_those_that_the_user_left(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    joined, left, kicked, banned, never = [await play.room_of(bob, alice) for _ in range(4)] + [await play.create(bob)]
    await play.change(alice, left, "leave")
    await play.change(bob, kicked, "kick", user_id=alice.user_id)
    await play.change(bob, banned, "ban", user_id=alice.user_id)
    await play.change(bob, never, "ban", user_id=alice.user_id)
    invited = await play.create(bob, invite=[alice.user_id])
    knocked = await play.create(bob, initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}])
    await play.ask(alice, "POST", f"/knock/{quote(knocked)}", {})
    await play.settle()
    assert await listed(alice) == [knocked, invited, banned, kicked, joined]
    await play.ask(alice, "POST", f"/rooms/{quote(kicked)}/forget", {})
    assert await listed(alice) == [knocked, invited, banned, joined]


@aio
async def test_a_room_that_the_user_left_is_told_once(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(bob, alice)
    client, late = Client(alice), Client(alice)
    await client.sync()
    await play.change(alice, room_id, "leave")
    assert await late.rooms() == {}, "it never knew the room"
    answer = await client.sync()
    assert answer["lists"]["all"]["count"] == 1
    assert types(answer["rooms"][room_id]) == ["m.room.member"]
    assert answer["rooms"][room_id]["timeline"][0]["content"]["membership"] == "leave"
    answer = await client.sync()
    assert (answer["lists"]["all"]["count"], answer["rooms"]) == (0, {})


@aio
async def test_who_was_kicked_sees_the_room_as_it_was_then(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(bob, alice)
    await set_state(play, bob, room_id, "m.room.topic", {"topic": "before"})
    client = Client(alice, {"lists": {"all": window(state=[["m.room.topic", ""]])}})
    await client.sync()
    await play.send(bob, room_id, "for both")
    await play.change(bob, room_id, "kick", user_id=alice.user_id)
    await play.send(bob, room_id, "for bob")
    await set_state(play, bob, room_id, "m.room.topic", {"topic": "after"})
    entry = await client.room(room_id)
    assert types(entry) == ["m.room.encrypted", "m.room.member"]
    assert await client.rooms() == {}
    fresh = await Client(alice, client.body).room(room_id)
    assert [event["content"]["topic"] for event in fresh["required_state"]] == ["before"]
    assert fresh["timeline"][-1]["content"]["membership"] == "leave"


@aio
async def test_unwanted_invitations_are_not_listed(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol")
    from_bob = await play.create(bob, invite=[alice.user_id])
    from_carol = await play.create(carol, invite=[alice.user_id])
    assert await listed(alice) == [from_carol, from_bob]
    await set_data(play, alice, "m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    assert await listed(alice) == [from_bob]
    await set_data(play, alice, "m.invite_permission_config", {"default_action": "block"})
    assert await listed(alice) == []
    await set_data(play, alice, "m.invite_permission_config", {})
    await set_data(play, alice, "m.ignored_user_list", {"ignored_users": {}})
    assert await listed(alice) == [from_carol, from_bob]


@aio
async def test_a_subscription_shows_nothing_to_who_is_not_in_the_room(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    foreign = await play.create(bob)
    public = await play.create(
        bob,
        preset="public_chat",
        initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}],
    )
    own = await play.create(alice)
    wanted = {"timeline_limit": 5, "required_state": [["*", "*"]]}
    rooms = {foreign: wanted, public: wanted, own: wanted, "!nowhere:example.org": wanted, "rubbish": wanted}
    assert set(await Client(alice, {"room_subscriptions": rooms}).rooms()) == {own}


# -- order and ranges


@aio
async def test_the_order_is_that_of_the_last_events_of_any_type(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    first, second, third = [await play.room_of(alice, bob) for _ in range(3)]
    assert await listed(alice) == [third, second, first]
    await play.send(bob, first, "hello")
    await play.settle()
    assert await listed(alice) == [first, third, second]
    await set_state(play, bob, second, "m.room.member", {"membership": "join", "displayname": "Bob"}, bob.user_id)
    assert await listed(alice) == [second, first, third]
    play.node("tehran").memory(_lists()).clear()
    assert await listed(alice) == [second, first, third], "the same when it is read anew"


def _lists() -> type:
    from homeserver.sync.sliding.room_list import RoomLists

    return RoomLists


@aio
async def test_ranges_cut_and_the_count_does_not(play: Play) -> None:
    alice = await play.user("alice")
    rooms = [await play.create(alice) for _ in range(6)][::-1]

    async def shown(*ranges: tuple[int, int]) -> list[str]:
        made = {**window(), "ranges": [list(each) for each in ranges]}
        answer = (await ask(alice, lists={"some": made})).json
        assert answer["lists"]["some"]["count"] == 6
        assert [each["room_ids"] for each in answer["lists"]["some"]["ops"]] == [rooms[a : b + 1] for a, b in ranges]
        return [room_id for room_id in rooms if room_id in answer["rooms"]]

    assert await shown((0, 1)) == rooms[:2]
    assert await shown((0, 0), (4, 5)) == [rooms[0], *rooms[4:]]
    assert await shown((2, 3), (3, 4)) == rooms[2:5]
    assert await shown((5, 99)) == rooms[5:]
    assert await shown((50, 99)) == []
    assert await shown() == []


@aio
async def test_a_room_that_comes_into_range_is_told_then(play: Play) -> None:
    alice = await play.user("alice")
    old, new = await play.create(alice), await play.create(alice)
    client = Client(alice, {"lists": {"all": window(0, 0)}})
    assert list(await client.rooms()) == [new]
    assert list(await client.rooms(lists={"all": window(0, 1)})) == [old]
    assert await client.rooms() == {}


# -- filters


@aio
async def test_filters_by_membership_and_encryption(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    joined = await play.create(alice)
    invited = await play.create(bob, invite=[alice.user_id])
    assert await listed(alice, is_invite=True) == [invited]
    assert await listed(alice, is_invite=False) == [joined]
    assert await listed(alice, is_encrypted=True) == [invited, joined]
    assert await listed(alice, is_encrypted=False) == []
    assert await listed(alice, is_encrypted=True, is_invite=False) == [joined]


@aio
async def test_filters_by_what_the_user_did_with_rooms(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    plain, direct, tagged = [await play.create(alice) for _ in range(3)]
    await set_data(play, alice, "m.direct", {bob.user_id: [direct], "@x:y": "rubbish"})
    await play.ask(alice, "PUT", f"/user/{quote(alice.user_id)}/rooms/{quote(tagged)}/tags/m.favourite", {})
    assert await listed(alice, is_dm=True) == [direct]
    assert await listed(alice, is_dm=False) == [tagged, plain]
    assert await listed(alice, tags=["m.favourite", "u.x"]) == [tagged]
    assert await listed(alice, not_tags=["m.favourite"]) == [direct, plain]
    assert await listed(alice, tags=["m.favourite"], not_tags=["m.favourite"]) == []
    await set_data(play, alice, "m.direct", {bob.user_id: [plain]})
    assert await listed(alice, is_dm=True) == [plain], "it has changed"


@aio
async def test_filters_by_type_and_space(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    plain, inside = await play.create(alice), await play.create(alice)
    space = await play.create(alice, creation_content={"type": "m.space"})
    odd = await play.create(bob, creation_content={"type": "odd"}, invite=[alice.user_id])
    assert await listed(alice, room_types=[None]) == [inside, plain]
    assert await listed(alice, room_types=["m.space"]) == [space]
    assert await listed(alice, room_types=["m.space", None]) == [space, inside, plain]
    assert await listed(alice, not_room_types=["m.space"]) == [odd, inside, plain]
    assert await listed(alice, room_types=["m.space", "odd"], not_room_types=["m.space"]) == [odd]
    assert await listed(alice, spaces=[space]) == []
    await set_state(play, alice, space, "m.space.child", {"via": ["example.org"]}, inside)
    assert await listed(alice, spaces=[space]) == [inside]
    assert await listed(alice, spaces=[odd, "!no:such"]) == []
    await set_state(play, alice, space, "m.space.child", {}, inside)
    assert await listed(alice, spaces=[space]) == []


@aio
async def test_a_filtered_list_keeps_up(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    client = Client(alice, {"lists": {"all": window(not_room_types=["m.space"], is_invite=False)}})
    await client.sync()
    invited = await play.create(bob, invite=[alice.user_id])
    await play.create(alice, creation_content={"type": "m.space"})
    assert await client.rooms() == {}
    await play.change(alice, invited, "join")
    assert (await client.room(invited))["initial"] is True


@pytest.mark.parametrize(
    "body",
    [
        {"lists": []},
        {"lists": {"a": []}},
        {"lists": {"x" * 65: {}}},
        {"lists": {str(number): {} for number in range(101)}},
        {"lists": {"a": {"ranges": [[1]]}}},
        {"lists": {"a": {"ranges": [[2, 1]]}}},
        {"lists": {"a": {"ranges": [[-1, 1]]}}},
        {"lists": {"a": {"ranges": [["0", "1"]]}}},
        {"lists": {"a": {"ranges": [[True, True]]}}},
        {"lists": {"a": {"timeline_limit": -1}}},
        {"lists": {"a": {"timeline_limit": 1001}}},
        {"lists": {"a": {"timeline_limit": "1"}}},
        {"lists": {"a": {"required_state": [["m.room.name"]]}}},
        {"lists": {"a": {"required_state": [["m.room.name", 1]]}}},
        {"lists": {"a": {"required_state": {"include": []}}}},
        {"lists": {"a": {"filters": {"is_dm": "yes"}}}},
        {"lists": {"a": {"filters": {"room_types": [1]}}}},
        {"lists": {"a": {"filters": {"tags": "m.favourite"}}}},
        {"room_subscriptions": {"!a:b": 1}},
        {"room_subscriptions": {f"!{number}:b": {} for number in range(101)}},
        {"extensions": 1},
        {"extensions": {"e2ee": True}},
        {"extensions": {"e2ee": {"enabled": "yes"}}},
        {"extensions": {"to_device": {"enabled": True, "since": "rubbish"}}},
        {"extensions": {"to_device": {"enabled": True, "limit": -1}}},
        {"extensions": {"receipts": {"enabled": True, "rooms": "all"}}},
        {"conn_id": 1},
        {"conn_id": "x" * 256},
    ],
)
@aio
async def test_what_is_malformed_is_refused(play: Play, body: dict[str, Any]) -> None:
    alice = await play.user("alice")
    answer = await ask(alice, **body)
    assert (answer.status, answer.errcode) in [(400, "M_BAD_JSON"), (400, "M_INVALID_PARAM")]


@aio
async def test_clients_find_out_that_it_is_served(play: Play) -> None:
    answer = await play.deployment.asked("GET", "/_matrix/client/versions")
    assert answer.json["unstable_features"]["org.matrix.simplified_msc3575"] is True
