"""What relates to an event: read for many events at once, to be shown with them.

The rows are written and deleted with the events (storage/events.py): what has been redacted relates to nothing.

spec: client-server-api/#aggregations-of-child-events
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.engine import asks_once
from homeserver.storage.events import COLUMNS, FROM, StoredEvent
from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction

AT_ONCE = 500
"""Events that are asked about in one statement."""

EDITS = 3
"""Replacements of an event that are looked at, the newest first: one of them may be none that counts."""

REFERENCES = 1000
"""References in one answer of the database, at most."""


class Thread(NamedTuple):
    """What a thread is to a reader: its newest event, how many are in it, whether the reader wrote one of them."""

    latest: StoredEvent
    size: int
    participated: bool


@dataclass(slots=True)
class Related:
    """What relates to events, each by the event id of the parent. ``replacements``: the newest first."""

    threads: dict[str, Thread] = field(default_factory=dict)
    replacements: dict[str, list[StoredEvent]] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    """All to which anything of these kinds relates, whoever sent it."""


async def related(
    tx: Transaction, event_ids: Sequence[str], reader_nid: int, ignored: Collection[str], *, threads: bool = True
) -> Related:
    """What relates to events of timelines: threads (if they are wanted), replacements and references.

    What ``ignored`` users sent is left out. One trip when there is nothing, up to four more for 500 events.
    """
    found = Related()
    for part in in_parts(event_ids, AT_ONCE):
        kinds: dict[str, list[str]] = {}
        for parent, kind in await tx.all(
            "SELECT DISTINCT parent_id, rel_type FROM relations"
            f" WHERE parent_id IN ({_marks(part)}) AND rel_type IN ('m.thread', 'm.replace', 'm.reference')",
            *part,
        ):
            kinds.setdefault(kind, []).append(parent)
            found.parents.add(parent)
        if threads and "m.thread" in kinds:
            found.threads.update(await _threads(tx, kinds["m.thread"], reader_nid, ignored))
        if "m.replace" in kinds:
            await _replacements(tx, kinds["m.replace"], ignored, found.replacements)
        if "m.reference" in kinds:
            await _references(tx, kinds["m.reference"], ignored, found.references)
    return found


@asks_once
async def annotations_by(tx: Transaction, room_nid: int, parent_id: str, kind: str, sender: str) -> list[bytes]:
    """The annotations of an event that a user sent, as events of one type in client format; not the redacted ones."""
    rows = await tx.all(
        "SELECT e.client FROM relations r JOIN events e ON e.event_nid = r.child_nid AND e.verdict = 0"
        " WHERE r.parent_id = ? AND r.rel_type = 'm.annotation' AND r.room_nid = ? AND r.type = ?"
        f" AND r.sender_nid = {NID_OF}",
        parent_id,
        room_nid,
        kind,
        sender,
    )
    return [row[0] for row in rows]


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _heeded(ignored: Collection[str]) -> str:
    """The condition that the sender of a relation is not ignored."""
    if not ignored:
        return ""
    return f" AND r.sender_nid NOT IN (SELECT user_nid FROM users WHERE user_id IN ({_marks(list(ignored))}))"


_CHILDREN = (
    " FROM events p JOIN relations r ON r.parent_id = p.event_id JOIN events e ON e.event_nid = r.child_nid"
    " AND e.room_nid = p.room_nid AND e.verdict = 0 AND e.pos IS NOT NULL"
)


async def _threads(
    tx: Transaction, parents: Sequence[str], reader_nid: int, ignored: Collection[str]
) -> dict[str, Thread]:
    rows = await tx.all(
        "SELECT r.parent_id, p.room_nid, MAX(e.pos), COUNT(*), MAX(CASE WHEN r.sender_nid = ? THEN 1 ELSE 0 END)"
        f"{_CHILDREN} WHERE p.event_id IN ({_marks(parents)}) AND r.rel_type = 'm.thread'{_heeded(ignored)}"
        " GROUP BY r.parent_id, p.room_nid",
        reader_nid,
        *parents,
        *ignored,
    )
    if not rows:
        return {}
    places = ",".join("(?, ?)" for _ in rows)
    latest = {
        (row[0], row[3]): StoredEvent(*row[1:])
        for row in await tx.all(
            f"SELECT e.room_nid, {COLUMNS} {FROM} WHERE (e.room_nid, e.pos) IN (VALUES {places})",
            *[number for row in rows for number in row[1:3]],
        )
    }
    return {
        parent: Thread(latest[room_nid, pos], size, bool(participated))
        for parent, room_nid, pos, size, participated in rows
    }


async def _replacements(
    tx: Transaction, parents: Sequence[str], ignored: Collection[str], found: dict[str, list[StoredEvent]]
) -> None:
    """Those by the sender of the parent, and of its type. spec: client-server-api/#validity-of-replacement-events"""
    rows = await tx.all(
        f"SELECT c.parent_id, {COLUMNS} FROM (SELECT r.parent_id, x.event_nid,"
        " ROW_NUMBER() OVER (PARTITION BY r.parent_id ORDER BY x.ts DESC, x.event_id DESC) AS place"
        " FROM events p JOIN relations r ON r.parent_id = p.event_id JOIN events x ON x.event_nid = r.child_nid"
        " AND x.room_nid = p.room_nid AND x.sender_nid = p.sender_nid AND x.type = p.type"
        f" WHERE p.event_id IN ({_marks(parents)}) AND p.state_key IS NULL AND r.rel_type = 'm.replace'"
        f" AND x.state_key IS NULL AND x.verdict = 0 AND x.pos IS NOT NULL{_heeded(ignored)}) c"
        " JOIN events e ON e.event_nid = c.event_nid JOIN users u ON u.user_nid = e.sender_nid WHERE c.place <= ?"
        " ORDER BY c.parent_id, c.place",
        *parents,
        *ignored,
        EDITS,
    )
    for row in rows:
        found.setdefault(row[0], []).append(StoredEvent(*row[1:]))


