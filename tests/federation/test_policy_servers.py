"""Rooms with a policy server: what it does not sign is not sent by us, and shown to nobody when others send it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from config.load import policy_from_text
from federation import gaps, policy_servers
from homeserver.protocol import policy_server, signing
from homeserver.protocol.policy_server import KEY_ID
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.versions import VERSIONS
from homeserver.rooms import branches, persist, receive, recommendations
from homeserver.rooms import gaps as rooms_gaps
from homeserver.runtime.exchange import Answer
from homeserver.storage.events import Verdict
from tests.deployment import FLOWING, User
from tests.federation.forging import Scene, scene, third
from tests.federation.liars import Liar
from tests.federation.meetings import enter, members
from tests.federation.test_backfill import read_back
from tests.network import Network
from tests.rooms.play import CLIENT, Play, ciphertext, text_of
from tests.support import aio

KEY = SigningKey("policy_server", b"p" * 32)
SIGN = "/_matrix/policy/v1/sign"


async def guarded(network: Network) -> tuple[Scene, Liar]:
    """A scene whose room names third.test, where Carol is, as its policy server; it signs all but what says "spam"."""
    made = await scene(network)
    return made, await protect(made)


async def protect(made: Scene) -> Liar:
    """Have Carol come, and name her server."""
    network = made.network
    await third(made)
    liar = Liar(network, "third.test")

    def sign(target: str, pdu: dict[str, Any]) -> object:
        if pdu["content"].get("session_id", "").startswith("spam"):
            return 400
        covered = signing.event_signed_bytes(VERSIONS["12"], pdu)
        return {"third.test": {KEY_ID: KEY.sign(covered)}}

    liar.lies[SIGN] = sign
    content = {"via": "third.test", "public_keys": {"ed25519": KEY.verify_key.base64}}
    path = f"/rooms/{quote(made.room_id)}/state/m.room.policy/"
    await made.here.ask(made.alice, "PUT", path, content)
    assert not liar.asked, "about its own naming it is not asked"
    await network.settle()
    return liar


def spam() -> dict[str, Any]:
    return {**ciphertext("buy"), "session_id": "spam" + "A" * 39}


@aio
async def test_what_we_send_is_signed_by_it(network: Network) -> None:
    made, liar = await guarded(network)
    event_id = await made.here.send(made.alice, made.room_id, "hello")
    row = await made.held(event_id)
    assert row is not None
    assert KEY_ID.encode() in row.rest
    await network.settle()
    assert await made.there.texts(made.bob, made.room_id) == ["hello"]
    await made.there.send(made.bob, made.room_id, "hello to you")
    await network.settle()
    assert await made.here.texts(made.alice, made.room_id) == ["hello", "hello to you"]
    assert len(liar.asked) == 2


@aio
async def test_what_it_does_not_sign_is_not_sent(network: Network) -> None:
    made, _ = await guarded(network)
    before = (await made.room()).now
    path = f"{CLIENT}/rooms/{quote(made.room_id)}/send/m.room.encrypted/t"
    answer = await made.alice.asks("PUT", path, spam())
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert (await made.room()).now is before
    network.cut("here.test", "third.test")
    answer = await made.alice.asks("PUT", path + "2", ciphertext("fine"))
    assert answer.status == 502


@aio
async def test_what_it_says_reaches_the_user(network: Network) -> None:
    made, liar = await guarded(network)
    path = f"{CLIENT}/rooms/{quote(made.room_id)}/send/m.room.encrypted/t"
    said = Answer(400, {}, b'{"errcode":"M_FORBIDDEN","error":"No roses here"}')
    liar.lies[SIGN] = lambda target, body: said
    answer = await made.alice.asks("PUT", path, ciphertext("roses"))
    assert (answer.status, answer.errcode, answer.json["error"]) == (403, "M_FORBIDDEN", "No roses here")
    said = Answer(429, {}, b'{"errcode":"M_LIMIT_EXCEEDED","error":"slowly"}')
    answer = await made.alice.asks("PUT", path, ciphertext("roses"))
    assert (answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")


@aio
async def test_of_those_who_send_at_once_each_is_asked_about_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, liar = await guarded(network)
    carry = network.carry

    async def slowly(*exchange: Any) -> Answer:
        for _ in range(50):
            await asyncio.sleep(0)
        return await carry(*exchange)

    monkeypatch.setattr(network, "carry", slowly)
    await asyncio.gather(*(made.here.send(made.alice, made.room_id, f"message {number}") for number in range(5)))
    assert len(liar.asked) == 5
    assert len(await made.here.texts(made.alice, made.room_id)) == 5
    room = await made.room()
    assert len(room.now.tips) == 1


@aio
async def test_nobody_is_told_of_an_invitation_that_it_does_not_recommend(network: Network) -> None:
    made, liar = await guarded(network)
    sign = liar.lies[SIGN]
    liar.lies[SIGN] = lambda target, body: 400
    dave = await made.there.user("dave")
    path = f"/rooms/{quote(made.room_id)}/invite"
    refused = await made.here.refused(made.alice, "POST", path, {"user_id": dave.user_id})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert not [each for each in network.exchanges if "/invite/" in each.target]
    liar.lies[SIGN] = sign
    asked = len(liar.asked)
    await made.here.change(made.alice, made.room_id, "invite", user_id=dave.user_id)
    assert len(liar.asked) == asked + 1
    await network.settle()
    await made.there.change(dave, made.room_id, "join")
    await network.settle()
    assert dave.user_id in await members(made.here, made.alice, made.room_id)


@aio
async def test_what_others_send_without_it(network: Network) -> None:
    made, liar = await guarded(network)
    fine = await made.message("asked about here")
    assert await made.tell([fine]) == {fine.event_id: {}}
    assert await made.verdict(fine) is Verdict.ACCEPTED
    assert len(liar.asked) == 1
    bad = await made.forged(made.bob, "m.room.encrypted", spam())
    assert await made.tell([bad]) == {bad.event_id: {}}
    assert await made.verdict(bad) is Verdict.SOFT_FAILED
    forged = (await made.message("forged")).with_signature("third.test", KEY_ID, "A" * 86)
    network.cut("here.test", "third.test")
    await made.tell([forged])
    assert await made.verdict(forged) is Verdict.SOFT_FAILED
    assert await made.here.texts(made.alice, made.room_id) == ["asked about here"]


@aio
async def test_it_is_not_asked_where_no_flow_leads(network: Network) -> None:
    made, liar = await guarded(network)
    current = made.here.server.policy
    current.now = policy_from_text(FLOWING, "residency.toml", "here.test")
    path = f"{CLIENT}/rooms/{quote(made.room_id)}/send/m.room.encrypted/t"
    answer = await made.alice.asks("PUT", path, ciphertext("hello"))
    assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")
    assert not liar.asked


@aio
async def test_it_counts_only_while_it_is_in_the_room(network: Network) -> None:
    made, liar = await guarded(network)
    carol = next(user for _, user in (await made.room()).now.state if user.startswith("@carol"))
    await made.here.change(made.alice, made.room_id, "kick", user_id=carol)
    asked = len(liar.asked)
    event = await made.forged(made.bob, "m.room.encrypted", spam())
    await made.tell([event])
    assert await made.verdict(event) is Verdict.ACCEPTED
    assert len(liar.asked) == asked


@aio
async def test_what_names_none(network: Network) -> None:
    made = await scene(network)
    key = KEY.verify_key.base64
    for content in (
        {},
        {"via": "third.test"},
        {"via": 5, "public_keys": {"ed25519": key}},
        {"via": "no server", "public_keys": {"ed25519": key}},
        {"via": "third.test", "public_keys": []},
        {"via": "third.test", "public_keys": {"ed25519": "short"}},
        {"via": "third.test", "public_keys": {"curve25519": key}},
    ):
        assert policy_server.named_by(await made.forged(made.bob, "m.room.policy", content, "")) is None
    fine = {"via": "third.test", "public_keys": {"ed25519": key}}
    assert policy_server.named_by(await made.forged(made.bob, "m.room.policy", fine, "")) is not None


@aio
async def test_one_that_is_slow_is_not_waited_for_again_and_again(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, liar = await guarded(network)
    carry = network.carry

    async def slowly(source: str, place: Any, method: str, target: str, *rest: Any) -> Answer:
        if target == SIGN:
            await network.clock.advance(gaps.RECOMMENDING * 0.4)
        return await carry(source, place, method, target, *rest)

    monkeypatch.setattr(network, "carry", slowly)
    sent = [await made.message(f"{number}") for number in range(5)]
    assert await made.tell(sent) == {event.event_id: {} for event in sent}
    verdicts = [await made.verdict(event) for event in sent]
    assert (verdicts.count(Verdict.ACCEPTED), verdicts.count(Verdict.SOFT_FAILED)) == (2, 3)
    assert len(liar.asked) == 2, "the third was broken off"


# who waits, and for how long ----------------------------------------------------------------------


class Slow:
    """Makes the policy server answer only when the test says so; ``asked`` is how many wait."""

    def __init__(self, network: Network, patch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self._network = network
        self._carry = network.carry
        self._free = asyncio.Event()
        patch.setattr(network, "carry", self._slowly)

    def answer(self) -> None:
        """Let it answer from now on."""
        self._free.set()

    async def _slowly(self, source: str, place: Any, method: str, target: str, *rest: Any) -> Answer:
        if target == SIGN:
            self.asked += 1
            try:
                await self._free.wait()
            finally:
                self.asked -= 1
        return await self._carry(source, place, method, target, *rest)


async def until(done: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    while not done():  # noqa: ASYNC110 - what is waited for does not say so
        await asyncio.sleep(0)


async def settled(network: Network, seconds: float, *tasks: asyncio.Task[Any]) -> None:
    """Let so much time pass; by then nothing that tasks wait for may take longer."""
    ends = network.clock.monotonic() + seconds
    while not all(task.done() for task in tasks) and network.clock.monotonic() < ends:
        await network.clock.advance(1)
        await asyncio.wait(tasks, timeout=0.02)
    _, left = await asyncio.wait(tasks, timeout=20)
    assert not left


def sends(made: Scene, txn: str) -> asyncio.Task[Any]:
    path = f"{CLIENT}/rooms/{quote(made.room_id)}/send/m.room.encrypted/{txn}"
    return asyncio.ensure_future(made.alice.asks("PUT", path, ciphertext(txn)))


@aio
async def test_one_that_does_not_answer_is_given_up(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = await guarded(network)
    slow = Slow(network, monkeypatch)
    sending = sends(made, "hello")
    await until(lambda: slow.asked == 1)
    await settled(network, policy_servers.SECONDS, sending)
    answer = sending.result()
    assert (answer.status, answer.json["error"]) == (
        502,
        "third.test, the policy server of this room, did not answer in time",
    )
    slow.answer()
    await made.here.send(made.alice, made.room_id, "hello again")
    assert await made.here.texts(made.alice, made.room_id) == ["hello again"]


@aio
async def test_those_who_wait_for_their_turn_wait_for_so_long(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await guarded(network)
    other = await made.here.create(made.alice)
    slow = Slow(network, monkeypatch)
    turns = made.here.node("tehran").memory(recommendations.Asking)
    sending = [sends(made, f"message {number}") for number in range(6)]
    await until(lambda: turns._locks.get(made.room_id, (None, 0))[1] == 6)
    await made.here.send(made.alice, other, "a room without one waits for nothing")
    began = network.clock.monotonic()
    await settled(network, recommendations.SENDING, *sending)
    assert network.clock.monotonic() - began >= 2 * policy_servers.SECONDS
    assert [each.result().status for each in sending] == [502] * 6
    assert slow.asked == 0
    assert not turns._locks


@aio
async def test_a_room_that_never_rests_is_given_up(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made, liar = await guarded(network)
    carry, rounds = network.carry, 0

    async def restless(source: str, place: Any, method: str, target: str, *rest: Any) -> Answer:
        nonlocal rounds
        if target == SIGN and rounds < 10:
            rounds += 1
            await network.clock.advance(policy_servers.SECONDS - 1)
            other = await made.message(f"{rounds}")
            text = KEY.sign(signing.event_signed_bytes(other.rules, other.pdu()))
            await made.tell([other.with_signature("third.test", KEY_ID, text)])
        return await carry(source, place, method, target, *rest)

    monkeypatch.setattr(network, "carry", restless)
    began = network.clock.monotonic()
    answer = await sends(made, "hello")
    assert network.clock.monotonic() - began == recommendations.SENDING
    assert (answer.status, answer.errcode) == (502, "M_UNKNOWN")
    assert answer.json["error"] == "The policy server of this room did not answer in time; nothing was sent"
    assert len(liar.asked) == rounds - 1 == 3
    assert await made.here.texts(made.alice, made.room_id) == ["1", "2", "3"]


@aio
async def test_of_one_so_much_is_asked_at_once(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = await guarded(network)
    monkeypatch.setattr(policy_servers, "MOST_AT_ONCE", 1)
    slow = Slow(network, monkeypatch)
    sending = sends(made, "hello")
    await until(lambda: slow.asked == 1)
    dave = await made.there.user("dave")
    path = f"/rooms/{quote(made.room_id)}/invite"
    refused = await made.here.refused(made.alice, "POST", path, {"user_id": dave.user_id})
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    slow.answer()
    assert (await sending).status == 200
    await made.here.change(made.alice, made.room_id, "invite", user_id=dave.user_id)


@aio
async def test_who_joins_through_us_waits_for_so_long_and_nobody_else(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await guarded(network)
    fourth = await network.found("fourth.test")
    dave, erin = await fourth.user("dave"), await fourth.user("erin")
    other = await made.here.create(made.alice, preset="public_chat")
    slow = Slow(network, monkeypatch)
    joining = asyncio.ensure_future(dave.asks("POST", f"{CLIENT}/join/{quote(made.room_id)}", {}, via="here.test"))
    await until(lambda: slow.asked == 1)
    await enter(fourth, erin, other, "here.test")
    event = await made.message("signed")
    text = KEY.sign(signing.event_signed_bytes(event.rules, event.pdu()))
    event = event.with_signature("third.test", KEY_ID, text)
    assert await made.tell([event]) == {event.event_id: {}}, "its room waits for nothing either"
    assert not joining.done()
    await settled(network, recommendations.SEEKING, joining)
    assert joining.result().status == 502
    assert dave.user_id not in await members(made.here, made.alice, made.room_id)
    slow.answer()
    await enter(fourth, dave, made.room_id, "here.test")
    assert dave.user_id in await members(made.here, made.alice, made.room_id)


# what is fetched ----------------------------------------------------------------------------------


@aio
async def test_it_is_asked_about_what_fills_a_gap(network: Network) -> None:
    made, liar = await guarded(network)
    fine = await made.message("fine")
    bad = await made.forged(made.bob, "m.room.encrypted", spam(), after=[fine])
    last = await made.message("last", after=[bad])
    Liar(network, "there.test").tells(fine, bad, made=made)
    assert await made.tell([last]) == {last.event_id: {}}
    assert [await made.verdict(each) for each in (fine, bad, last)] == [
        Verdict.ACCEPTED,
        Verdict.SOFT_FAILED,
        Verdict.ACCEPTED,
    ]
    assert await made.here.texts(made.alice, made.room_id) == ["fine", "last"]
    row = await made.held(fine)
    assert row is not None
    assert KEY_ID.encode() in row.rest, "who asks for it gets it with the recommendation"
    assert len(liar.asked) == 3


@aio
async def test_a_gap_is_filled_though_it_does_not_answer(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = await guarded(network)
    chain = [await made.message("0")]
    for number in range(1, 5):
        chain.append(await made.message(f"{number}", after=chain[-1:]))
    Liar(network, "there.test").tells(*chain[:-1], made=made)
    slow = Slow(network, monkeypatch)
    telling = asyncio.ensure_future(made.tell(chain[-1:]))
    await until(lambda: slow.asked == 1)
    await settled(network, gaps.RECOMMENDING, telling)
    assert telling.result() == {chain[-1].event_id: {}}
    assert {await made.verdict(each) for each in chain} == {Verdict.SOFT_FAILED}


@aio
async def test_what_is_committed_while_it_is_looked_for_is_not_lacking(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is shown to nobody is no tip of the room: whoever follows on it has to look it up."""
    made, _ = await guarded(network)
    first = await made.message("first")
    second = await made.message("second", after=[first])
    server, node = made.here.server, made.here.node("tehran")
    looked, late = asyncio.Event(), list[str]()
    write, look_up = persist._write, branches.groups_after

    async def slowly(*args: Any) -> None:
        await looked.wait()
        await write(*args)

    async def as_it_was(*args: Any) -> Any:
        found = await look_up(*args)
        if not looked.is_set():
            late.extend(node.memory(persist.Persister).under_way)
            looked.set()
            await persist.commit(server, node, [])
        return found

    monkeypatch.setattr(persist, "_write", slowly)
    monkeypatch.setattr(branches, "groups_after", as_it_was)
    taken = [await receive.submit_foreign(server, node, made.room_id, event) for event in (first, second)]
    assert late == [first.event_id]
    assert [each and each.verdict for each in taken] == [Verdict.SOFT_FAILED] * 2
    await persist.commit(server, node, [])


