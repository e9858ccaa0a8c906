"""Erased users: who joins a room after somebody asked for erasure is shown what that user sent as if it were redacted.
Other servers are given it redacted by the same rule (federation/rooms_reading.py).

Whoever could see it before goes on seeing it, and nothing in the database changes. The state that a room has is not
touched, so that it stays the same room for everybody.

spec: client-server-api/#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from config.residency import DataClass
from homeserver.accounts.deactivation import ERASED
from homeserver.protocol import client_format
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.redaction import redact_content
from homeserver.rooms.replicas import ParcelKind
from homeserver.runtime.lru import Lru
from homeserver.storage import erasures, streams, users
from homeserver.storage.erasures import Erased

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.rooms.seeding import Mark
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Parcel


async def known(node: Node) -> Mapping[str, int]:
    """The erased users of whom a node knows, and since which position. No trip but the first time."""
    memory = node.memory(Erased)
    if memory.known is None:
        memory.known = await node.read(erasures.all_of_them)
    return memory.known


class _Forgotten:
    """Who of whom a node knows was in which room, by its row id (``node.memory(_Forgotten)``), with the position of the
    state and the knowledge that say so."""

    def __init__(self) -> None:
        self.of_room: Lru[int, tuple[int, Mapping[str, int], Mapping[str, int]]] = Lru(10_000)


async def of_room(node: Node, room: Room) -> Mapping[str, int]:
    """Those erased users of whom a node knows who ever had a membership in a room, and since when. No trip but the
    first time, and a look at everybody only when the state of the room has changed."""
    erased = await known(node)
    if not erased:
        return {}
    memory = node.memory(_Forgotten).of_room
    held = memory.get(room.nid)
    if held is None or held[0] != room.state_pos or held[1] is not erased:
        found = {user_id: since for user_id, since in erased.items() if (MEMBER, user_id) in room.now.state}
        held = memory[room.nid] = (room.state_pos, erased, found)
    return held[2]


def hides(erased: Mapping[str, int], seen: Sight, event: Timed) -> bool:
    """Whether a reader is not to see what an event says: its sender was erased before they could see it."""
    since = erased.get(event.sender)
    if since is None:
        return False
    joins = [pos for pos in seen.joins if pos <= since]
    memberships = [entry for entry in seen.memberships if entry[0] <= since]
    return not joins or not replace(seen, joins=joins, memberships=memberships).sees(event)


def shown(room: Room, erased: Mapping[str, int], seen: Sight | None, events: Sequence[Timed]) -> Sequence[Timed]:
    """Events as a reader may see them; ``seen`` None: they could see all of them before anybody was erased."""
    if not erased or seen is None:
        return events
    return [redacted(room, event) if hides(erased, seen, event) else event for event in events]


def redacted(room: Room, event: Timed) -> Timed:
    """An event as its redaction would leave it, for a reader who is not to see what it says."""
    content = orjson.loads(client_format.content_of(event.client))
    kept = orjson.dumps(redact_content(room.rules, event.type, content))
    return replace(event, client=client_format.with_content(event.client, kept), unsigned=None, shown=None)


# from the user's own node to the others -----------------------------------------------------


async def _apply(server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark) -> None:
    assert parcel.body is not None
    await destination.advance(_take, destination, orjson.loads(parcel.body)["user_id"], mark)


async def _take(tx: Transaction, node: Node, user_id: str, mark: Mark) -> None:
    mark(tx)
    if await users.nid(tx, user_id) is not None:
        erasures.put(tx, [user_id], await streams.allocate(tx))
    tx.after_commit(node.memory(Erased).clear)


ERASURE_PARCELS: Mapping[str, ParcelKind] = {ERASED: ParcelKind(DataClass.EVENTS, _apply)}
"""They wait where nothing may go at the time: what was copied before is there all the while."""