async def _references(
    tx: Transaction, parents: Sequence[str], ignored: Collection[str], found: dict[str, list[str]]
) -> None:
    rows = await tx.all(
        f"SELECT r.parent_id, e.event_id{_CHILDREN} WHERE p.event_id IN ({_marks(parents)})"
        f" AND r.rel_type = 'm.reference'{_heeded(ignored)} ORDER BY e.pos LIMIT ?",
        *parents,
        *ignored,
        REFERENCES,
    )
    for parent, event_id in rows:
        found.setdefault(parent, []).append(event_id)


# pages of what relates to an event ------------------------------------------------------------


async def parents_below(tx: Transaction, room_nid: int, event_ids: Collection[str], limit: int) -> list[str]:
    """Those events to which others relate, of the events of a room that relate to ``event_ids`` (500 at most)."""
    rows = await tx.all(
        "SELECT DISTINCT e.event_id FROM relations r JOIN events e ON e.event_nid = r.child_nid"
        f" AND e.room_nid = ? AND e.verdict = 0 WHERE r.parent_id IN ({_marks(list(event_ids))})"
        " AND EXISTS (SELECT 1 FROM relations below WHERE below.parent_id = e.event_id) LIMIT ?",
        room_nid,
        *event_ids,
        limit,
    )
    return [row[0] for row in rows]


class Kin(NamedTuple):
    """Which relations are asked for: of events of one room to any of ``parents``; None: of any type."""

    room_nid: int
    parents: Sequence[str]
    rel_type: str | None
    type: str | None


async def children(
    tx: Transaction, kin: Kin, start: int, to: int | None, limit: int, *, backwards: bool
) -> list[StoredEvent]:
    """Events of the timeline that relate to others, from the position ``start`` on; see `events.timeline_backwards`."""
    bound, order = ("<=", "DESC") if backwards else (">", "ASC")
    conditions, params = [f"e.pos {bound} ?"], [start]
    if to is not None:
        conditions.append(f"e.pos {'>' if backwards else '<='} ?")
        params.append(to)
    chosen = [
        (column, value) for column, value in (("rel_type", kin.rel_type), ("type", kin.type)) if value is not None
    ]
    rows = await tx.all(
        f"SELECT {COLUMNS} FROM relations r JOIN events e ON e.event_nid = r.child_nid"
        f" JOIN users u ON u.user_nid = e.sender_nid WHERE r.parent_id IN ({_marks(kin.parents)})"
        f"{''.join(f' AND r.{column} = ?' for column, _ in chosen)} AND e.room_nid = ? AND e.verdict = 0"
        f" AND {' AND '.join(conditions)} ORDER BY e.pos {order} LIMIT ?",
        *kin.parents,
        *[value for _, value in chosen],
        kin.room_nid,
        *params,
        limit,
    )
    return [StoredEvent(*row) for row in rows]


async def threads_of(
    tx: Transaction, room_nid: int, until: int, limit: int, participant: str | None
) -> list[tuple[int, StoredEvent]]:
    """Threads of a room whose newest event is not after ``until``: (its position, the root), the most recent first.

    With a ``participant``, only those in which that user wrote.
    """
    taking_part, params = "", []
    if participant is not None:
        taking_part = (
            f" AND (e.sender_nid = {NID_OF} OR EXISTS (SELECT 1 FROM relations r WHERE r.parent_id = t.root_id"
            f" AND r.rel_type = 'm.thread' AND r.sender_nid = {NID_OF}))"
        )
        params = [participant, participant]
    rows = await tx.all(
        f"SELECT t.latest_pos, {COLUMNS} FROM threads t JOIN events e ON e.event_id = t.root_id"
        " AND e.room_nid = t.room_nid AND e.verdict = 0 AND e.pos IS NOT NULL JOIN users u ON u.user_nid = e.sender_nid"
        f" WHERE t.room_nid = ? AND t.latest_pos <= ?{taking_part} ORDER BY t.latest_pos DESC LIMIT ?",
        room_nid,
        until,
        *params,
        limit,
    )
    return [(row[0], StoredEvent(*row[1:])) for row in rows]
