"""The bytes of events as their readers get them.

spec: client-server-api/#room-event-format
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.protocol import stickiness
from homeserver.protocol.client_format import sticky_ms
from homeserver.rooms import aggregations, erasure
from homeserver.rooms.sight import JOINED
from homeserver.rooms.state import Room, Timed
from homeserver.rooms.transactions import DELAYED
from homeserver.storage import client_transactions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.rooms.sight import Sight
    from homeserver.storage.events import StoredEvent

MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")

_UNSAID = b',"unsigned":{"age":%d'

_OPENINGS: dict[str | None, bytes] = {each: _UNSAID + b',"membership":"%s"' % each.encode() for each in MEMBERSHIPS}
"""How the ``unsigned`` of an event begins, by the membership of the reader."""

PLAIN_STATE = b"%b" + _UNSAID + b"}}"
"""A state event of which nothing is told but its bytes and its age: what `show_stored` makes of it."""

FRESH_MS = 1000
"""How long (milliseconds) the formatted bytes of an event are given to further readers."""


def show(
    event: Timed,
    now_ms: int,
    *,
    room_id: bytes = b"",
    membership: str | None = None,
    transaction_id: str | None = None,
    relations: bytes | None = None,
) -> bytes:
    """An event as a client reads it. ``room_id``: the JSON string of the room id, where the answer wants it;
    ``membership``: the reader's at the event (see `sight.membership_at`); ``relations``: what is bundled with it (see
    aggregations.py).

    What is the same for all who were in the room is formatted once.
    """
    plain = membership == JOINED and transaction_id is None and relations is None and not room_id
    if plain:
        shown = event.shown
        if shown is not None and now_ms - shown[0] < FRESH_MS:
            return shown[1]
    parts = [event.client]
    if room_id:
        parts += (b',"room_id":', room_id)
    parts.append(_OPENINGS.get(membership, _UNSAID) % max(0, now_ms - event.ts))
    if event.unsigned is not None:
        parts += (b",", event.unsigned)
    lasts = sticky_ms(event.client)
    if lasts is not None:
        parts.append(stays(stickiness.expiry(lasts, event.ts, now_ms) - now_ms))
    if transaction_id is not None:
        parts += own(transaction_id)
    if relations is not None:
        parts += (b",", relations)
    parts.append(b"}}")
    formatted = b"".join(parts)
    if plain:
        event.shown = (now_ms, formatted)
    return formatted


def stays(ttl_ms: int) -> bytes:
    """What tells for how long an event is still sticky (MSC4354)."""
    return b',"msc4354_sticky_duration_ttl_ms":%d' % max(0, ttl_ms)


def own(transaction_id: str) -> tuple[bytes, bytes]:
    """What tells a device that an event is its own."""
    name, _, delay_id = transaction_id.partition("=")
    if name + "=" == DELAYED:
        return b',"org.matrix.msc4140.delay_id":', orjson.dumps(delay_id)
    return b',"transaction_id":', orjson.dumps(transaction_id)


def show_stored(row: StoredEvent, now_ms: int, *, room_id: bytes = b"", membership: str | None = None) -> bytes:
    """A stored event, of the state for example, as a client reads it."""
    age, unsigned = now_ms - row.ts, row.unsigned
    opening = _OPENINGS.get(membership, _UNSAID) % (age if age > 0 else 0)
    if unsigned is None and not room_id:  # nearly always, and there are hundreds in an answer
        return b"%b%b}}" % (row.client, opening)
    parts = [row.client]
    if room_id:
        parts += (b',"room_id":', room_id)
    parts.append(opening)
    if unsigned is not None:
        parts += (b",", unsigned)
    parts.append(b"}}")
    return b"".join(parts)


def state_pattern(row: StoredEvent) -> bytes:
    """What `show_stored` makes of a state event, with a ``%d`` where its age goes."""
    unsigned = b"" if row.unsigned is None else b"," + row.unsigned.replace(b"%", b"%%")
    return row.client.replace(b"%", b"%%") + _UNSAID + unsigned + b"}}"


def array(items: Sequence[bytes]) -> bytes:
    """A JSON array of encoded items."""
    return b"[" + b",".join(items) + b"]"


async def transactions_of(caller: Caller, event_ids: Sequence[str]) -> dict[str, str]:
    """Transaction ids under which the calling device sent events: event id to transaction id."""
    return await caller.node.read(client_transactions.of_events, caller.device_nid, event_ids)


async def show_all(server: Server, caller: Caller, room: Room, seen: Sight, shown: Sequence[Timed]) -> list[bytes]:
    """Events with their room id, the caller's own transaction ids, and what relates to them."""
    mine = [event.event_id for event in shown if event.sender == caller.user_id]
    own = await transactions_of(caller, mine) if mine else {}
    now, room_id = server.clock.now_ms(), orjson.dumps(room.room_id)
    erased = await erasure.known(caller.node)
    shown = erasure.shown(room, erased, seen, shown)
    reader = aggregations.Reader(caller.node, caller.user_nid, caller.user_id, seen.ignored, erased)
    related = await aggregations.bundled(reader, aggregations.parents_of(room, seen, shown, room_ids=True), now)
    return [
        show(
            event,
            now,
            room_id=room_id,
            membership=seen.membership_at(event.pos),
            transaction_id=own.get(event.event_id),
            relations=related.get(event.event_id),
        )
        for event in shown
    ]
