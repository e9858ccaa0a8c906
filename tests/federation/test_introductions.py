"""Servers that come to share a room with a user because the user joins it are told of the devices; others are not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from config.load import policy_from_text
from homeserver.e2ee import introductions
from homeserver.rooms.encounters import MET
from homeserver.storage import chores
from tests.e2ee.play import Device, Identity
from tests.federation import guests
from tests.federation.meetings import enter
from tests.federation.test_outgoing_edus import edus, letting, meeting
from tests.federation.test_sender import ONE, TWO
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

DEVICES, KEYS = "m.device_list_update", "m.signing_key_update"


async def introduce(network: Network, play: Play) -> None:
    """Let the chores of all nodes be done, and what comes of them be sent."""
    await play.settle()
    for node in play.server.nodes:
        await introductions.introduce_waiting(play.server, node)
        assert await node.read(chores.waiting, MET, 10) == []
    await network.settle()


async def told(network: Network, *devices: Device) -> list[dict[str, Any]]:
    """What the second server has been told of the devices of one user, which is all of it."""
    found = edus(network, DEVICES)
    assert [each["device_id"] for each in found] == sorted(device.device_id for device in devices)
    return found


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_who_joins_is_made_known_to_the_servers_in_the_room(network: Network, node: str) -> None:
    one, _, _, room_id = await meeting(network)
    carol = await one.user("carol", node)
    phone, keys = Device(carol), Identity(carol.user_id)
    laptop = await phone.another()
    await phone.publish()
    await laptop.publish()
    await phone.gets("POST", "/keys/device_signing/upload", keys.upload())
    await introduce(network, one)
    await told(network)  # nothing: they have not met
    await one.change(carol, room_id, "join")
    await introduce(network, one)
    made = await told(network, phone, laptop)
    assert [each["keys"]["keys"] for each in made] == [
        device.device_keys()["keys"] for device in sorted((phone, laptop), key=lambda each: each.device_id)
    ]
    shown = await guests.asks(network.plays[TWO], ONE, "GET", f"/user/devices/{carol.user_id}")
    assert {each["stream_id"] for each in made} == {shown["stream_id"]}
    assert [each["prev_id"] for each in made] == [[], []]
    (signing,) = edus(network, KEYS)
    assert set(signing) == {"user_id", "master_key", "self_signing_key"}
    await one.ask(laptop.user, "POST", "/logout", {})
    await network.settle()
    assert edus(network, DEVICES)[-1]["prev_id"] == [shown["stream_id"]], "the next one follows it"


@aio
async def test_who_is_known_already_is_not_told_of_again(network: Network) -> None:
    one, alice, bob, room_id = await meeting(network)
    await Device(alice).publish()
    carol = await one.user("carol")  # who stays
    other = await one.create(carol, preset="public_chat")
    await one.change(carol, room_id, "join")
    await guests.member(network, one, other, bob, "join")
    await network.settle()
    before = edus(network, DEVICES)
    await one.change(alice, other, "join")
    await one.ask(alice, "PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    await introduce(network, one)
    await one.change(alice, room_id, "leave")
    await one.change(alice, other, "leave")
    await introduce(network, one)
    assert edus(network, DEVICES) == before
    await one.change(alice, room_id, "join")
    await one.change(alice, other, "join")  # both are new together: neither keeps the other from being told
    await introduce(network, one)
    assert len(edus(network, DEVICES)) == len(before) + 1


@aio
async def test_a_change_of_name_in_a_room_is_no_introduction(network: Network) -> None:
    one, alice, _, room_id = await meeting(network)
    await Device(alice).publish()
    await introduce(network, one)
    before = edus(network, DEVICES)
    path = f"/rooms/{room_id}/state/m.room.member/{alice.user_id}"
    await one.ask(alice, "PUT", path, {"membership": "join", "displayname": "Alice"})
    assert await one.node("tehran").read(chores.waiting, MET, 10) == []
    await introduce(network, one)
    assert edus(network, DEVICES) == before


@aio
async def test_who_joins_a_room_of_another_server_is_made_known_to_it(network: Network) -> None:
    one, two = await network.found(ONE), await network.found(TWO)
    alice, bob = await one.user("alice"), await two.user("bob")
    phone = Device(alice)
    await phone.publish()
    room_id = await two.create(bob, preset="public_chat")
    await enter(one, alice, room_id, TWO)
    await introduce(network, one)
    await told(network, phone)
    second = Device(await one.user("dora", "paris"))  # whose node has nothing of the room yet
    await second.publish()
    await one.change(second.user, room_id, "join")
    await introduce(network, one)
    assert [each["user_id"] for each in edus(network, DEVICES)] == [alice.user_id, second.user_id]


@aio
async def test_where_keys_may_not_flow_nobody_is_introduced(network: Network) -> None:
    one, _, _, room_id = await meeting(network, letting("*"))
    carol = await one.user("carol")
    await Device(carol).publish()
    await one.change(carol, room_id, "join")
    one.server.policy.now = policy_from_text(letting("events", "profile"), "residency.toml", ONE)
    await introduce(network, one)
    assert edus(network, DEVICES, taken=False) == []
    withheld = one.server.telemetry.counter("domicile_federation_withheld", "", ["class"])
    assert withheld.value("keys") == 0, "it was not even queued"


@aio
async def test_an_introduction_is_made_as_soon_as_it_is_asked_for(network: Network) -> None:
    one, _, _, room_id = await meeting(network)
    carol = await one.user("carol")
    phone = Device(carol)
    await phone.publish()
    following = asyncio.create_task(introductions.follow(one.server, one.node("tehran")))
    try:
        await one.change(carol, room_id, "join")
        async with asyncio.timeout(20):
            while not edus(network, DEVICES):
                await asyncio.sleep(0)
                await network.settle()
    finally:
        following.cancel()
    await told(network, phone)
