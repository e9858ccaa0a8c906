"""What another server gives as events is dropped unless it has the form, and the signatures, that it must have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from federation import pdu_checks, server_keys
from federation.pdu_checks import Dropped, Fault, check_pdus
from homeserver.protocol import events, signing
from homeserver.protocol.events import Event
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.versions import VERSIONS
from tests.federation.towns import signing_key
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

V11 = VERSIONS["11"]
ROOM = "!room:there.test"


def event_of(
    play: Play, name: str = "there.test", *, version: str = "11", key: SigningKey | None = None, **fields: Any
) -> Event:
    """An event by a user of ``play``'s server, or of whoever's name and key."""
    rules = VERSIONS[version]
    draft: dict[str, Any] = {
        "type": "m.room.encrypted",
        "sender": f"@bob:{name}",
        "room_id": ROOM,
        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
        "prev_events": ["$before"] if rules.event_id_is_hash else ["$before:there.test"],
        "auth_events": [],
        "depth": 5,
        "origin_server_ts": play.server.clock.now_ms(),
        "reference_hashes": {"$before:there.test": "abc"},
        "event_id": None if rules.event_id_is_hash else f"$mine:{name}",
        **fields,
    }
    return events.build(rules, **draft, server_name=name, key=key or play.server.identity.key)


def faults(results: Iterable[Event | Dropped]) -> list[Fault | None]:
    return [each.fault if isinstance(each, Dropped) else None for each in results]


async def fault_of(play: Play, pdu: object, version: str = "11") -> Fault | None:
    (fault,) = faults(await check_pdus(play.server, VERSIONS[version], ROOM, [pdu]))
    return fault


@aio
async def test_what_is_in_order_passes(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    for version in VERSIONS:
        room_id = ROOM if not VERSIONS[version].room_id_is_create_hash else "!" + "a" * 43
        event = event_of(there, version=version, room_id=room_id)
        (found,) = await check_pdus(here.server, VERSIONS[version], room_id, [{**event.pdu(), "unsigned": {"age": 5}}])
        assert isinstance(found, Event), (version, found)
        assert (found.event_id, found.pdu_bytes()) == (event.event_id, event.pdu_bytes())


@aio
async def test_our_own_events_pass(network: Network) -> None:
    here = await network.found("here.test")
    assert await fault_of(here, event_of(here, "here.test").pdu()) is None
    assert not network.exchanges
    forged = event_of(here, "here.test", key=signing_key("another"))
    assert await fault_of(here, forged.pdu()) is Fault.NO_KEY


@aio
async def test_signatures(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    await network.found("third.test")
    pdu = event_of(there).pdu()
    fine = pdu["signatures"]["there.test"]
    (key_id,) = fine
    other = SigningKey(key_id.partition(":")[2], b"x" * 32)
    forged = event_of(there, key=other).pdu()
    assert await fault_of(here, forged) is Fault.SIGNATURE, "by a key of the right name that is another"
    assert await fault_of(here, {**pdu, "signatures": {}}) is Fault.SIGNATURE
    assert await fault_of(here, {**pdu, "signatures": {"third.test": fine}}) is Fault.SIGNATURE
    assert await fault_of(here, {**pdu, "depth": 6}) is Fault.SIGNATURE, "not what was signed"
    assert await fault_of(here, {**pdu, "signatures": {"there.test": {key_id: "%%"}}}) is Fault.SIGNATURE
    unknown = event_of(there, key=signing_key("unheard of")).pdu()
    assert await fault_of(here, unknown) is Fault.NO_KEY
    nobody = event_of(there, "nobody.test").pdu()
    assert await fault_of(here, nobody) is Fault.NO_KEY, "there is no such server"
    assert await fault_of(here, pdu) is None
    counter = here.server.telemetry.counter("domicile_federation_pdus_dropped", "", ["reason"])
    assert (counter.value("signature"), counter.value("no_key")) == (5, 2)


@aio
async def test_everybody_has_signed_who_must(network: Network) -> None:
    here, there, third = [await network.found(name) for name in ("here.test", "there.test", "third.test")]
    member: dict[str, Any] = {
        "type": "m.room.member",
        "state_key": "@bob:there.test",
        "content": {"membership": "join", "join_authorised_via_users_server": "@dora:third.test"},
    }
    event = event_of(there, **member)
    assert await fault_of(here, event.pdu()) is Fault.SIGNATURE
    assert await fault_of(here, event.signed_too("third.test", third.server.identity.key).pdu()) is None
    opaque = event_of(there, version="2", event_id="$mine:third.test")
    assert await fault_of(here, opaque.pdu(), "2") is Fault.SIGNATURE
    assert await fault_of(here, opaque.signed_too("third.test", third.server.identity.key).pdu(), "2") is None
    alien: dict[str, Any] = {**member, "content": {**member["content"], "join_authorised_via_users_server": "nobody"}}
    assert await fault_of(here, event_of(there, **alien).pdu()) is Fault.SIGNATURE


@aio
async def test_what_is_not_what_was_hashed_is_redacted(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    event = event_of(there)
    (found,) = await check_pdus(here.server, V11, ROOM, [{**event.pdu(), "content": {"body": "something else"}}])
    assert isinstance(found, Event)
    assert (found.event_id, found.content) == (event.event_id, {})


@aio
async def test_forms(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    pdu = event_of(there).pdu()
    references = [f"${number}" for number in range(30)]
    cases: list[tuple[object, Fault]] = [
        (None, Fault.FORMAT),
        ([], Fault.FORMAT),
        ("text", Fault.FORMAT),
        ({}, Fault.FORMAT),
        ({**pdu, "content": []}, Fault.FORMAT),
        ({**pdu, "type": 5}, Fault.FORMAT),
        ({**pdu, "type": "x" * 300}, Fault.TOO_LARGE),
        ({**pdu, "sender": "bob"}, Fault.FORMAT),
        ({**pdu, "depth": -1}, Fault.FORMAT),
        ({**pdu, "depth": 2**53}, Fault.FORMAT),
        ({**pdu, "depth": True}, Fault.FORMAT),
        ({**pdu, "depth": 1.5}, Fault.FORMAT),
        ({**pdu, "origin_server_ts": "now"}, Fault.FORMAT),
        ({**pdu, "prev_events": references[:21]}, Fault.FORMAT),
        ({**pdu, "auth_events": references[:11]}, Fault.FORMAT),
        ({**pdu, "prev_events": [["$x", {}]]}, Fault.FORMAT),
        ({**pdu, "event_id": "$chosen"}, Fault.FORMAT),
        ({**pdu, "hashes": {}}, Fault.FORMAT),
        ({**pdu, "signatures": {"there.test": 5}}, Fault.FORMAT),
        ({**pdu, "content": {"a": 1.5}}, Fault.FORMAT),
        ({**pdu, "content": {"a": 2**60}}, Fault.FORMAT),
        ({**pdu, "content": {"a": "x" * 70_000}}, Fault.TOO_LARGE),
        ({**pdu, "type": "a\0b"}, Fault.FORMAT),
        ({**pdu, "type": "t", "state_key": "a\0b"}, Fault.FORMAT),
        ({**pdu, "room_id": "!another:there.test"}, Fault.WRONG_ROOM),
    ]
    results = await check_pdus(here.server, V11, ROOM, [case for case, _ in cases])
    assert faults(results) == [expected for _, expected in cases]
    assert not network.exchanges, "nobody is asked about what is no event"


@aio
async def test_an_event_that_follows_on_itself(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    circle = event_of(there, version="2", prev_events=["$mine:there.test"], reference_hashes={"$mine:there.test": "x"})
    assert await fault_of(here, circle.pdu(), "2") is Fault.FORMAT
    proof = event_of(
        there,
        version="2",
        auth_events=["$mine:there.test"],
        reference_hashes={"$mine:there.test": "x", "$before:there.test": "y"},
    )
    assert await fault_of(here, proof.pdu(), "2") is Fault.FORMAT


@aio
async def test_a_key_must_have_been_valid_then(network: Network) -> None:
    """From room version 5 on; before, no moment is looked at."""
    here, there = await network.found("here.test"), await network.found("there.test")
    later = network.clock.now_ms() + 8 * 24 * 60 * 60 * 1000
    assert await fault_of(here, event_of(there, origin_server_ts=later).pdu()) is Fault.NO_KEY
    assert await fault_of(here, event_of(there, origin_server_ts=later, version="4").pdu(), "4") is None
    assert await fault_of(here, event_of(there, origin_server_ts=0).pdu()) is None


@aio
async def test_each_server_is_asked_once(network: Network) -> None:
    here = await network.found("here.test")
    others = [await network.found(f"s{number}.test") for number in range(4)]
    pdus = [
        event_of(others[number % 4], f"s{number % 4}.test", depth=number).pdu()
        for number in range(3 * pdu_checks.BREATH)
    ]
    assert set(faults(await check_pdus(here.server, V11, ROOM, pdus))) == {None}
    assert sorted(each.destination for each in network.exchanges) == [f"s{number}.test" for number in range(4)]


@aio
async def test_servers_that_do_not_answer_are_not_waited_for_for_ever(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    fine = event_of(there)
    assert await fault_of(here, fine.pdu()) is None
    ask, asked = server_keys.ring, asyncio.Event()

    async def slow(server: Any, name: str, wanted: Any) -> Any:
        if name == "slow.test":
            asked.set()
            await network.clock.sleep(1000)
        return await ask(server, name, wanted)

    monkeypatch.setattr(server_keys, "ring", slow)
    pdus = [event_of(there, "slow.test").pdu(), fine.pdu()]
    results = []

    async def check() -> None:
        results.extend(await check_pdus(here.server, V11, ROOM, pdus, seconds=5))

    task = asyncio.ensure_future(check())
    await asked.wait()
    await network.clock.advance(6)
    await task
    assert faults(results) == [Fault.NO_KEY, None]


@aio
async def test_the_id_of_what_is_dropped_is_known_where_it_has_one(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    event = event_of(there, key=signing_key("another"))
    (dropped,) = await check_pdus(here.server, V11, ROOM, [event.pdu()])
    assert isinstance(dropped, Dropped)
    assert dropped.event_id == event.event_id
    assert pdu_checks.id_of(V11, {"type": "x"}) is None
    assert signing.event_id_of_hash(V11, signing.reference_hash(V11, event.pdu())) == event.event_id
