"""Following a room of several servers to the one that replaces it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import FLOWING
from tests.federation.meetings import enter, kept_out, members, told
from tests.federation.test_restricted import for_members_of
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio


async def upgrade(play: Play, user: Any, room_id: str, version: str) -> str:
    path = f"/rooms/{quote(room_id)}/upgrade"
    return str((await play.ask(user, "POST", path, {"new_version": version}))["replacement_room"])


@pytest.mark.parametrize(("before", "after"), [("11", "12"), ("12", "10")])
@aio
async def test_a_user_of_another_server_follows(network: Network, before: str, after: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob", "paris")
    room_id = await a.create(alice, preset="public_chat", room_version=before, room_alias_name="garden")
    await enter(b, bob, room_id, "a.test")
    mine = f"/user/{quote(bob.user_id)}/rooms"
    await b.ask(bob, "PUT", f"{mine}/{quote(room_id)}/tags/m.favourite", {})
    new = await upgrade(a, alice, room_id, after)
    await network.settle()
    seen = [event for event in await b.timeline(bob, room_id) if event["type"] == "m.room.tombstone"]
    assert [event["content"]["replacement_room"] for event in seen] == [new]
    found = await b.ask(bob, "GET", f"/directory/room/{quote('#garden:a.test')}")
    assert found["room_id"] == new
    await enter(b, bob, new, "a.test")
    await network.settle()
    await b.send(bob, new, "roses")
    await network.settle()
    assert await a.texts(alice, new) == ["roses"]
    assert await members(a, alice, new) == {alice.user_id, bob.user_id}
    assert (await b.ask(bob, "GET", f"{mine}/{quote(new)}/tags"))["tags"] == {"m.favourite": {}}
    refused = await b.refused(bob, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": "@carol:b.test"})
    assert refused.status in (403, 404)


@aio
async def test_who_might_enter_the_old_room_may_enter_the_new(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol")
    hall = await a.create(alice, preset="public_chat")
    room_id = await a.create(alice, initial_state=for_members_of(hall), room_version="11")
    await enter(b, bob, hall, "a.test")
    await enter(b, bob, room_id, "a.test")
    new = await upgrade(a, alice, room_id, "12")
    await enter(b, bob, new, "a.test")
    assert (await kept_out(carol, new, "a.test")).errcode == "M_FORBIDDEN"
    plain = await upgrade(a, alice, new, "6")  # which knows no such rule
    rule = await a.ask(alice, "GET", f"/rooms/{quote(plain)}/state/m.room.join_rules/")
    assert rule == {"join_rule": "invite"}
    assert (await kept_out(bob, plain, "a.test")).errcode == "M_FORBIDDEN"


@aio
async def test_a_user_of_another_server_upgrades(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    levels = {"users": {alice.user_id: 100, bob.user_id: 100}}
    room_id = await a.create(alice, preset="public_chat", room_version="11", power_level_content_override=levels)
    await enter(b, bob, room_id, "a.test")
    new = await upgrade(b, bob, room_id, "12")
    await network.settle()
    await enter(a, alice, new, "b.test")
    assert await members(a, alice, new) == {alice.user_id, bob.user_id}
    assert await told(a, alice, "join", new) is not None
    assert await b.state_of("tehran", room_id) == await a.state_of("tehran", room_id)


@aio
async def test_a_room_that_may_no_longer_span_its_servers_is_not_replaced(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    closed = await network.found("closed.test", policy=FLOWING)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, "a.test")
    a.server.policy.now = closed.server.policy.now
    refused = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/upgrade", {"new_version": "12"})
    assert (refused.status, refused.json["org.domicile.reason"]) == (403, "flow_denied")
    assert (await a.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == [room_id]
