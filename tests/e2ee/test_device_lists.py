"""Whose keys changed, who has come to share a room, who shares none any more."""

from __future__ import annotations

from homeserver.e2ee import device_lists
from tests.e2ee.play import Device, KeyPlay
from tests.support import aio


async def lists(device: Device, since: str) -> tuple[list[str], list[str]]:
    """What `/sync` and `/keys/changes` both say."""
    answer = await device.sync(since)
    synced = answer.get("device_lists", {"changed": [], "left": []})
    asked = await device.gets("GET", "/keys/changes", **{"from": since, "to": answer["next_batch"]})
    assert asked == synced
    return synced["changed"], synced["left"]


async def now(device: Device) -> str:
    return str((await device.sync())["next_batch"])


@aio
async def test_changed_keys_are_told_to_those_who_share_a_room(play: KeyPlay) -> None:
    alice, bob, carol = await play.device("alice"), await play.device("bob"), await play.device("carol")
    await play.room_of(alice.user, bob.user)
    since = {device: await now(device) for device in (alice, bob, carol)}
    second = await bob.another()
    await second.publish()
    assert await lists(alice, since[alice]) == ([bob.user_id], [])
    assert await lists(bob, since[bob]) == ([bob.user_id], [])
    assert await lists(carol, since[carol]) == ([], [])
    later = await now(alice)
    await second.gets("POST", "/logout", {})
    assert await lists(alice, later) == ([bob.user_id], [])


@aio
async def test_one_time_keys_are_no_change(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    await play.room_of(alice.user, bob.user)
    since = await now(alice)
    await bob.gets("POST", "/keys/upload", {"one_time_keys": bob.one_time_keys("A")})
    await alice.claim(bob)
    assert await lists(alice, since) == ([], [])


@aio
async def test_joining_and_leaving(play: KeyPlay) -> None:
    alice, bob, carol = await play.device("alice"), await play.device("bob", "paris"), await play.device("carol")
    room_id = await play.room_of(alice.user, carol.user)
    since = await now(alice)
    await play.change(alice.user, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    assert await lists(alice, since) == ([], [])
    before = await now(bob)
    await play.change(bob.user, room_id, "join")
    await play.settle()
    assert await lists(alice, since) == ([bob.user_id], [])
    assert await lists(bob, before) == (sorted([alice.user_id, carol.user_id]), [])
    since, before = await now(alice), await now(bob)
    await play.change(bob.user, room_id, "leave")
    await play.settle()
    assert await lists(alice, since) == ([], [bob.user_id])
    assert await lists(bob, before) == ([], sorted([alice.user_id, carol.user_id]))
    since = await now(alice)
    await play.change(alice.user, room_id, "kick", user_id=carol.user_id)
    assert await lists(alice, since) == ([], [carol.user_id])


@aio
async def test_another_room_still_holds_them_together(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    room_id = await play.room_of(alice.user, bob.user)
    await play.room_of(alice.user, bob.user)
    since = await now(alice)
    await play.change(bob.user, room_id, "leave")
    assert await lists(alice, since) == ([], [])


@aio
async def test_a_changed_name_is_no_change_of_keys(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    room_id = await play.room_of(alice.user, bob.user)
    since = await now(alice)
    path = f"/rooms/{room_id}/state/m.room.member/{bob.user_id}"
    await bob.gets("PUT", path, {"membership": "join", "displayname": "Bobby"})
    assert await lists(alice, since) == ([], [])
    since = await now(bob)
    await bob.gets("PUT", path, {"membership": "join", "displayname": "Bob"})
    assert await lists(bob, since) == ([], [])


@aio
async def test_nothing_changed_costs_nothing(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    room_id = await play.room_of(alice.user, bob.user)
    caller = await alice.user.caller()
    node = caller.node
    since = node.position
    await play.send(bob.user, room_id, "hello")
    trips = node.engine.trips
    assert await device_lists.changed(node, caller.user_nid, since, node.position) == ([], [])
    other = await play.create(bob.user)
    assert other
    trips = node.engine.trips
    assert await device_lists.changed(node, caller.user_nid, since, node.position, [1]) == ([], [])
    assert node.engine.trips == trips


@aio
async def test_malformed_spans(play: KeyPlay) -> None:
    alice = await play.device("alice")
    since = await now(alice)
    for query, errcode in [
        ({"from": since}, "M_MISSING_PARAM"),
        ({"to": since}, "M_MISSING_PARAM"),
        ({"from": "x", "to": since}, "M_INVALID_PARAM"),
    ]:
        assert (await alice.asks("GET", "/keys/changes", **query)).errcode == errcode
    assert await alice.gets("GET", "/keys/changes", **{"from": since, "to": since}) == {"changed": [], "left": []}
