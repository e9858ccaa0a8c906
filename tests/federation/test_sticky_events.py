"""Sticky events between servers: who comes later is sent them, and nobody is believed how long theirs last."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.sender import SAVED_AFTER
from homeserver.protocol.events import from_pdu, from_stored
from homeserver.protocol.signing import content_hash, encode_base64, sign_event
from homeserver.rooms import state
from homeserver.storage import events as stored
from tests.deployment import User
from tests.federation.guests import given, made, member
from tests.federation.meetings import enter
from tests.federation.test_backfill import page
from tests.federation.test_sender import LONG, contents, sent
from tests.network import Network
from tests.rooms.play import Play, ciphertext, text_of
from tests.rooms.test_sticky_events import NEWEST_ONLY, TTL, stick, sticky_of, synced
from tests.support import ON_SQLITE, aio

A, B, C = "a.test", "b.test", "c.test"


def pushed(network: Network, source: str, destination: str) -> list[str]:
    """The texts of the messages that one server has sent another in transactions."""
    pdus = [pdu for each in sent(network, source, destination) for pdu in contents(each)["pdus"]]
    return [text_of(pdu) for pdu in pdus if pdu["type"] == "m.room.encrypted"]


@aio
async def test_a_server_that_comes_later_is_sent_those_that_last(network: Network) -> None:
    a, b, c = await network.found(A), await network.found(B), await network.found(C)
    alice, anna, bob, carol = (
        await a.user("alice"),
        await a.user("anna", "paris"),
        await b.user("bob"),
        await c.user("carol"),
    )
    room_id = await a.create(alice, preset="public_chat")
    await a.ask(anna, "POST", f"/join/{quote(room_id)}", {})
    await network.settle()
    await stick(alice, room_id, "over", 1)
    await stick(alice, room_id, "call")
    await stick(anna, room_id, "another node")
    await a.send(alice, room_id, "plain")
    await network.settle()
    await network.clock.advance(1)
    *_, before = await synced(b, bob, room_id)
    await enter(b, bob, room_id, A)
    await network.settle()
    assert sorted(pushed(network, A, B)) == ["another node", "call"]
    told, sticky, now = await synced(b, bob, room_id, before)
    assert sorted([*told, *sticky]) == ["another node", "call"]
    assert (await synced(b, bob, room_id, now))[:2] == ([], [])
    await stick(bob, room_id, "bob's")
    await network.settle()
    await enter(c, carol, room_id, A)
    await network.settle()
    assert pushed(network, B, C) == ["bob's"], "each server sends what its own users said"
    assert sorted(pushed(network, A, C)) == ["another node", "call"]
    query = {"filter": NEWEST_ONLY}
    room = (await c.ask(carol, "GET", "/sync", **query))["rooms"]["join"][room_id]
    found = [text_of(event) for part in ("timeline", "msc4354_sticky") for event in room[part]["events"]]
    assert sorted(found) == ["another node", "bob's", "call"]


@ON_SQLITE
@aio
async def test_one_that_is_away_gets_them_when_it_is_back(network: Network) -> None:
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    await stick(alice, room_id, "call", 3_600_000)
    await network.settle()
    network.cut(A, B)
    await member(network, a, room_id, bob, "join")
    await network.settle()
    assert pushed(network, A, B) == []
    network.mend(A, B)
    await network.clock.advance(LONG)
    await network.settle()
    assert pushed(network, A, B) == ["call"]
    await network.clock.advance(SAVED_AFTER)
    while await a.node("tehran").read(_owed):  # ends when how far the server is has been written
        await network.settle()


async def _owed(tx: Any) -> list[Any]:
    return list(await tx.all("SELECT server FROM peer_events"))


async def from_afar(network: Network, host: Play, room_id: str, guest: User, text: str, sticky: Any, later: int) -> str:
    """Have the host take in a message of another server with a field of its choice, sent ``later`` (ms) than now."""
    event = await made(network, host, room_id, guest, "m.room.encrypted", ciphertext(text))
    author = network.plays[guest.user_id.partition(":")[2]].server
    pdu = {**event.pdu(), "msc4354_sticky": sticky, "origin_server_ts": event.origin_server_ts + later}
    del pdu["signatures"], pdu["hashes"]
    pdu["hashes"] = {"sha256": encode_base64(content_hash(event.rules, pdu))}
    return await given(
        host, room_id, from_pdu(event.rules, sign_event(event.rules, pdu, author.name, author.identity.key))
    )


@ON_SQLITE
@aio
async def test_nobody_is_believed_how_long_theirs_last(network: Network) -> None:
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    await member(network, a, room_id, bob, "join")
    *_, start = await synced(a, alice, room_id)
    hour = 3_600_000
    for text, sticky, later in (
        ("for ever", {"duration_ms": 2**50, "event_id": "$x", "more": {"sender": "@x:y"}}, 0),
        ("of tomorrow", {"duration_ms": 60_000}, 24 * hour),
        ("of yesterday", {"duration_ms": hour}, -hour),
        ("words", {"duration_ms": "60000"}, 0),
        ("truth", {"duration_ms": True}, 0),
        ("less than nothing", {"duration_ms": -5}, 0),
        ("a list", [60_000], 0),
    ):
        await from_afar(network, a, room_id, bob, text, sticky, later)
    await network.settle()
    found = {text_of(event): event["unsigned"][TTL] for event in await sticky_of(a, alice, room_id)}
    assert found == {"for ever": hour, "of tomorrow": 60_000}
    events = {text_of(e): e for e in await a.timeline(alice, room_id) if e["type"] == "m.room.encrypted"}
    assert events["for ever"]["msc4354_sticky"] == {"duration_ms": hour}
    assert all("msc4354_sticky" not in events[text] for text in ("words", "truth", "less than nothing", "a list"))
    kept = (await a.server.nodes["tehran"].read(stored.by_ids, [events["for ever"]["event_id"]]))[0]
    rules = (await state.get(a.node("tehran"), room_id)).rules
    pdu = from_stored(rules, room_id, kept.client, kept.rest).pdu()
    assert pdu["msc4354_sticky"]["more"] == {"sender": "@x:y"}, "servers see it as it was signed"
    assert from_pdu(rules, pdu).event_id == kept.event_id
    await network.clock.advance(60)
    assert [text_of(event) for event in await sticky_of(a, alice, room_id)] == ["for ever"]
    await network.clock.advance(3540)
    assert await sticky_of(a, alice, room_id) == []
    assert (await synced(a, alice, room_id, start))[1] == []


@ON_SQLITE
@aio
async def test_one_that_comes_with_the_history_is_told_of(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.rooms.persist._owe", _nothing)  # as a server that does not send them
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    await stick(alice, room_id, "call")
    await a.send(alice, room_id, "plain")
    await enter(b, bob, room_id, A)
    await network.settle()
    *parts, now = await synced(b, bob, room_id)
    assert parts == [[], []]
    await page(b, bob, room_id)
    assert (await synced(b, bob, room_id, now))[:2] == ([], ["call"])
    assert [text_of(event) for event in await sticky_of(b, bob, room_id)] == ["call"]


async def _nothing(*_: Any) -> dict[str, tuple[int, int]]:
    return {}
