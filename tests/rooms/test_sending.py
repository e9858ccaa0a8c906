"""Rooms between two nodes: created, joined across the border, written to from both sides, the same on both."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from config.sections.rooms import CLEAR_EVENT_TYPES
from homeserver.protocol.encryption_rules import IN_CLEAR
from homeserver.rooms import state
from homeserver.rooms.persist import Persister
from tests.deployment import POLICY
from tests.rooms.play import Cast, Play, ciphertext
from tests.support import aio


@aio
async def test_creating_a_room(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, name="Garden", topic="Roses")
    room = await play.replica("tehran", room_id)
    assert ("m.room.encryption", "") in room.now.state
    assert room.now.nodes == {"tehran": 1}
    assert room.home == "tehran"
    kinds = [event["type"] for event in await play.timeline(alice, room_id)]
    assert kinds == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.encryption",
        "m.room.name",
        "m.room.topic",
    ]
    assert (await play.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == [room_id]


@aio
async def test_inviting_across_the_border(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, name="Garden")
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    assert await state.find(play.node("paris"), room_id) is None, "an invitation brings no replica"
    await play.change(bob, room_id, "join")
    await play.assert_equal(room_id)
    room = await play.replica("paris", room_id)
    assert room.now.nodes == {"tehran": 1, "paris": 1}
    assert list(room.residents) == [bob.user_id]
    assert (await play.ask(bob, "GET", "/joined_rooms"))["joined_rooms"] == [room_id]


@aio
async def test_declining_an_invitation_from_elsewhere(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, invite=[bob.user_id])
    await play.settle()
    await play.change(bob, room_id, "leave")
    room = await play.replica("tehran", room_id)
    assert room.now.membership(bob.user_id) == "leave"
    assert (room.now.joined, room.now.invited) == (1, 0)
    await play.settle()
    await play.change(bob, room_id, "forget")


@aio
async def test_both_sides_read_what_either_sends(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    for number in range(5):
        await play.send(alice, room_id, f"salaam {number}")
        await play.send(bob, room_id, f"salut {number}")
    await play.assert_equal(room_id)
    assert await play.texts(alice, room_id) == await play.texts(bob, room_id)
    assert len(await play.texts(bob, room_id)) == 10


@aio
async def test_many_senders_at_once_fork_nothing(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    senders = [play.send(user, room_id, f"{user.user_id} {number}") for number in range(30) for user in (alice, bob)]
    sent = await asyncio.gather(*senders)
    assert len(set(sent)) == 60
    await play.assert_equal(room_id)
    room = await play.replica("tehran", room_id)
    assert len(room.now.tips) == 1
    assert len(await play.texts(bob, room_id)) == 60


@aio
async def test_events_that_are_ready_together_are_committed_together(play: Play) -> None:
    alice = await play.user("alice")
    rooms = [await play.create(alice) for _ in range(4)]
    engine = play.node("tehran").engine
    await asyncio.gather(*(play.send(alice, room_id, "warm") for room_id in rooms))
    before = engine.trips
    await asyncio.gather(*(play.send(alice, room_id, f"{number}") for number in range(10) for room_id in rooms))
    assert engine.trips - before < 40, "each event had a transaction of its own"
    assert not play.node("tehran").memory(Persister).waiting
    for room_id in rooms:
        assert await play.texts(alice, room_id) == ["warm", *(str(number) for number in range(10))]


@pytest.mark.parametrize("sender", ["alice", "bob"])
@aio
async def test_a_repeated_request_finds_its_event(play: Play, sender: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    user = {"alice": alice, "bob": bob}[sender]
    first = await play.send(user, room_id, "once", "m1")
    assert await play.send(user, room_id, "once", "m1") == first
    at_once = await asyncio.gather(*(play.send(user, room_id, "twice", "m2") for _ in range(3)))
    assert len(set(at_once)) == 1
    await play.assert_equal(room_id)
    assert await play.texts(alice, room_id) == ["once", "twice"]
    shown = [event for event in await play.timeline(user, room_id) if event["event_id"] == first]
    assert [event["unsigned"]["transaction_id"] for event in shown] == ["m1"]
    other = bob if user is alice else alice
    shown = [event for event in await play.timeline(other, room_id) if event["event_id"] == first]
    assert "transaction_id" not in shown[0]["unsigned"]


@aio
async def test_redacting_across_the_border(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(bob, room_id, "regretted")
    await play.settle()
    path = f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/r1"
    redaction = (await play.ask(bob, "PUT", path, {"reason": "typo"}))["event_id"]
    await play.assert_equal(room_id)
    for user in (alice, bob):
        (event,) = [event for event in await play.timeline(user, room_id) if event["event_id"] == event_id]
        assert event["content"] == {}
        assert event["unsigned"]["redacted_because"]["event_id"] == redaction
    other = await play.send(alice, room_id, "mine")
    await play.settle()
    refused = await play.refused(bob, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(other)}/r2", {})
    assert refused.errcode == "M_FORBIDDEN"


@aio
async def test_plaintext_is_refused(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    path = f"/rooms/{quote(room_id)}/send/m.room.message/t1"
    refused = await play.refused(alice, "PUT", path, {"msgtype": "m.text", "body": "readable"})
    assert refused.json["org.domicile.plaintext_refused"] is True
    assert await play.texts(alice, room_id) == []


@aio
async def test_a_call_rings_and_is_declined_in_the_clear(play: Play) -> None:
    """As the list of what is allowed in the clear says, which the settings and the rules agree on."""
    assert set(CLEAR_EVENT_TYPES) == IN_CLEAR
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    path = f"/rooms/{quote(room_id)}/send"
    ring = {"notification_type": "ring", "sender_ts": 1752583130365, "lifetime": 30000}
    rung = await play.ask(alice, "PUT", f"{path}/m.rtc.notification/t1", ring)
    relation = {"rel_type": "m.reference", "event_id": rung["event_id"]}
    await play.ask(bob, "PUT", f"{path}/m.rtc.decline/t2", {"m.relates_to": relation})
    await play.settle()
    for user in (alice, bob):
        kinds = [event["type"] for event in await play.timeline(user, room_id)]
        assert kinds[-2:] == ["m.rtc.notification", "m.rtc.decline"]
    offer = {"call_id": "c", "party_id": "p", "version": "1", "offer": {"type": "offer", "sdp": "v=0"}}
    refused = await play.refused(alice, "PUT", f"{path}/m.call.invite/t3", offer)
    assert refused.json["org.domicile.reason"] == "plaintext_refused"


@aio
async def test_who_is_not_in_the_room_sends_nothing(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob)
    refused = await play.refused(carol, "PUT", f"/rooms/{quote(room_id)}/send/m.room.encrypted/t", ciphertext("hello"))
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    await play.assert_equal(room_id)


@aio
async def test_a_flow_that_is_not_named_keeps_a_room_on_one_side(cast: Cast) -> None:
    play = await cast(policy=POLICY)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    refused = await play.refused(alice, "POST", "/createRoom", {"invite": [bob.user_id]})
    assert refused.json["org.domicile.reason"] == "flow_denied"
    assert (await play.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == []
    room_id = await play.create(alice, preset="public_chat")
    for user, verb, body in ((alice, "invite", {"user_id": bob.user_id}), (bob, "join", {})):
        refused = await play.refused(user, "POST", f"/rooms/{quote(room_id)}/{verb}", body)
        assert refused.json["org.domicile.reason"] == "flow_denied"
    assert (await play.replica("tehran", room_id)).now.nodes == {"tehran": 1}
    assert await state.find(play.node("paris"), room_id) is None


@aio
async def test_who_is_banned_without_an_invitation_is_not_told(cast: Cast) -> None:
    """So that nothing waits before a border that it may not cross, and keeps all else waiting."""
    play = await cast(policy=POLICY)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice)
    for verb in ("ban", "unban", "ban"):
        await play.change(alice, room_id, verb, user_id=bob.user_id)
        await play.settle()
    assert await state.find(play.node("paris"), room_id) is None
    assert "rooms" not in await play.ask(bob, "GET", "/sync")


@aio
async def test_who_is_banned_with_an_invitation_is_told(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, invite=[bob.user_id])
    await play.settle()
    since = await play.ask(bob, "GET", "/sync")
    assert room_id in since["rooms"]["invite"]
    await play.change(alice, room_id, "ban", user_id=bob.user_id)
    await play.settle()
    after = await play.ask(bob, "GET", "/sync", since=since["next_batch"])
    assert room_id in after["rooms"]["leave"]
