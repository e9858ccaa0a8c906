"""Changes of keys do not pile up for a server that is away for long, and it finds out that it missed some."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from federation import batches, leftovers
from homeserver.rooms.outgoing import Lines
from homeserver.runtime.pauses import MOST_FAILURES
from homeserver.storage import peers
from homeserver.storage.engine import Transaction
from tests.deployment import User
from tests.e2ee.play import Device, Identity
from tests.federation import guests
from tests.federation.test_outgoing_edus import away, back, edus, meeting
from tests.federation.test_sender import ONE, TWO, kinds, said, texts
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

UPDATE = "m.device_list_update"


def collapsed(play: Play) -> float:
    """How many changes were given up."""
    return play.server.telemetry.counter("domicile_federation_collapsed", "").value()


@aio
async def test_of_the_changes_of_a_user_s_keys_the_last_is_sent_to_who_was_away_for_long(network: Network) -> None:
    one, alice, bob, room_id = await meeting(network)
    carol = Device(await one.user("carol"))
    await one.change(carol.user, room_id, "join")
    phone = Device(alice)
    await phone.publish()
    await network.settle()
    (known,) = edus(network, UPDATE)
    network.cut(ONE, TWO)
    for _ in range(3):
        await (await phone.another()).publish()
    await carol.publish()
    await phone.send("t1", {bob.user_id: {"PHONE": {"body": "x"}}})
    await away(network)
    await leftovers.tidy(one.server)
    assert collapsed(one) == 0, "it has not been away for long"
    node = one.node("tehran")
    row = await node.read(peers.find, TWO)
    await node.write(peers.put, [row._replace(failures=MOST_FAILURES)])
    await leftovers.tidy(one.server)
    assert collapsed(one) == 2
    await back(network)
    later = edus(network, UPDATE)[1:]
    assert sorted(each["user_id"] for each in later) == [alice.user_id, carol.user_id]
    (last,) = [each for each in later if each["user_id"] == alice.user_id]
    assert last["prev_id"] != [known["stream_id"]], "something is missing"
    assert len(edus(network, "m.direct_to_device")) == 1


def test_a_server_is_away_for_long_when_its_pauses_make_a_day() -> None:
    assert leftovers.failures_in(1.0, 3600.0) == 3  # 0.75 and 1.5 seconds
    assert leftovers.failures_in(leftovers.LONG_AWAY, 3600.0) == 44
    assert leftovers.failures_in(leftovers.LONG_AWAY, 60.0) == MOST_FAILURES


# given up -----------------------------------------------------------------------------------

DAY = 24 * 3600.0


def expired(play: Play) -> float:
    """How many messages to devices were given up."""
    return play.server.telemetry.counter("domicile_federation_expired", "").value()


async def waiting_edus(play: Play) -> int:
    """How many EDUs wait on tehran."""

    async def count(tx: Transaction) -> int:
        row = await tx.one("SELECT COUNT(*) FROM peer_edus")
        assert row is not None
        return int(row[0])

    return await play.node("tehran").read(count)


async def days_pass(network: Network, play: Play, days: int) -> None:
    """Let days go by in which the second server is tried in vain, so often that it is away for long."""
    node = play.node("tehran")
    for _ in range(days):
        row = await node.read(peers.find, TWO)
        await node.write(peers.put, [row._replace(failures=MOST_FAILURES)])
        for line in node.memory(Lines).held.values():
            line.failures = MOST_FAILURES
        await network.clock.advance(DAY)
        await network.settle()
        await leftovers.tidy(play.server)


async def fallen_silent(network: Network) -> tuple[Play, User, User, str, Device]:
    """The second server is away, and alice's phone has published its keys before that."""
    one, alice, bob, room_id = await meeting(network)
    phone = Device(alice)
    await phone.publish()
    await network.settle()
    await leftovers.tidy(one.server)
    network.cut(ONE, TWO)
    return one, alice, bob, room_id, phone


