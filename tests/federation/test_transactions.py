"""Transactions of other servers: taken in once, event by event, and no more than may be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from federation import asking_rooms, gaps, inbound, remote
from federation.inbound import Inbound
from federation.remote import RemoteRefusal
from homeserver.context import CurrentPolicy
from homeserver.protocol import canonical
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.signing import SigningKey
from homeserver.rooms import receive
from homeserver.runtime.exchange import Unreachable
from homeserver.storage.events import Verdict
from tests.deployment import POLICY, User
from tests.federation.forging import SEND, scene, third
from tests.federation.meetings import enter
from tests.federation.towns import World
from tests.network import Network
from tests.rooms.play import Play, ciphertext
from tests.support import aio

REFUSED = "domicile_federation_refused"


@aio
async def test_events_are_taken_in_in_order(network: Network) -> None:
    made = await scene(network)
    first = await made.message("one")
    second = await made.message("two", after=[first])
    assert await made.tell([first, second]) == {first.event_id: {}, second.event_id: {}}
    assert await made.here.texts(made.alice, made.room_id) == ["one", "two"]
    third_ = await made.message("three")
    fourth = await made.message("four", after=[third_])
    assert await made.tell([fourth, third_]) == {third_.event_id: {}, fourth.event_id: {}}
    assert await made.here.texts(made.alice, made.room_id) == ["one", "two", "three", "four"]
    assert not [each for each in network.exchanges if "get_missing" in each.target], "it was all there"


@aio
async def test_a_transaction_is_taken_in_once(network: Network) -> None:
    made = await scene(network)
    event = await made.message("one")
    answer = await made.tell([event], txn_id="same")
    assert await made.tell([event], txn_id="same") == answer == {event.event_id: {}}
    made.here.server.nodes.directory.memory(Inbound).answers.clear()  # as if the server had been started anew
    assert await made.tell([event], txn_id="same") == answer
    assert await made.tell([event], txn_id="another") == answer
    assert await made.here.texts(made.alice, made.room_id) == ["one"]
    assert made.counted("domicile_federation_events", "accepted") == 2, "the event, and that Bob joined"


@aio
async def test_the_same_at_once_shares_one_answer(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scene(network)
    event, taken = await made.message("one"), []
    take = inbound._take

    async def counted(*args: Any) -> Any:
        taken.append(args)
        return await take(*args)

    monkeypatch.setattr(inbound, "_take", counted)
    answers = await asyncio.gather(*(made.tell([event], txn_id="same") for _ in range(10)))
    assert answers == [{event.event_id: {}}] * 10
    assert len(taken) == 1


@aio
async def test_how_much_a_transaction_may_hold(network: Network) -> None:
    made = await scene(network)
    wrong: list[dict[str, Any]] = [{"pdus": [{}] * 51}, {"edus": [{}] * 101}, {"pdus": {}}, {"pdus": [], "edus": 5}]
    for content in wrong:
        with pytest.raises(RemoteRefusal) as refused:
            await made.tell_raw(content)
        assert refused.value.status == 400
    assert await made.tell_raw({}) == {}
    assert await made.tell_raw({"pdus": [{}] * 50, "edus": [{}] * 100}) == {}
    assert made.counted(REFUSED, "transaction", "too_many") == 2


@aio
async def test_what_is_no_event_harms_no_other(network: Network) -> None:
    made = await scene(network)
    event = await made.message("fine")
    pdu = event.pdu()
    junk: list[object] = [5, "x", None, [], {}, {"room_id": 5}, {"room_id": "x"}, {"room_id": made.room_id}]
    wrong = [{**pdu, "depth": -1}, {**pdu, "type": {}}, {**pdu, "signatures": []}, {**pdu, "content": "x"}]
    answer = await made.tell([*junk, *wrong, event])
    assert answer.pop(event.event_id) == {}
    assert all(result["error"] for result in answer.values())
    assert await made.here.texts(made.alice, made.room_id) == ["fine"]


@aio
async def test_an_event_with_a_wrong_signature(network: Network) -> None:
    made = await scene(network)
    play, _ = await third(made)
    stolen = await made.message("by the wrong server", by=play)
    (key_id,) = stolen.signatures["third.test"]
    forged = stolen.pdu() | {"signatures": {"there.test": dict(stolen.signatures["third.test"])}}
    answer = await made.tell([stolen, forged], by=play)
    assert answer[stolen.event_id]["error"]
    assert await made.verdict(stolen) is None
    own_key = SigningKey(key_id.partition(":")[2], b"y" * 32)
    assert own_key.key_id == key_id
    assert await made.here.texts(made.alice, made.room_id) == []


@aio
async def test_what_the_rules_do_not_allow(network: Network) -> None:
    made = await scene(network)
    power = await made.forged(made.bob, "m.room.power_levels", {"users": {made.bob.user_id: 100}}, "")
    name = await made.forged(made.bob, "m.room.name", {"name": "Bob's"}, "")
    answer = await made.tell([power, name])
    assert set(answer) == {power.event_id, name.event_id}
    assert all(result == {"error": "The rules of the room do not allow that event"} for result in answer.values())
    assert await made.verdict(power) is Verdict.REJECTED
    assert await made.verdict(name) is Verdict.REJECTED
    assert made.counted("domicile_federation_events", "rejected") == 2
    assert not {power.event_id, name.event_id} & (await made.room()).now.tips.keys()


@aio
async def test_who_is_banned_cannot_write_in_the_past(network: Network) -> None:
    """An event on a branch on which its sender was still in the room is soft-failed."""
    made = await scene(network)
    before = list((await made.room()).now.tips)
    late = await made.message("I was here", prev_events=before)
    later = await made.message("and still am", after=[late])
    await made.here.change(made.alice, made.room_id, "ban", user_id=made.bob.user_id)
    assert await made.tell([late, later]) == {late.event_id: {}, later.event_id: {}}
    assert await made.verdict(late) is Verdict.SOFT_FAILED
    assert await made.verdict(later) is Verdict.SOFT_FAILED
    assert await made.here.texts(made.alice, made.room_id) == []
    assert made.counted("domicile_federation_events", "soft_failed") == 2


@aio
async def test_plaintext_is_not_kept(network: Network) -> None:
    made = await scene(network)
    event = await made.forged(made.bob, "m.room.message", {"msgtype": "m.text", "body": "readable by all"})
    topic = await made.forged(made.bob, "m.poll.start", {"question": "readable by all"}, "x", after=[event])
    after = await made.message("encrypted", after=[event])
    assert await made.tell([event, topic, after]) == {
        event.event_id: {},
        topic.event_id: {"error": "The rules of the room do not allow that event"},
        after.event_id: {},
    }
    row = await made.held(event)
    assert row is not None
    assert (row.verdict, b"readable" in row.client + row.rest) == (Verdict.SOFT_FAILED, False)
    row = await made.held(topic)
    assert row is not None
    assert b"readable" not in row.client + row.rest
    assert await made.here.texts(made.alice, made.room_id) == ["encrypted"]
    assert made.counted("domicile_federation_unencrypted", "plaintext") == 2
    assert await made.held(event, "tehran") is not None


@aio
async def test_encryption_is_not_made_weaker(network: Network) -> None:
    made = await scene(network, power_level_content_override={"events": {"m.room.encryption": 0}, "state_default": 0})
    weak = await made.forged(made.bob, "m.room.encryption", {"algorithm": "none"}, "")
    assert await made.tell([weak]) == {weak.event_id: {}}
    assert await made.verdict(weak) is Verdict.SOFT_FAILED
    content = await made.here.ask(made.alice, "GET", f"/rooms/{made.room_id}/state/m.room.encryption/")
    assert content["algorithm"] == "m.megolm.v1.aes-sha2"
    room = await made.room()
    target = room.now.state["m.room.encryption", ""].event_id
    redaction = await made.forged(made.bob, "m.room.redaction", {"redacts": target}, redacts=target)
    assert await made.tell([redaction]) == {redaction.event_id: {}}
    content = await made.here.ask(made.alice, "GET", f"/rooms/{made.room_id}/state/m.room.encryption/")
    assert content["algorithm"] == "m.megolm.v1.aes-sha2"


@aio
async def test_an_access_control_list(network: Network) -> None:
    made = await scene(network)
    path = f"/rooms/{made.room_id}/state/m.room.server_acl/"
    await made.here.ask(made.alice, "PUT", path, {"allow": ["*"], "deny": ["there.test"]})
    event = await made.message("let me in")
    answer = await made.tell([event])
    assert answer == {event.event_id: {"error": "The room's access control list does not let your server in"}}
    assert await made.verdict(event) is None
    assert made.counted(REFUSED, "pdu", "acl") == 1


@aio
async def test_rooms_that_we_are_not_in(network: Network) -> None:
    made = await scene(network)
    event = await made.message("hello?")
    unknown = {**event.pdu(), "room_id": "!" + "x" * 43}
    assert await made.tell([unknown]) == {}
    await made.here.change(made.alice, made.room_id, "leave")
    assert await made.tell([event]) == {}
    assert await made.verdict(event) is None
    assert made.counted(REFUSED, "pdu", "not_in_room") == 2


@aio
async def test_a_stranger_brings_nothing_of_others(network: Network) -> None:
    made = await scene(network)
    play = await network.found("third.test")
    event = await made.message("passed on")
    answer = await made.tell([event], by=play)
    assert answer == {event.event_id: {"error": "Your server is not in that room"}}
    assert await made.tell([event]) == {event.event_id: {}}


@aio
async def test_nothing_comes_in_where_no_flow_leads(network: Network) -> None:
    made = await scene(network)
    policy = made.here.server.policy
    event = await made.message("from beyond the border")
    play = await network.found("closed.test", policy=POLICY)
    open_, policy.now = policy.now, play.server.policy.now
    answer = await made.tell([event])
    assert "residency policy" in answer[event.event_id]["error"]
    assert await made.verdict(event) is None
    policy.now = open_
    assert await made.tell([event]) == {event.event_id: {}}
    assert isinstance(policy, CurrentPolicy)


@aio
async def test_a_fault_in_one_room_is_none_in_another(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scene(network)
    other = await made.here.create(made.alice, preset="public_chat")
    await made.there.ask(made.bob, "POST", f"/join/{other}", {}, via="here.test")
    room_id = made.room_id
    event = await made.message("fine")
    made.room_id = other
    broken = await made.message("broken")
    place = receive.submit_foreign

    async def breaking(server: Any, node: Any, room: str, *args: Any, **kw: Any) -> Any:
        if room == other:
            raise RuntimeError("a fault of ours")
        return await place(server, node, room, *args, **kw)

    monkeypatch.setattr(gaps, "submit_foreign", breaking)
    assert (await made.tell([broken, event]))[event.event_id] == {}
    assert made.counted(REFUSED, "pdu", "fault") == 1
    assert await made.here.texts(made.alice, room_id) == ["fine"]


@aio
async def test_what_could_not_be_stored_is_said_to_be(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scene(network)
    one, two = await made.message("one"), await made.message("two")
    node = made.here.node("tehran")
    advance = type(node).advance

    async def lost(self: Any, *args: Any, **kw: Any) -> Any:
        if self is node:
            raise NodeUnavailable("tehran")
        return await advance(self, *args, **kw)

    monkeypatch.setattr(type(node), "advance", lost)
    with pytest.raises(RemoteRefusal) as refused:
        await made.tell([one, two], txn_id="again")
    assert refused.value.status == 503
    monkeypatch.undo()
    assert await made.tell([one, two], txn_id="again") == {one.event_id: {}, two.event_id: {}}
    assert sorted(await made.here.texts(made.alice, made.room_id)) == ["one", "two"]


@aio
async def test_a_flood_is_held_back(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scene(network)
    gate, take = asyncio.Event(), inbound._take

    async def slow(*args: Any) -> Any:
        await gate.wait()
        return await take(*args)

    monkeypatch.setattr(inbound, "_take", slow)
    waiting = [asyncio.ensure_future(made.tell(txn_id=f"t{number}")) for number in range(inbound.MOST_AT_ONCE)]
    memory = made.here.server.nodes.directory.memory(Inbound)
    while len(memory.under_way) < inbound.MOST_AT_ONCE:
        await asyncio.wait(waiting, timeout=0.01)
    with pytest.raises(RemoteRefusal) as refused:
        await made.tell(txn_id="one-more")
    assert (refused.value.status, refused.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    gate.set()
    assert await asyncio.gather(*waiting) == [{}] * inbound.MOST_AT_ONCE
    assert await made.tell(txn_id="one-more") == {}
    assert not memory.of_origin


@aio
async def test_only_a_signed_transaction_counts(network: Network) -> None:
    made = await scene(network)
    event = await made.message("unsigned")
    answer = await made.here.deployment.asked("PUT", f"{SEND}/t", {"pdus": [event.pdu()]})
    assert answer.status == 401
    assert await made.verdict(event) is None


@aio
async def test_huge_transactions_are_not_read(world: World) -> None:
    one, two = await world.town("a.test"), await world.town("b.test")
    content = {"pdus": [], "x": "y" * two.server.settings.limits.max_federation_body}
    with pytest.raises((RemoteRefusal, Unreachable)) as refused:
        await remote.ask(one.server, "b.test", "PUT", f"{SEND}/huge", content, most=10**6)
    if isinstance(refused.value, RemoteRefusal):
        assert refused.value.status == 413
    assert await remote.ask(one.server, "b.test", "PUT", f"{SEND}/small", {"pdus": []}, most=10**6) == {"pdus": {}}
    assert list(two.server.nodes.directory.memory(Inbound).answers._held) == [("a.test", "small")]


@aio
async def test_events_reach_members_on_all_nodes(network: Network) -> None:
    made = await scene(network)
    dora = await made.here.user("dora", "paris")
    await made.here.change(dora, made.room_id, "join")
    await made.here.settle()
    event = await made.message("for both")
    await made.tell([event])
    await made.here.settle()
    assert await made.here.texts(dora, made.room_id) == ["for both"]
    await made.here.assert_equal(made.room_id)


# rooms that somebody here is only invited to ------------------------------------------------------


async def invited(play: Play, user: User) -> set[str]:
    return set((await play.ask(user, "GET", "/sync")).get("rooms", {}).get("invite", {}))


@aio
async def test_an_invitation_is_taken_back(network: Network) -> None:
    """By who could: nobody else has seen the invitation that the event cites."""
    made = await scene(network)
    mallory = await made.there.user("mallory")
    room_id = made.room_id = await made.here.create(made.alice, invite=[mallory.user_id])
    assert await invited(made.there, mallory) == {room_id}
    play = await network.found("third.test")
    carol = await play.user("carol")
    forged = await made.forged(
        carol, "m.room.member", {"membership": "leave"}, mallory.user_id, prev_events=["$x"], auth_events=["$y"]
    )
    answer = await remote.ask(play.server, "there.test", "PUT", f"{SEND}/x", {"pdus": [forged.pdu()]}, most=10**6)
    assert answer == {"pdus": {forged.event_id: {"error": "This server is not in that room"}}}
    assert await invited(made.there, mallory) == {room_id}
    await made.here.change(made.alice, room_id, "kick", user_id=mallory.user_id)
    await network.settle()
    assert await invited(made.there, mallory) == set()


@aio
async def test_huge_integers_of_old_rooms_come_as_they_are(network: Network) -> None:
    made = await scene(network, room_version="5")
    content = {"membership": "join", "org.example.n": 10**30}
    odd = await made.forged(made.bob, "m.room.member", content, made.bob.user_id)
    fine = await made.message("fine", after=[odd])
    letter = {"sender": made.bob.user_id, "type": "m.x", "message_id": "one"}
    edu = {
        "edu_type": "m.direct_to_device",
        "content": {**letter, "messages": {made.alice.user_id: {"*": {"n": 10**30}}}},
    }
    body = canonical.encode({"pdus": [odd.pdu(), fine.pdu()], "edus": [edu]}, strict=False)
    answer = await remote.ask(made.there.server, "here.test", "PUT", f"{SEND}/odd", body, most=10**6)
    assert answer == {"pdus": {odd.event_id: {}, fine.event_id: {}}}
    row = await made.held(odd)
    assert row is not None
    assert row.client == odd.client
    assert made.counted("domicile_federation_edus_dropped", "m.direct_to_device", "malformed") == 1


@aio
async def test_for_a_stranger_nobody_is_asked_for_keys(network: Network) -> None:
    made = await scene(network)
    play = await network.found("third.test")
    await network.found("fourth.test")
    ghost = await network.plays["fourth.test"].user("ghost")
    event = await made.forged(ghost, "m.room.encrypted", ciphertext("boo"), auth_events=[])
    answer = await made.tell([event], by=play)
    assert answer == {event.event_id: {"error": "Your server is not in that room"}}
    assert made.counted(REFUSED, "pdu", "stranger") == 1
    assert not [each for each in network.exchanges if each.destination == "fourth.test"]


@aio
async def test_who_fills_a_gap_is_not_waited_for_without_end(network: Network) -> None:
    """What a server sends for one room does not stand for long behind a gap that others made in another."""
    made = await scene(network)
    other = await made.here.create(made.alice, preset="public_chat")
    await enter(made.there, made.bob, other, "here.test")
    fine = await made.message("fine")
    room_id, made.room_id = made.room_id, other
    lost = await made.message("lost")
    found = await made.message("found", after=[lost])
    made.room_id = room_id
    gate, asked = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kw: Any) -> Any:
        asked.set()
        await gate.wait()
        return [lost.pdu()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking_rooms, "missing_events", slow)
        waiting = asyncio.ensure_future(made.tell([found, fine], txn_id="both"))
        await asked.wait()
        while not await made.here.texts(made.alice, room_id):
            await asyncio.wait([waiting], timeout=0.01)
        assert not waiting.done()
        await network.clock.advance(inbound.PATIENCE)
        assert await waiting == {fine.event_id: {}}
        memory = made.here.server.nodes.directory.memory(Inbound)
        assert (len(memory.late), len(memory.under_way)) == (1, 0)
        assert made.counted("domicile_federation_late_rooms") == 1
        (late,) = memory.late
        gate.set()
        await late
    assert await made.here.texts(made.alice, other) == ["lost", "found"]
    assert not memory.late
