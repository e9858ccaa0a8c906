"""Reading what relates to an event, page by page, and the threads of a room.

A page has only what its reader may see, and looks at `history.SCANNED` events for it at most.

spec: client-server-api/#relationships-api, client-server-api/#querying-threads-in-a-room
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.rooms import erasure, history
from homeserver.rooms.history import Page
from homeserver.rooms.state import timed
from homeserver.storage import relations
from homeserver.storage.relations import Kin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node

DEPTH: Final = 5
"""Levels of relations that are followed when all of them are asked for."""

PARENTS: Final = 500
"""Events whose relations are followed, at most: one statement takes as many."""


class Asked(NamedTuple):
    """What is asked for: events that relate to one by ``rel_type``, of the type ``kind``; None: whatever these are.

    ``recursive``: also what relates to those that relate to it; of these too, only what fits.
    """

    event_id: str
    rel_type: str | None
    kind: str | None
    recursive: bool


async def page(
    node: Node, room: Room, seen: Sight, asked: Asked, *, start: int, to: int | None, backwards: bool, limit: int
) -> tuple[Page, int]:
    """What relates to an event that the reader may see, in the order of the timeline, and to which depth it was looked
    for. Raises NotFound without such an event.

    spec: client-server-api/#get_matrixclientv1roomsroomidrelationseventid
    """
    await history.find(node, room, seen, asked.event_id)
    parents, depth = [asked.event_id], 1
    if asked.recursive:
        parents, depth = await node.read(_family, room.nid, asked.event_id)
    kin = Kin(room.nid, parents, asked.rel_type, asked.kind)

    async def rows(at: int, count: int) -> list[StoredEvent]:
        return await node.read(relations.children, kin, at, to, count, backwards=backwards)

    turned = await history.turn(rows, seen.sees, start=start, backwards=backwards, limit=limit)
    return Page(turned.events, start, None if turned.exhausted else turned.at), depth


async def _family(tx: Transaction, room_nid: int, event_id: str) -> tuple[list[str], int]:
    """An event and all below it that have children, and how many levels down the deepest of these children are."""
    family, level, depth = {event_id: None}, [event_id], 1
    while depth < DEPTH and len(family) < PARENTS:
        below = await relations.parents_below(tx, room_nid, level, PARENTS - len(family))
        level = [parent for parent in below if parent not in family]
        if not level:
            break
        family.update(dict.fromkeys(level))
        depth += 1
    return list(family), depth


class Threads(NamedTuple):
    """Roots of threads, the one with the newest event first; ``end``: the position behind which there may be more."""

    roots: Sequence[Timed]
    end: int | None


async def threads(
    node: Node, room: Room, seen: Sight, *, start: int, limit: int, participant: str | None = None
) -> Threads:
    """Threads of a room whose newest event is not after ``start``; with a ``participant``, those in which they wrote.

    A root by somebody whom the reader ignores is redacted. To somebody who left, threads that went on without them are
    not shown. spec: client-server-api/#get_matrixclientv1roomsroomidthreads
    """
    heeding = replace(seen, ignored=frozenset())
    at = start if seen.left_at is None else min(start, seen.left_at)
    chosen: list[Timed] = []
    scanned = 0
    while scanned < history.SCANNED:
        count = max(limit - len(chosen), 20)
        found = await node.read(relations.threads_of, room.nid, at, count, participant)
        for latest, row in found:
            scanned, at, root = scanned + 1, latest - 1, timed(row)
            if not heeding.sees(root):
                continue
            chosen.append(erasure.redacted(room, root) if root.sender in seen.ignored else root)
            if len(chosen) == limit:
                return Threads(chosen, at)
        if len(found) < count:
            return Threads(chosen, None)
    return Threads(chosen, at)
