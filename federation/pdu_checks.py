"""The first checks on what another server gave us as events: format, size, signatures, content hash.

What passes is an `Event`, redacted where its content is not what its servers signed; what does not is dropped, with a
reason. Whether the rules of the room allow it is asked later (`rooms.receive`).

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from federation import server_keys
from homeserver.protocol import events, identifiers, signing
from homeserver.protocol.errors import BadJson, InvalidSignature, TooLarge
from homeserver.protocol.policy_server import KEY_ID as POLICY_KEY_ID
from homeserver.protocol.signers import required_signers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from federation.server_keys import Ring
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules

AT_ONCE: Final = 24
"""Servers whose keys are looked for at the same time."""
SECONDS: Final = 30.0
"""How long keys that we do not have are waited for, all in all; what they would have proved is dropped."""
MOST_KEYS: Final = 10
"""Signatures of one server on one event that are looked at."""
BREATH: Final = 50
"""Events that are checked before anything else may run."""


class Fault(StrEnum):
    """Why something was dropped: what `/metrics` tells apart."""

    FORMAT = "format"
    TOO_LARGE = "too_large"
    WRONG_ROOM = "wrong_room"
    SIGNATURE = "signature"
    NO_KEY = "no_key"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What is no event to us. ``event_id`` is what it would have been, None if it is too malformed to have one."""

    event_id: str | None
    fault: Fault
    reason: str


@dataclass(frozen=True, slots=True)
class _Read:
    """An event of good format, before anybody's signature was looked at."""

    event: Event
    signed: bytes
    signers: Mapping[str, Sequence[str]]
    """The ids of the keys under which each server signed that must have."""


async def check_pdus(
    server: Server, rules: RoomRules, room_id: str, pdus: Sequence[object], *, seconds: float = SECONDS
) -> list[Event | Dropped]:
    """Check what another server says are events of a room in federation format, as parsed JSON; answers in their order.

    Each server whose signature is needed is asked for its keys once at most, several at the same time, and for
    ``seconds`` altogether. What is dropped is counted. Raises NodeUnavailable (of the key ring).
    """
    found: list[_Read | Dropped] = []
    for number, pdu in enumerate(pdus):
        if number % BREATH == BREATH - 1:
            await asyncio.sleep(0)
        found.append(_read(rules, room_id, pdu))
    read = [each for each in found if isinstance(each, _Read)]
    rings = await _rings(server, rules, read, seconds)
    results: list[Event | Dropped] = []
    for number, each in enumerate(found):
        if number % BREATH == BREATH - 1:
            await asyncio.sleep(0)
        results.append(_proved(rules, each, rings) if isinstance(each, _Read) else each)
    count(server, results)
    return results


def passed(results: Sequence[Event | Dropped]) -> list[Event]:
    """The events among the answers of `check_pdus`."""
    return [each for each in results if not isinstance(each, Dropped)]


def count(server: Server, results: Sequence[Event | Dropped]) -> None:
    """Count what was dropped."""
    counter = server.telemetry.counter(
        "domicile_federation_pdus_dropped", "Events of other servers that were dropped unread, by reason.", ["reason"]
    )
    for each in results:
        if isinstance(each, Dropped):
            counter.inc(each.fault)


# format and hash ----------------------------------------------------------------------------------


def _read(rules: RoomRules, room_id: str, pdu: object) -> _Read | Dropped:
    if not isinstance(pdu, dict):
        return Dropped(None, Fault.FORMAT, "An event must be an object")
    try:
        event, signed = events.read_pdu(rules, pdu)
    except TooLarge as error:
        return Dropped(id_of(rules, pdu), Fault.TOO_LARGE, error.message)
    except BadJson as error:
        return Dropped(id_of(rules, pdu), Fault.FORMAT, error.message)
    if event.room_id != room_id:
        return Dropped(event.event_id, Fault.WRONG_ROOM, "The event is of another room")
    if "\0" in event.type or "\0" in (event.state_key or "") or "\0" in (event.redacts or ""):
        return Dropped(event.event_id, Fault.FORMAT, "Event types, state keys and event IDs must not contain U+0000")
    if event.event_id in event.prev_events or event.event_id in event.auth_events:
        return Dropped(event.event_id, Fault.FORMAT, "The event follows on itself, or cites itself")
    signers = {}
    for name in required_signers(rules, event):
        if not identifiers.is_server_name(name):
            return Dropped(event.event_id, Fault.SIGNATURE, "The event is to be signed by what is no server")
        key_ids = [key_id for key_id in signing.signing_key_ids(pdu, name) if key_id != POLICY_KEY_ID]
        signers[name] = key_ids[:MOST_KEYS]
        if not signers[name]:
            return Dropped(event.event_id, Fault.SIGNATURE, f"The event is not signed by {name}")
    return _Read(event, signed, signers)


def id_of(rules: RoomRules, pdu: object) -> str | None:
    """The id of what may be no event at all; None if it has none."""
    try:
        return events.event_id_of(rules, pdu) if isinstance(pdu, dict) else None
    except BadJson:
        return None


# signatures ---------------------------------------------------------------------------------------


async def _rings(server: Server, rules: RoomRules, read: Sequence[_Read], seconds: float) -> dict[str, Ring]:
    """The keys of all servers that signed, as far as they can be had in time."""
    wanted: dict[str, dict[str, int]] = {}
    for each in read:
        moment = each.event.origin_server_ts if rules.key_validity_enforced else 0
        for name, key_ids in each.signers.items():
            latest = wanted.setdefault(name, {})
            for key_id in key_ids:
                latest[key_id] = max(moment, latest.get(key_id, moment))
    rings: dict[str, Ring] = {}
    if not wanted:
        return rings
    names = iter(wanted.items())

    async def look(names: Iterator[tuple[str, dict[str, int]]]) -> None:
        for name, latest in names:
            rings[name] = await server_keys.ring(server, name, latest)

    looking = [asyncio.ensure_future(look(names)) for _ in range(min(AT_ONCE, len(wanted)))]
    timer = server.clock.call_later(seconds, _stop, looking)
    try:
        for result in await asyncio.gather(*looking, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
    finally:
        timer.cancel()
        _stop(looking)
    return rings


def _stop(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


def _proved(rules: RoomRules, read: _Read, rings: Mapping[str, Ring]) -> Event | Dropped:
    event = read.event
    moment = event.origin_server_ts if rules.key_validity_enforced else 0
    for name, key_ids in read.signers.items():
        good = rings[name].good(key_ids, moment) if name in rings else {}
        if not good:
            return Dropped(event.event_id, Fault.NO_KEY, f"No key of {name} is known that was valid then")
        try:
            signing.verify_bytes(read.signed, event.signatures, name, good)
        except InvalidSignature as error:
            return Dropped(event.event_id, Fault.SIGNATURE, error.message)
    return event
