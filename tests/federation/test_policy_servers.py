"""Rooms with a policy server: what it does not sign is not sent by us, and shown to nobody when others send it."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from federation import gaps
from homeserver.protocol import policy_server, signing
from homeserver.protocol.policy_server import KEY_ID
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.versions import VERSIONS
from homeserver.runtime.exchange import Answer
from homeserver.storage.events import Verdict
from tests.federation.forging import Scene, scene, third
from tests.federation.liars import Liar
from tests.federation.meetings import members
from tests.network import Network
from tests.rooms.play import CLIENT, ciphertext
from tests.support import aio

KEY = SigningKey("policy_server", b"p" * 32)
SIGN = "/_matrix/policy/v1/sign"


async def guarded(network: Network) -> tuple[Scene, Liar]:
    """A scene whose room names third.test, where Carol is, as its policy server; it signs all but what says "spam"."""
    made = await scene(network)
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
    return made, liar


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
            await network.clock.advance(gaps.RECOMMENDING / 2)
        return await carry(source, place, method, target, *rest)

    monkeypatch.setattr(network, "carry", slowly)
    sent = [await made.message(f"{number}") for number in range(5)]
    assert await made.tell(sent) == {event.event_id: {} for event in sent}
    verdicts = [await made.verdict(event) for event in sent]
    assert (verdicts.count(Verdict.ACCEPTED), verdicts.count(Verdict.SOFT_FAILED)) == (2, 3)
    assert len(liar.asked) == 2