@aio
async def test_what_waited_for_too_long_is_given_up(network: Network) -> None:
    one, alice, bob, room_id, phone = await fallen_silent(network)
    await phone.send("t1", {bob.user_id: {"PHONE": {"body": "old"}}})
    laptop = await phone.another()
    await laptop.publish()
    await phone.gets("POST", "/keys/device_signing/upload", Identity(alice.user_id).upload())
    old = await said(one, alice, room_id, 5)
    read = (await one.timeline(alice, room_id))[-1]["event_id"]
    await one.ask(alice, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(read)}", {})
    await days_pass(network, one, 20)
    assert (expired(one), await waiting_edus(one)) == (0, 3)
    await phone.send("t2", {bob.user_id: {"PHONE": {"body": "new"}}})
    new = await said(one, alice, room_id, 5)
    await days_pass(network, one, 12)
    assert (expired(one), await waiting_edus(one)) == (1, 1)
    await back(network)
    assert texts(network, ONE, TWO) == [old[-1], *new], "the newest of what is old, and all that is not"
    (message,) = edus(network, "m.direct_to_device")
    assert message["messages"][bob.user_id]["PHONE"] == {"body": "new"}
    assert edus(network, "m.receipt") == []
    introduced = edus(network, "m.device_list_update")[1:]
    assert [each["device_id"] for each in introduced] == sorted((phone.device_id, laptop.device_id))
    assert [each["prev_id"] for each in introduced] == [[], []]
    assert len(edus(network, "m.signing_key_update")) == 1
    shown = await guests.asks(network.plays[TWO], ONE, "GET", f"/user/devices/{quote(alice.user_id)}")
    assert {each["stream_id"] for each in introduced} == {shown["stream_id"]}
    await one.send(alice, room_id, "and on")
    await network.settle()
    assert len(edus(network, "m.device_list_update")) == 3, "it is told once"
    assert kinds(network, ONE, TWO)[-1] == "m.room.encrypted"
    assert not await one.node("tehran").read(peers.owed)


@pytest.mark.parametrize("when", ["before it is back", "before it is told"])
@aio
async def test_who_was_given_up_is_told_of_keys_after_a_crash_too(
    network: Network, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    one, alice, _, room_id, phone = await fallen_silent(network)
    await (await phone.another()).publish()
    await days_pass(network, one, 32)
    node = one.node("tehran")
    assert await node.read(peers.owed) == {TWO}
    if when == "before it is told":
        with monkeypatch.context() as patch:

            async def killed(*args: object) -> None:
                raise RuntimeError

            patch.setattr("federation.sender._Sender.make_up", killed)
            await one.send(alice, room_id, "hello")
            await back(network)
        assert len(edus(network, "m.device_list_update")) == 1
    await one.end()
    node._memories.clear()
    await one.begin()
    await one.send(alice, room_id, "hello")
    await back(network)
    assert len(edus(network, "m.device_list_update")) == 3


@aio
async def test_many_changes_are_told_some_at_a_time(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    one, alice, _, room_id, _ = await fallen_silent(network)
    monkeypatch.setattr("homeserver.e2ee.introductions.AT_ONCE", 2)
    others = [await one.user(f"user{number}") for number in range(5)]
    for user in others:
        await one.change(user, room_id, "join")
        await Device(user).publish()
    stranger = Device(await one.user("stranger"))
    await stranger.publish()
    await days_pass(network, one, 32)
    assert await waiting_edus(one) == 0
    await one.send(alice, room_id, "hello")
    await back(network)
    told = [each["user_id"] for each in edus(network, "m.device_list_update")[1:]]
    assert told == [user.user_id for user in others]


@aio
async def test_who_can_be_reached_is_sent_whatever_is_old(network: Network) -> None:
    """It was this server that was not there."""
    one, alice, bob, room_id = await meeting(network)
    await leftovers.tidy(one.server)
    await one.end()
    await Device(alice).send("t1", {bob.user_id: {"PHONE": {"body": "x"}}})
    written = await said(one, alice, room_id, 3)
    await network.clock.advance(40 * DAY)
    await leftovers.tidy(one.server)
    await one.begin()
    await network.settle()
    assert texts(network, ONE, TWO) == written
    assert len(edus(network, "m.direct_to_device")) == 1


@aio
async def test_positions_are_looked_through_in_stretches(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    one, alice, _, room_id = await meeting(network)
    monkeypatch.setattr(batches, "STRETCH", 7)
    elsewhere = await one.create(alice)
    await one.end()
    written = []
    for _ in range(4):
        written += await said(one, alice, room_id, 2)
        await said(one, alice, elsewhere, 20)
    network.cut(ONE, TWO)
    await one.begin()
    await away(network)
    await back(network)
    assert texts(network, ONE, TWO) == written
