"""Events of one node: written once, read by row id, event id or place in the timeline.

`client`, `rest` and `unsigned` are the byte strings of protocol/events.py: they are spliced into answers, and parsed
only where a rule has to look inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from homeserver.protocol import canonical, relations
from homeserver.protocol.identifiers import domain_of
from homeserver.runtime.parts import in_parts
from homeserver.storage import user_directory
from homeserver.storage.engine import asks_once
from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Row, Transaction

AT_ONCE = 500
"""Values in one statement."""


class Verdict(IntEnum):
    """What the checks on an event came to."""

    ACCEPTED = 0
    SOFT_FAILED = 1
    REJECTED = 2


class StoredEvent(NamedTuple):
    """An event as it rests in the database. ``pos`` is None outside the timeline."""

    event_nid: int
    event_id: str
    pos: int | None
    depth: int
    ts: int
    type: str
    state_key: str | None
    sender: str
    state_group: int | None
    verdict: int
    client: bytes
    rest: bytes
    unsigned: bytes | None


@dataclass(slots=True)
class NewEvent:
    """The columns of an event that is about to be written."""

    event_nid: int
    event_id: str
    room_nid: int
    pos: int | None
    depth: int
    ts: int
    type: str
    state_key: str | None
    sender: str
    state_group: int | None
    verdict: Verdict
    client: bytes
    rest: bytes
    unsigned: bytes | None
    to_peers: bool = False
    """Whether this node sends it to the other servers that take part in the room."""


COLUMNS = (
    "e.event_nid, e.event_id, e.pos, e.depth, e.ts, e.type, e.state_key, u.user_id, e.state_group, e.verdict,"
    " e.client, e.rest, e.unsigned"
)
FROM = "FROM events e JOIN users u ON u.user_nid = e.sender_nid"
_VISIBLE = "e.verdict = 0"


def _stored(rows: Sequence[Row]) -> list[StoredEvent]:
    return [StoredEvent(*row) for row in rows]


def _marks(values: Collection[Any]) -> str:
    return ",".join("?" * len(values))


def insert(tx: Transaction, events: Sequence[NewEvent]) -> None:
    """Queue new events. An event that this node knows already without a place in the timeline gets its place, and the
    verdict that it deserves there.

    Their senders have been interned. What state events cite is noted (see storage/auth_links.py), and to which event
    any of them relates.
    """
    tx.later(
        "INSERT INTO events (event_nid, event_id, room_nid, pos, depth, ts, type, state_key, sender_nid, state_group,"
        f" verdict, client, rest, unsigned, to_peers) VALUES (?, ?, ?, ?, ?, ?, ?, ?, {NID_OF}, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (event_id) DO UPDATE SET pos = COALESCE(events.pos, excluded.pos),"
        " state_group = COALESCE(events.state_group, excluded.state_group),"
        " verdict = CASE WHEN events.pos IS NULL THEN excluded.verdict ELSE events.verdict END,"
        " to_peers = CASE WHEN events.pos IS NULL THEN excluded.to_peers ELSE events.to_peers END",
        [
            (
                e.event_nid,
                e.event_id,
                e.room_nid,
                e.pos,
                e.depth,
                e.ts,
                e.type,
                e.state_key,
                e.sender,
                e.state_group,
                int(e.verdict),
                e.client,
                e.rest,
                e.unsigned,
                int(e.to_peers),
            )
            for e in events
        ],
    )
    tx.later(
        "INSERT INTO auth_links (event_nid, cites) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [
            (e.event_nid, cites)
            for e in events
            if e.state_key is not None
            for cites in cited(e.rest)
            if "\0" not in cites
        ],
    )
    user_directory.note(tx, events)
    relate(
        tx,
        [
            (relation[1], e.event_nid, e.room_nid, relation[0], e.type, e.sender)
            for e in events
            if relations.may_relate(e.client) and (relation := relations.relation_in(e.client)) is not None
        ],
    )


def cited(rest: bytes) -> list[str]:
    """The auth events of a stored event, by its ``rest``."""
    return _referenced(rest, "auth_events")


def followed(rest: bytes) -> list[str]:
    """The events that a stored event follows on (``prev_events``), by its ``rest``."""
    return _referenced(rest, "prev_events")


def _referenced(rest: bytes, which: str) -> list[str]:
    references = canonical.parse(rest, strict=False)[which]
    return [reference if isinstance(reference, str) else reference[0] for reference in references]


def replace_bytes(tx: Transaction, changed: Sequence[tuple[bytes, bytes, bytes | None, str]]) -> None:
    """Queue the redaction of events: rows of (client, rest, unsigned, event id). They relate to nothing any more, and
    are not sticky."""
    tx.later("UPDATE events SET client = ?, rest = ?, unsigned = ? WHERE event_id = ?", changed)
    user_directory.forget(tx, [event_id for *_, event_id in changed])
    tx.later(_SHORTEN_THREAD, [(event_id, event_id) for *_, event_id in changed])
    tx.later(
        "DELETE FROM relations WHERE child_nid = (SELECT event_nid FROM events WHERE event_id = ?)",
        [(event_id,) for *_, event_id in changed],
    )
    tx.later(
        "DELETE FROM sticky_events WHERE event_nid = (SELECT event_nid FROM events WHERE event_id = ?)",
        [(event_id,) for *_, event_id in changed],
    )


def await_targets(tx: Transaction, rows: Sequence[tuple[str, int]]) -> None:
    """Queue that redactions came before what they redact: rows of (target's event id, redaction's row id)."""
    tx.later("INSERT INTO waiting_redactions (target_id, redaction_nid) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)


async def awaited(tx: Transaction, event_ids: Collection[str]) -> set[str]:
    """Those of the events for which a redaction waits."""
    if not event_ids:
        return set()
    marks = _marks(event_ids)
    rows = await tx.all(f"SELECT target_id FROM waiting_redactions WHERE target_id IN ({marks})", *event_ids)
    return {str(row[0]) for row in rows}


def await_no_more(tx: Transaction, event_ids: Collection[str]) -> None:
    """Queue that events have come, as their redactions left them."""
    tx.later("DELETE FROM waiting_redactions WHERE target_id = ?", [(event_id,) for event_id in event_ids])


async def known(tx: Transaction, event_ids: Collection[str]) -> dict[str, tuple[int, int | None]]:
    """Which of the events this node has: event id to (row id, place in the timeline)."""
    if not event_ids:
        return {}
    rows = await tx.all(
        f"SELECT event_id, event_nid, pos FROM events WHERE event_id IN ({_marks(event_ids)})", *event_ids
    )
    return {event_id: (event_nid, pos) for event_id, event_nid, pos in rows}


@asks_once
async def by_id(tx: Transaction, room_nid: int, event_id: str) -> StoredEvent | None:
    """One event of a room, whatever its verdict."""
    row = await tx.one(f"SELECT {COLUMNS} {FROM} WHERE e.event_id = ? AND e.room_nid = ?", event_id, room_nid)
    return None if row is None else StoredEvent(*row)


async def by_ids(tx: Transaction, event_ids: Collection[str]) -> list[StoredEvent]:
    """Those of the events that this node has, in no particular order."""
    found: list[StoredEvent] = []
    for part in in_parts(event_ids, AT_ONCE):
        found += _stored(await tx.all(f"SELECT {COLUMNS} {FROM} WHERE e.event_id IN ({_marks(part)})", *part))
    return found


@asks_once
async def few_by_nids(tx: Transaction, event_nids: Collection[int]) -> list[StoredEvent]:
    """`by_nids` of at most `AT_ONCE`."""
    return _stored(await tx.all(f"SELECT {COLUMNS} {FROM} WHERE e.event_nid IN ({_marks(event_nids)})", *event_nids))


async def by_nids(tx: Transaction, event_nids: Collection[int]) -> list[StoredEvent]:
    """Events by row id, in no particular order."""
    found: list[StoredEvent] = []
    for part in in_parts(event_nids, AT_ONCE):
        found += await few_by_nids(tx, part)
    return found


async def of_state_key(
    tx: Transaction, room_nids: Sequence[int], kind: str, state_key: str
) -> list[tuple[int, int | None, bytes]]:
    """All accepted events of rooms with a type and state key, oldest first: (room_nid, pos, client).

    Those without a place in the timeline come before the others.
    """
    found: list[tuple[int, int | None, bytes]] = []
    for part in in_parts(room_nids, AT_ONCE):
        rows = await tx.all(
            f"SELECT room_nid, pos, client FROM events WHERE room_nid IN ({_marks(part)}) AND type = ?"
            " AND state_key = ? AND verdict = 0 ORDER BY CASE WHEN pos IS NULL THEN 0 ELSE 1 END, pos, depth",
            *part,
            kind,
            state_key,
        )
        found += [(row[0], row[1], row[2]) for row in rows]
    return found


async def landmarks(tx: Transaction, room_nids: Sequence[int]) -> list[tuple[int, str, int | None, bytes]]:
    """The accepted events that created rooms, and those that set their history visibility, oldest first.

    (room_nid, type, pos, client); those without a place in the timeline come before the others.
    """
    found: list[tuple[int, str, int | None, bytes]] = []
    for part in in_parts(room_nids, AT_ONCE):
        rows = await tx.all(
            f"SELECT room_nid, type, pos, client FROM events WHERE room_nid IN ({_marks(part)})"
            " AND type IN ('m.room.create', 'm.room.history_visibility') AND state_key = '' AND verdict = 0"
            " ORDER BY CASE WHEN pos IS NULL THEN 0 ELSE 1 END, pos, depth",
            *part,
        )
        found += [(row[0], row[1], row[2], row[3]) for row in rows]
    return found


async def members_of_server(tx: Transaction, room_nid: int, server_name: str) -> list[tuple[int, str, bytes]]:
    """The accepted member events of a server's users in a room's timeline, oldest first: (pos, user id, client)."""
    rows = await tx.all(
        "SELECT pos, state_key, client FROM events WHERE room_nid = ? AND type = 'm.room.member'"
        " AND state_key LIKE ? AND pos IS NOT NULL AND verdict = 0 ORDER BY pos",
        room_nid,
        f"%:{server_name}",
    )
    return [(row[0], row[1], row[2]) for row in rows if domain_of(row[1]) == server_name]


async def room_of(tx: Transaction, event_id: str) -> str | None:
    """The room of an event that this node has."""
    row = await tx.one("SELECT r.room_id FROM events e JOIN rooms r USING (room_nid) WHERE e.event_id = ?", event_id)
    return None if row is None else str(row[0])


async def of_room(tx: Transaction, room_nid: int, event_ids: Collection[str]) -> list[StoredEvent]:
    """`by_ids` for events of one room: those of others are left out."""
    found: list[StoredEvent] = []
    for part in in_parts(event_ids, AT_ONCE):
        found += _stored(
            await tx.all(
                f"SELECT {COLUMNS} {FROM} WHERE e.event_id IN ({_marks(part)}) AND e.room_nid = ?", *part, room_nid
            )
        )
    return found


async def ids(tx: Transaction, event_nids: Collection[int]) -> list[str]:
    """The ids of events by row id, in no particular order."""
    found: list[str] = []
    for part in in_parts(event_nids, 5000):
        rows = await tx.all(f"SELECT event_id FROM events WHERE event_nid IN ({_marks(part)})", *part)
        found += [row[0] for row in rows]
    return found


async def nearest(tx: Transaction, room_nid: int, ts: int, backwards: bool, limit: int) -> list[StoredEvent]:
    """Accepted events of the timeline sent at a moment or before it, or else at it or after it; the nearest first.

    Of those of one moment the first one that is met comes first.
    """
    which, order = ("<=", "e.ts DESC, e.pos DESC") if backwards else (">=", "e.ts, e.pos")
    return _stored(
        await tx.all(
            f"SELECT {COLUMNS} {FROM} WHERE e.room_nid = ? AND e.pos IS NOT NULL AND e.ts {which} ? AND {_VISIBLE}"
            f" ORDER BY {order} LIMIT ?",
            room_nid,
            ts,
            limit,
        )
    )


async def newest_state(tx: Transaction, room_nid: int, upto: int) -> dict[tuple[str, str], int]:
    """The newest accepted event of each type and state key in the timeline up to a position: row ids by key."""
    rows = await tx.all(
        "SELECT type, state_key, event_nid FROM (SELECT type, state_key, event_nid, ROW_NUMBER() OVER"
        " (PARTITION BY type, state_key ORDER BY pos DESC) AS place FROM events"
        " WHERE room_nid = ? AND state_key IS NOT NULL AND pos <= ? AND verdict = 0) newest WHERE place = 1",
        room_nid,
        upto,
    )
    return {(kind, state_key): event_nid for kind, state_key, event_nid in rows}


async def newest_place_of(tx: Transaction, event_ids: Collection[str]) -> int | None:
    """The highest position that any of the events has in the timeline."""
    if not event_ids:
        return None
    row = await tx.one(f"SELECT MAX(pos) FROM events WHERE event_id IN ({_marks(event_ids)})", *event_ids)
    return None if row is None or row[0] is None else int(row[0])


@asks_once
async def timeline_backwards(
    tx: Transaction, room_nid: int, upto: int, after: int | None, limit: int
) -> list[StoredEvent]:
    """Accepted events with ``after < pos <= upto``, newest first. ``after`` None: no lower bound."""
    if after is None:
        return _stored(
            await tx.all(
                f"SELECT {COLUMNS} {FROM} WHERE e.room_nid = ? AND e.pos <= ? AND {_VISIBLE}"
                " ORDER BY e.pos DESC LIMIT ?",
                room_nid,
                upto,
                limit,
            )
        )
    return _stored(
        await tx.all(
            f"SELECT {COLUMNS} {FROM} WHERE e.room_nid = ? AND e.pos <= ? AND e.pos > ? AND {_VISIBLE}"
            " ORDER BY e.pos DESC LIMIT ?",
            room_nid,
            upto,
            after,
            limit,
        )
    )


@asks_once
async def timeline_forwards(
    tx: Transaction, room_nid: int, after: int, upto: int | None, limit: int
) -> list[StoredEvent]:
    """Accepted events with ``after < pos <= upto``, oldest first. ``upto`` None: to the newest."""
    bound = "" if upto is None else " AND e.pos <= ?"
    params: list[int] = [room_nid, after, *([] if upto is None else [upto]), limit]
    return _stored(
        await tx.all(
            f"SELECT {COLUMNS} {FROM} WHERE e.room_nid = ? AND e.pos > ?{bound} AND {_VISIBLE} ORDER BY e.pos LIMIT ?",
            *params,
        )
    )


async def transaction_event(tx: Transaction, txn_key: bytes) -> str | None:
    """The event that came of a transaction id before."""
    row = await tx.one("SELECT event_id FROM event_transactions WHERE txn_key = ?", txn_key)
    return None if row is None else str(row[0])


async def transactions_of(tx: Transaction, event_ids: Collection[str]) -> dict[str, bytes]:
    """The transaction keys of events that have one, by event id."""
    if not event_ids:
        return {}
    rows = await tx.all(
        f"SELECT event_id, txn_key FROM event_transactions WHERE event_id IN ({_marks(event_ids)})", *event_ids
    )
    return {str(event_id): bytes(key) for event_id, key in rows}


async def transaction_keys(tx: Transaction) -> list[bytes]:
    """All transaction keys that are remembered."""
    return [row[0] for row in await tx.all("SELECT txn_key FROM event_transactions")]


def remember_transactions(tx: Transaction, rows: Sequence[tuple[bytes, str, str, int]]) -> None:
    """Queue rows of (transaction key, sender's user id, event id, milliseconds since 1970)."""
    tx.later(
        f"INSERT INTO event_transactions (txn_key, sender_nid, event_id, ts) VALUES (?, {NID_OF}, ?, ?)"
        " ON CONFLICT DO NOTHING",
        rows,
    )


async def forget_transactions(tx: Transaction, before_ts: int) -> None:
    """Drop transaction ids older than ``before_ts``."""
    await tx.run("DELETE FROM event_transactions WHERE ts < ?", before_ts)


def relate(tx: Transaction, rows: Sequence[tuple[str, int, int, str, str, str]]) -> None:
    """Queue relations: (parent event id, child row id, room_nid, rel_type, event type, sender)."""
    tx.later(
        "INSERT INTO relations (parent_id, child_nid, room_nid, rel_type, type, sender_nid)"
        f" VALUES (?, ?, ?, ?, ?, {NID_OF}) ON CONFLICT DO NOTHING",
        rows,
    )
    tx.later(
        _LENGTHEN_THREAD, [(parent, child) for parent, child, _, rel_type, *_ in rows if rel_type == relations.THREAD]
    )


_LENGTHEN_THREAD = (
    "INSERT INTO threads (room_nid, root_id, latest_pos) SELECT room_nid, ?, pos FROM events"
    " WHERE event_nid = ? AND pos IS NOT NULL AND verdict = 0 ON CONFLICT (room_nid, root_id) DO UPDATE SET"
    " latest_pos = CASE WHEN threads.latest_pos > excluded.latest_pos THEN threads.latest_pos"
    " ELSE excluded.latest_pos END"
)
"""(parent event id, child row id): the child is the newest event of its thread, if it is."""

_SHORTEN_THREAD = (
    "UPDATE threads SET latest_pos = (SELECT MAX(e.pos) FROM relations r JOIN events e ON e.event_nid = r.child_nid"
    " WHERE r.parent_id = threads.root_id AND r.rel_type = 'm.thread' AND e.room_nid = threads.room_nid"
    " AND e.verdict = 0 AND e.event_id <> ?)"
    " WHERE (room_nid, root_id) IN (SELECT e.room_nid, r.parent_id FROM events e JOIN relations r"
    " ON r.child_nid = e.event_nid AND r.rel_type = 'm.thread' WHERE e.event_id = ?)"
)
"""(event id) twice: the thread of this event goes on without it."""
