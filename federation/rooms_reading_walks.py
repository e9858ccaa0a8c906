"""Walks through a room's graph for servers that lack a part of it: back from an event, or between what they have.

Bounded in events, in bytes and in trips to the database: along a timeline the next events are read before they are
asked for.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from homeserver.storage import events

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from federation.rooms_reading import Reading
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent

MOST_BYTES: Final = 5 * 2**20
"""Bytes of events in one answer; the first event is always in it."""
MOST_ROUNDS: Final = 60
"""Trips to the database for one answer."""
SPARE: Final = 20
"""Events read in advance, beyond those that are wanted."""


async def backfill(reading: Reading, starts: Collection[str], limit: int) -> list[StoredEvent]:
    """Up to ``limit`` events that the server may have: those that it names and what came before, the latest first.

    spec: server-server-api/#get_matrixfederationv1backfillroomid
    """
    return await reading.node.read(_backfill, reading, starts, limit)


async def _backfill(tx: Transaction, reading: Reading, starts: Collection[str], limit: int) -> list[StoredEvent]:
    walk = _Walk(tx, reading.room.nid, limit)
    await walk.load(starts)
    return await _latest_first(reading, walk, starts, limit)


async def _latest_first(reading: Reading, walk: _Walk, starts: Collection[str], limit: int) -> list[StoredEvent]:
    answer = _Answer(reading, limit)
    queue: list[tuple[int, str]] = []
    seen: set[str] = set()
    wanted: Collection[str] = starts
    while True:
        for event_id in wanted:
            row = walk.rows.get(event_id)
            if event_id not in seen and row is not None:
                seen.add(event_id)
                heappush(queue, (-row.depth, event_id))
        if not queue:
            break
        row = walk.rows[heappop(queue)[1]]
        if not answer.takes(row):
            break
        wanted = events.followed(row.rest)
        if not await walk.load(wanted):
            break
    return answer.events


async def missing(
    reading: Reading, earliest: Collection[str], latest: Collection[str], limit: int, min_depth: int
) -> list[StoredEvent]:
    """Up to ``limit`` events between what the server has and what it has heard of, the oldest first; the nearest to
    ``latest`` when there are more. ``latest`` themselves are not among them.

    spec: server-server-api/#post_matrixfederationv1get_missing_eventsroomid
    """
    found = await reading.node.read(_missing, reading, earliest, latest, limit, min_depth)
    return sorted(found, key=lambda row: (row.depth, row.pos or 0))


async def _missing(
    tx: Transaction, reading: Reading, earliest: Collection[str], latest: Collection[str], limit: int, min_depth: int
) -> list[StoredEvent]:
    walk = _Walk(tx, reading.room.nid, limit)
    answer = _Answer(reading, limit)
    seen = {*earliest, *latest}
    layer: Sequence[str] = list(dict.fromkeys(latest))
    while layer:
        if not await walk.load(layer):
            break
        rows = [walk.rows[event_id] for event_id in layer if event_id in walk.rows]
        following = [each for row in rows for each in events.followed(row.rest) if each not in seen]
        layer = list(dict.fromkeys(following))
        seen.update(layer)
        if not await walk.load(layer):
            break
        layer = [event_id for event_id in layer if event_id in walk.rows and walk.rows[event_id].depth >= min_depth]
        if not all(answer.takes(walk.rows[event_id]) for event_id in layer):
            break
    return answer.events


class _Answer:
    """The events that the server is given."""

    def __init__(self, reading: Reading, limit: int) -> None:
        self.events: list[StoredEvent] = []
        self._reading = reading
        self._limit = limit
        self._size = 0

    def takes(self, row: StoredEvent) -> bool:
        """Give an event, if the server may have it; whether there is room for another."""
        if not self._reading.gives(row):
            return True
        self._size += len(row.client) + len(row.rest)
        if self.events and self._size > MOST_BYTES:
            return False
        self.events.append(row)
        return len(self.events) < self._limit


class _Walk:
    """The events that have been read for one answer."""

    def __init__(self, tx: Transaction, room_nid: int, limit: int) -> None:
        self.rows: dict[str, StoredEvent] = {}
        self._tx = tx
        self._room_nid = room_nid
        self._ahead = limit + SPARE
        self._rounds = 0
        self._absent: set[str] = set()

    async def load(self, event_ids: Collection[str]) -> bool:
        """Read events of the room, and what precedes the earliest of them. False when it is enough for one answer."""
        lacking = [each for each in event_ids if each not in self.rows and each not in self._absent]
        if not lacking:
            return True
        if self._rounds >= MOST_ROUNDS:
            return False
        self._rounds += 2
        found = await events.of_room(self._tx, self._room_nid, lacking)
        self._absent.update(lacking)
        self.rows.update((row.event_id, row) for row in found)
        places = [row.pos for row in found if row.pos is not None]
        if places:
            earlier = await events.timeline_backwards(self._tx, self._room_nid, min(places), None, self._ahead)
            self.rows.update((row.event_id, row) for row in earlier)
        return True