async def history(network: Network) -> tuple[Scene, Liar, Play, User]:
    """A room in which it was spoken before it had a policy server, and Dave of fourth.test, who came after that."""
    made = await scene(network)
    path = f"/rooms/{quote(made.room_id)}/send/m.room.encrypted"
    for number in range(3):
        await made.here.send(made.alice, made.room_id, f"old {number}")
        await made.here.ask(made.alice, "PUT", f"{path}/spam{number}", spam())
    liar = await protect(made)
    await made.here.send(made.alice, made.room_id, "new")
    fourth = await network.found("fourth.test")
    dave = await fourth.user("dave")
    await enter(fourth, dave, made.room_id, "here.test")
    await network.settle()
    return made, liar, fourth, dave


@aio
async def test_it_is_asked_about_history(network: Network) -> None:
    made, liar, fourth, dave = await history(network)
    liar.asked.clear()
    assert await fourth.texts(dave, made.room_id) == []
    texts = [
        text_of(event) for event in await read_back(fourth, dave, made.room_id) if "ciphertext" in event["content"]
    ]
    assert texts == ["new", "old 2", "old 1", "old 0"]
    asked = len(liar.asked)
    assert asked > 6, "about each event of the time before it was named, once"
    assert await read_back(fourth, dave, made.room_id)
    assert len(liar.asked) == asked


