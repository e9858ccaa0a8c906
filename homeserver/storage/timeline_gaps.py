"""Where the timeline of a room, as a node holds it, lacks events: what is followed there and has no place in it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol import canonical
from homeserver.storage import events
from homeserver.storage.events import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from homeserver.storage.engine import Transaction

LOWEST = 200
"""The oldest events of a timeline that are looked at for what precedes it."""


class Gap(NamedTuple):
    """``before``: events that those just above a place in a timeline follow on, and that are not in it.

    ``above``: the position below which they belong; None: below everything. ``hashes``: where event ids are no hashes,
    those that the events just above say that they have.
    """

    before: frozenset[str]
    above: int | None
    hashes: Mapping[str, frozenset[str]] = MappingProxyType({})


async def find(tx: Transaction, room_nid: int, upto: int, after: int | None, limit: int) -> Gap | None:
    """The newest gap that a page of ``limit`` events meets, read backwards (see `events.timeline_backwards`)."""
    rows = await events.timeline_backwards(tx, room_nid, upto, after, limit)
    is_lowest = len(rows) < limit and after is None
    absent = await _unplaced(tx, room_nid, rows)
    before: set[str] = set()
    for number, row in enumerate(rows):
        mine = absent.intersection(events.followed(row.rest))
        before |= mine
        if not mine or row.pos is None:
            continue
        following = rows[number + 1].pos if number + 1 < len(rows) else None
        if following is not None and row.pos - following > 1:
            return Gap(frozenset(before), row.pos, _hashes(rows, before))
    return await _lowest_gap(tx, room_nid) if is_lowest else None


async def _lowest_gap(tx: Transaction, room_nid: int) -> Gap | None:
    """The gap below everything: what the lowest events follow on, up to the next gap."""
    rows = await _lowest(tx, room_nid)
    absent = await _unplaced(tx, room_nid, rows)
    before: set[str] = set()
    below: int | None = None
    for row in rows:
        mine = absent.intersection(events.followed(row.rest))
        if mine and below is not None and (row.pos or 0) - below > 1:
            break
        before |= mine
        below = row.pos
    return Gap(frozenset(before), None, _hashes(rows, before)) if before else None


async def below(tx: Transaction, room_nid: int, row: StoredEvent) -> Gap | None:
    """The gap right below an event of the timeline, if there is one."""
    absent = await _unplaced(tx, room_nid, [row])
    if not absent or row.pos is None:
        return None
    lowest = await lowest_place(tx, room_nid)
    if lowest is not None and lowest[0] == row.pos:
        return Gap(frozenset(absent), None, _hashes([row], absent))
    if await space_below(tx, room_nid, row.pos) <= 0:
        return None
    return Gap(frozenset(absent), row.pos, _hashes([row], absent))


def _hashes(rows: Iterable[StoredEvent], before: Collection[str]) -> dict[str, frozenset[str]]:
    """The hashes that events say those before them have."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for reference in canonical.parse(row.rest, strict=False)["prev_events"]:
            if isinstance(reference, str):  # its id is its hash, and so is that of all in the room
                return {}
            event_id, hashes = reference
            if event_id in before and "sha256" in hashes:
                found.setdefault(event_id, set()).add(hashes["sha256"])
    return {event_id: frozenset(claimed) for event_id, claimed in found.items()}


async def _lowest(tx: Transaction, room_nid: int) -> list[StoredEvent]:
    rows = await tx.all(
        f"SELECT {events.COLUMNS} {events.FROM} WHERE e.room_nid = ? AND e.pos IS NOT NULL ORDER BY e.pos LIMIT ?",
        room_nid,
        LOWEST,
    )
    return [StoredEvent(*row) for row in rows]


async def _unplaced(tx: Transaction, room_nid: int, rows: Iterable[StoredEvent]) -> set[str]:
    """What events follow on that has no place in the timeline."""
    wanted = {each for row in rows for each in events.followed(row.rest)}
    return wanted - await placed(tx, room_nid, wanted)


async def placed(tx: Transaction, room_nid: int, event_ids: Collection[str]) -> set[str]:
    """Those of the events that have a place in the room's timeline."""
    if not event_ids:
        return set()
    marks = ",".join("?" * len(event_ids))
    rows = await tx.all(
        f"SELECT event_id FROM events WHERE room_nid = ? AND pos IS NOT NULL AND event_id IN ({marks})",
        room_nid,
        *event_ids,
    )
    return {row[0] for row in rows}


async def space_below(tx: Transaction, room_nid: int, pos: int) -> int:
    """How many places there are between a position and the next event of the room's timeline below it."""
    row = await tx.one("SELECT MAX(pos) FROM events WHERE room_nid = ? AND pos < ?", room_nid, pos)
    return 2**62 if row is None or row[0] is None else pos - int(row[0]) - 1


async def lowest_place(tx: Transaction, room_nid: int) -> tuple[int, int] | None:
    """Position and depth of the first event of the room's timeline."""
    row = await tx.one(
        "SELECT pos, depth FROM events WHERE room_nid = ? AND pos IS NOT NULL ORDER BY pos LIMIT 1", room_nid
    )
    return None if row is None else (int(row[0]), int(row[1]))


async def redactions(tx: Transaction, room_nid: int, event_ids: Collection[str]) -> dict[str, StoredEvent]:
    """Redactions of the room that wait for these events, by what they redact."""
    if not event_ids:
        return {}
    marks = ",".join("?" * len(event_ids))
    rows = await tx.all(
        f"SELECT w.target_id, {events.COLUMNS} FROM waiting_redactions w JOIN events e ON e.event_nid = w.redaction_nid"
        f" JOIN users u ON u.user_nid = e.sender_nid WHERE w.target_id IN ({marks}) AND e.room_nid = ?",
        *event_ids,
        room_nid,
    )
    return {row[0]: StoredEvent(*row[1:]) for row in rows}
