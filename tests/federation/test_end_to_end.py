"""What a user does on one server, and another is shown on theirs: events and all that is none."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.sender import SAVED_AFTER
from homeserver.storage import peers
from tests.deployment import User
from tests.e2ee.play import Device, message
from tests.federation.meetings import enter
from tests.federation.test_outgoing_edus import be_online, read
from tests.federation.test_sender import contents, sent
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

ONE, TWO = "one.test", "two.test"


async def meeting(network: Network) -> tuple[Play, Play, User, User, str]:
    """alice and bob, each on their server, in a room of alice's."""
    one, two = await network.found(ONE), await network.found(TWO)
    alice, bob = await one.user("alice"), await two.user("bob")
    room_id = await one.create(alice, invite=[bob.user_id])
    await network.settle()
    await enter(two, bob, room_id, ONE)
    await network.settle()
    return one, two, alice, bob, room_id


async def look(play: Play, user: User, since: str | None = None) -> dict[str, Any]:
    """What `/sync` tells now."""
    more = {} if since is None else {"since": since}
    return await play.ask(user, "GET", "/sync", timeout="0", **more)


@aio
async def test_messages_go_both_ways(network: Network) -> None:
    one, two, alice, bob, room_id = await meeting(network)
    for number in range(3):
        await one.send(alice, room_id, f"from alice {number}")
        await network.settle()
        await two.send(bob, room_id, f"from bob {number}")
        await network.settle()
    told = [f"from {who} {number}" for number in range(3) for who in ("alice", "bob")]
    assert await one.texts(alice, room_id) == told
    assert (await two.texts(bob, room_id))[-6:] == told


@aio
async def test_receipts_typing_and_presence_are_shown(network: Network) -> None:
    one, two, alice, bob, room_id = await meeting(network)
    event_id = await one.send(alice, room_id, "hello")
    await network.settle()
    since = (await look(two, bob))["next_batch"]
    await read(one, alice, room_id, event_id)
    await one.ask(alice, "PUT", f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}", {"typing": True})
    await be_online(one, alice, status_msg="here")
    await network.settle()
    shown = await look(two, bob, since)
    ephemeral = {event["type"]: event["content"] for event in shown["rooms"]["join"][room_id]["ephemeral"]["events"]}
    assert alice.user_id in ephemeral["m.receipt"][event_id]["m.read"]
    assert ephemeral["m.typing"]["user_ids"] == [alice.user_id]
    (presence,) = [event for event in shown["presence"]["events"] if event["sender"] == alice.user_id]
    assert (presence["content"]["presence"], presence["content"]["status_msg"]) == ("online", "here")


@aio
async def test_keys_and_messages_to_devices_arrive(network: Network) -> None:
    _, two, alice, bob, _ = await meeting(network)
    phone, pc = Device(alice), Device(bob)
    await pc.publish()
    await phone.publish()
    await network.settle()
    since = (await look(two, bob))["next_batch"]
    assert set((await pc.query(alice))["device_keys"][alice.user_id]) == {phone.device_id}
    laptop = await phone.another()
    await laptop.publish()
    await phone.send("t1", {bob.user_id: {pc.device_id: message("psst")}})
    await network.settle()
    shown = await look(two, bob, since)
    assert alice.user_id in shown["device_lists"]["changed"]
    (event,) = shown["to_device"]["events"]
    assert (event["sender"], event["content"]) == (alice.user_id, message("psst"))
    assert set((await pc.query(alice))["device_keys"][alice.user_id]) == {phone.device_id, laptop.device_id}
    await laptop.gets("POST", "/logout", {})
    await network.settle()
    assert set((await pc.query(alice))["device_keys"][alice.user_id]) == {phone.device_id}


@aio
async def test_what_is_sent_again_after_a_crash_is_shown_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, alice, bob, room_id = await meeting(network)
    phone, pc = Device(alice), Device(bob)
    await pc.publish()
    await network.clock.advance(SAVED_AFTER)
    since = (await look(two, bob))["next_batch"]

    async def lost(*_: object) -> None:
        """The cursor is not written: the process was killed before."""

    monkeypatch.setattr(peers, "put", lost)
    await one.send(alice, room_id, "before")
    await phone.send("t1", {bob.user_id: {pc.device_id: message("one")}})
    await network.settle()
    await one.end()
    monkeypatch.undo()
    await one.send(alice, room_id, "after")
    await phone.send("t2", {bob.user_id: {pc.device_id: message("two")}})
    taken = len(sent(network, ONE, TWO))
    await one.begin()
    await network.settle()
    (again,) = sent(network, ONE, TWO)[taken:]
    assert (len(contents(again)["pdus"]), len(contents(again)["edus"])) == (2, 2)
    assert (await two.texts(bob, room_id))[-2:] == ["before", "after"]
    shown = await look(two, bob, since)
    assert [event["content"] for event in shown["to_device"]["events"]] == [message("one"), message("two")]
