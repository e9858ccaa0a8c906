"""Joining rooms of other servers."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.federation.meetings import enter, members
from tests.network import Network
from tests.support import aio


@pytest.mark.parametrize("version", ["1", "2", "3", "6", "10", "11", "12"])
@aio
async def test_a_public_room_is_joined(network: Network, version: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat", name="Hall", room_version=version)
    await a.send(alice, room_id, "before")
    await enter(b, bob, room_id, "a.test")
    assert await a.state_of("tehran", room_id) == await b.state_of("tehran", room_id)
    assert await members(a, alice, room_id) == await members(b, bob, room_id) == {alice.user_id, bob.user_id}
    assert [event["type"] for event in await b.timeline(bob, room_id)] == ["m.room.member"]
    await b.send(bob, room_id, "hello")
    assert await b.texts(bob, room_id) == ["hello"]


@aio
async def test_whoever_is_at_home_on_another_node_follows(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol", "paris")
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, "a.test")
    asked = len(network.exchanges)
    await b.ask(carol, "POST", f"/join/{quote(room_id)}", {})
    assert not [each for each in network.exchanges[asked:] if each.source == "b.test" and "join" in each.target]
    await b.assert_equal(room_id)


@aio
async def test_the_first_member_decides_which_node_is_home(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob", "paris")
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, "a.test")
    home = await b.server.nodes.of_room(room_id)
    assert home is b.node("paris")
    assert (await b.replica("paris", room_id)).home == "paris"


@aio
async def test_a_room_is_joined_by_an_alias(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat", room_alias_name="hall")
    joined = await b.ask(bob, "POST", f"/join/{quote('#hall:a.test')}", {})
    assert joined == {"room_id": room_id}
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}
    assert (await b.refused(bob, "POST", f"/join/{quote('#none:a.test')}", {})).status == 404
