"""What is not an event of a room on its way to other servers: messages to devices, keys, receipts, typing, presence."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import quote

import pytest

from config.load import policy_from_text
from federation import sender, transactions
from homeserver.rooms.presence import Presences
from tests.deployment import FLOWING, User
from tests.e2ee.play import Device, Identity, message
from tests.e2ee.test_cross_signing import confirm
from tests.e2ee.test_unsigned import sign
from tests.federation import guests
from tests.federation.test_sender import LONG, ONE, TWO, contents, kinds, said, sent
from tests.network import OPEN, Network
from tests.rooms.play import Play
from tests.support import ON_SQLITE, aio

AWAY = 8
"""Minutes that a server is away in these tests."""


def edus(network: Network, kind: str, *, taken: bool = True) -> list[dict[str, Any]]:
    """The contents of the EDUs of a type that the second server has taken (or that left for it), in order."""
    return [
        edu["content"]
        for each in sent(network, ONE, TWO)
        if each.status == 200 or not taken
        for edu in contents(each)["edus"]
        if edu["edu_type"] == kind
    ]


async def meeting(network: Network, policy: str = OPEN) -> tuple[Play, User, User, str]:
    """A room of alice on the first server, of which the second believes to have bob there; settled."""
    one, two = await network.found(ONE, policy=policy), await network.found(TWO)
    alice, bob = await one.user("alice"), await two.user("bob")
    room_id = await one.create(alice, preset="public_chat")
    await guests.member(network, one, room_id, bob, "join")
    await network.settle()
    return one, alice, bob, room_id


async def away(network: Network) -> None:
    """Let so much time pass that the second server is found to be away."""
    for _ in range(AWAY):
        await network.clock.advance(60)
        await network.settle()


async def back(network: Network) -> None:
    """Let the second server be back."""
    network.mend(ONE, TWO)
    await network.clock.advance(LONG)
    await network.settle()


# messages to devices ------------------------------------------------------------------------


@aio
async def test_a_message_to_a_device_is_brought_to_its_server_once(network: Network) -> None:
    _, alice, bob, _ = await meeting(network)
    phone = Device(alice)
    network.lose_answers(ONE, TWO)
    for _ in range(2):  # the client repeats itself
        await phone.send("t1", {bob.user_id: {"PHONE": message("one"), "*": message("all")}})
    await away(network)
    await back(network)
    first, *again = edus(network, "m.direct_to_device", taken=False)
    assert again
    assert {each["message_id"] for each in again} == {first["message_id"]}
    assert len(edus(network, "m.direct_to_device")) == 1
    assert first["sender"] == alice.user_id
    assert first["messages"] == {bob.user_id: {"PHONE": message("one"), "*": message("all")}}
    assert len(first["message_id"]) <= 32


@aio
async def test_messages_that_are_too_much_for_one_edu_are_parted(network: Network) -> None:
    _, alice, bob, _ = await meeting(network)
    large = {"body": "x" * 30_000}
    await Device(alice).send("t1", {bob.user_id: {f"D{number}": large for number in range(5)}})
    await network.settle()
    parts = edus(network, "m.direct_to_device")
    assert len(parts) == 3
    assert len({part["message_id"] for part in parts}) == 3
    assert [device for part in parts for device in part["messages"][bob.user_id]] == [f"D{n}" for n in range(5)]


@aio
async def test_a_message_that_was_accepted_outlives_a_restart(network: Network) -> None:
    one, alice, bob, _ = await meeting(network)
    await one.end()
    await Device(alice).send("t1", {bob.user_id: {"PHONE": message("one")}})
    await one.begin()
    await network.settle()
    assert len(edus(network, "m.direct_to_device")) == 1


# keys ---------------------------------------------------------------------------------------


@aio
async def test_changes_of_devices_are_told_as_a_chain(network: Network) -> None:
    one, alice, _, _ = await meeting(network)
    phone = Device(alice)
    await phone.publish()
    laptop = await phone.another()
    await laptop.publish()
    await one.ask(laptop.user, "POST", "/logout", {})
    await network.settle()
    first, second, third = edus(network, "m.device_list_update")
    assert (first["device_id"], first["keys"]) == (phone.device_id, phone.device_keys())
    assert (second["device_id"], third["device_id"]) == (laptop.device_id, laptop.device_id)
    assert third["deleted"] is True
    assert "keys" not in third
    assert first["prev_id"] == []
    assert second["prev_id"] == [first["stream_id"]]
    assert third["prev_id"] == [second["stream_id"]]
    assert "phone" not in str(first)
    shown = await guests.asks(network.plays[TWO], ONE, "GET", f"/user/devices/{quote(alice.user_id)}")
    assert shown["stream_id"] == third["stream_id"]


def list_as_told(network: Network) -> set[str]:
    """The devices of a user, after all that the second server was told, one after another."""
    told = edus(network, "m.device_list_update")
    found: dict[str, bool] = {each["device_id"]: not each.get("deleted", False) for each in told}
    return {device_id for device_id, there in found.items() if there}


@aio
async def test_devices_of_an_identity_that_is_not_believed_come_back_when_it_is(network: Network) -> None:
    one, alice, _, _ = await meeting(network)
    phone, mine, other = Device(alice), Identity(alice.user_id), Identity(alice.user_id)
    await phone.publish()
    await phone.gets("POST", "/keys/device_signing/upload", mine.upload())
    await sign(phone, mine)
    laptop = await phone.another()
    await laptop.publish()
    await network.settle()
    assert list_as_told(network) == {phone.device_id}
    await sign(laptop, mine)
    await network.settle()
    assert list_as_told(network) == {phone.device_id, laptop.device_id}
    await confirm(laptop, other.upload())
    await sign(laptop, other)
    await network.settle()
    assert list_as_told(network) == set()
    await one.ask(phone.user, "POST", "/logout", {})
    await network.settle()
    assert list_as_told(network) == {laptop.device_id}


@aio
async def test_devices_that_go_together_are_told_one_after_another(network: Network) -> None:
    one, alice, _, _ = await meeting(network)
    phone = Device(alice)
    laptop = await phone.another()
    await phone.publish()
    await laptop.publish()
    await one.ask(phone.user, "POST", "/logout/all", {})
    await network.settle()
    told = edus(network, "m.device_list_update")
    assert [each.get("deleted", False) for each in told] == [False, False, True, True]
    assert {each["device_id"] for each in told[2:]} == {phone.device_id, laptop.device_id}
    assert [each["prev_id"] for each in told[1:]] == [[each["stream_id"]] for each in told[:-1]]


@aio
async def test_cross_signing_keys_are_told_but_not_the_one_for_users(network: Network) -> None:
    _, alice, _, _ = await meeting(network)
    keys = Identity(alice.user_id)
    phone = Device(alice)
    await phone.publish()
    await phone.gets("POST", "/keys/device_signing/upload", keys.upload())
    await network.settle()
    (told,) = edus(network, "m.signing_key_update")
    assert told["master_key"]["keys"] == keys.upload()["master_key"]["keys"]
    assert set(told) == {"user_id", "master_key", "self_signing_key"}


@aio
async def test_servers_that_share_no_room_are_told_nothing(network: Network) -> None:
    one, _, _, _ = await meeting(network)
    carol = await one.user("carol")
    await Device(carol).publish()
    await network.settle()
    assert sent(network, ONE, TWO) == []


# receipts, typing, presence -----------------------------------------------------------------


async def read(play: Play, user: User, room_id: str, event_id: str, kind: str = "m.read", **body: str) -> None:
    await play.ask(user, "POST", f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id)}", body)


@aio
async def test_a_public_receipt_is_told_and_a_private_one_is_not(network: Network) -> None:
    one, alice, _, room_id = await meeting(network)
    event_id = await one.send(alice, room_id, "hello")
    await read(one, alice, room_id, event_id, "m.read.private")
    await read(one, alice, room_id, event_id)
    await read(one, alice, room_id, event_id, thread_id="main")
    await network.settle()
    told = [each[room_id]["m.read"][alice.user_id] for each in edus(network, "m.receipt")]
    assert [each["event_ids"] for each in told] == [[event_id], [event_id]]
    assert [each["data"].get("thread_id") for each in told] == [None, "main"]


@aio
async def test_of_receipts_that_wait_the_last_is_told(network: Network) -> None:
    one, alice, _, room_id = await meeting(network)
    network.cut(ONE, TWO)
    for number in range(4):
        await read(one, alice, room_id, await one.send(alice, room_id, f"message {number}"))
    last = (await one.timeline(alice, room_id))[-1]["event_id"]
    await away(network)
    await back(network)
    (told,) = edus(network, "m.receipt")
    assert told[room_id]["m.read"][alice.user_id]["event_ids"] == [last]


@aio
async def test_typing_is_told_when_it_begins_and_ends_and_forgotten_meanwhile(network: Network) -> None:
    one, alice, _, room_id = await meeting(network)
    path = f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}"
    for _ in range(3):
        await one.ask(alice, "PUT", path, {"typing": True, "timeout": 20_000})
        await network.settle()
    await network.clock.advance(21)
    await network.settle()
    assert [each["typing"] for each in edus(network, "m.typing")] == [True, False]
    network.cut(ONE, TWO)
    await one.send(alice, room_id, "hello")
    await one.ask(alice, "PUT", path, {"typing": True})
    await away(network)
    await back(network)
    assert kinds(network, ONE, TWO) == ["m.room.encrypted"]
    assert len(edus(network, "m.typing")) == 2


async def be_online(play: Play, user: User, **more: str) -> None:
    """Be seen online; those who are to know have been told when it ends."""
    await play.ask(user, "PUT", f"/presence/{quote(user.user_id)}/status", {"presence": "online", **more})
    everybody = [followed for node in play.server.nodes for followed in node.memory(Presences).followed.values()]
    while telling := [followed.task for followed in everybody if followed.task is not None]:
        await asyncio.wait(telling)


@aio
async def test_the_presence_of_a_member_is_told(network: Network) -> None:
    one, alice, _, _ = await meeting(network)
    await be_online(one, alice, status_msg="here")
    await network.settle()
    (told,) = edus(network, "m.presence")
    (shown,) = told["push"]
    assert (shown["user_id"], shown["presence"], shown["status_msg"]) == (alice.user_id, "online", "here")
    assert shown["last_active_ago"] == 0


# the border ---------------------------------------------------------------------------------

ABROAD = (
    FLOWING.replace("[[pins]]", '[jurisdictions.DE]\nname = "Germany"\n[[pins]]', 1)
    + f'[[peers]]\nserver = "{TWO}"\njurisdiction = "DE"\n'
    + '[[flows]]\nfrom = "DE"\nto = ["IR", "FR"]\nclasses = ["*"]\nconsent = false\n'
)


def letting(*classes: str) -> str:
    """A policy that lets these classes flow from Iran to the second server."""
    named = ", ".join(f'"{name}"' for name in classes)
    return ABROAD + f'[[flows]]\nfrom = "IR"\nto = ["DE"]\nclasses = [{named}]\nconsent = false\n'


@aio
async def test_what_a_new_policy_forbids_does_not_leave_though_it_waits(network: Network) -> None:
    one, alice, bob, room_id = await meeting(network, letting("*"))
    network.cut(ONE, TWO)
    hidden = await said(one, alice, room_id, 3)
    await Device(alice).send("t1", {bob.user_id: {"PHONE": message("secret")}})
    await network.settle()
    one.server.policy.now = policy_from_text(letting("presence"), "residency.toml", ONE)
    await back(network)
    left = network.bytes_out(ONE)
    assert not [text for text in hidden if text.encode() in left]
    assert base64.b64encode(b"secret") not in left
    assert b"m.direct_to_device" not in left
    withheld = one.server.telemetry.counter("domicile_federation_withheld", "", ["class"])
    assert (withheld.value("events"), withheld.value("mailbox")) == (3, 1)
    one.server.policy.now = policy_from_text(letting("*"), "residency.toml", ONE)
    shown = await said(one, alice, room_id, 1)
    await network.settle()
    assert [pdu["content"]["ciphertext"] for pdu in contents(sent(network, ONE, TWO)[-1])["pdus"]] == shown


@ON_SQLITE
@aio
async def test_what_is_forbidden_while_it_waits_for_its_turn_does_not_leave(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a transaction and sending it others may have to be waited for."""
    one, alice, _, room_id = await meeting(network, letting("*"))
    await network.settle()
    make = transactions.transaction

    def isolated_meanwhile(*args: Any) -> Any:
        one.server.policy.isolated = {"IR"}
        return make(*args)

    monkeypatch.setattr(sender, "transaction", isolated_meanwhile)
    (hidden,) = await said(one, alice, room_id, 1)
    await network.settle()
    assert one.server.policy.isolated
    assert hidden.encode() not in network.bytes_out(ONE)
    monkeypatch.undo()
    one.server.policy.isolated = ()
    await back(network)
    assert hidden.encode() in network.bytes_out(ONE)