@aio
async def test_history_waits_for_one_that_is_away(network: Network) -> None:
    made, _, fourth, dave = await history(network)
    network.cut("fourth.test", "third.test")

    async def texts() -> list[str]:
        found = await read_back(fourth, dave, made.room_id)
        return [text_of(event) for event in found if event["type"] == "m.room.encrypted"]

    assert await texts() == ["new"], "what it has recommended is shown"
    network.mend("fourth.test", "third.test")
    await network.clock.advance(rooms_gaps.AGAIN_AFTER)
    assert await texts() == ["new", "old 2", "old 1", "old 0"]


@aio
async def test_nothing_is_shown_from_before_what_it_was_not_asked_about(network: Network) -> None:
    made, _ = await guarded(network)
    path = f"/rooms/{quote(made.room_id)}/state/m.room.policy/"
    naming = await made.here.ask(made.alice, "GET", path)
    await made.here.send(made.alice, made.room_id, "first")
    await made.here.ask(made.alice, "PUT", path, {})
    await made.here.send(made.alice, made.room_id, "second")
    await made.here.ask(made.alice, "PUT", path, naming)
    await made.here.send(made.alice, made.room_id, "third")
    fourth = await network.found("fourth.test")
    dave = await fourth.user("dave")
    await enter(fourth, dave, made.room_id, "here.test")
    network.cut("fourth.test", "third.test")

    async def texts() -> list[str]:
        found = await read_back(fourth, dave, made.room_id)
        return [text_of(event) for event in found if event["type"] == "m.room.encrypted"]

    assert await texts() == ["third"]
    network.mend("fourth.test", "third.test")
    await network.clock.advance(rooms_gaps.AGAIN_AFTER)
    assert await texts() == ["third", "second", "first"]


@aio
async def test_history_of_a_room_that_gave_it_up_is_read(network: Network) -> None:
    made, liar, fourth, dave = await history(network)
    await made.here.ask(made.alice, "PUT", f"/rooms/{quote(made.room_id)}/state/m.room.policy/", {})
    await network.settle()
    liar.asked.clear()
    found = await read_back(fourth, dave, made.room_id)
    assert len([event for event in found if event["type"] == "m.room.encrypted"]) == 7
    assert not liar.asked
