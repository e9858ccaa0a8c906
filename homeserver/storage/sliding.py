"""Sliding sync: the rooms of a user as a list is made of them, what an answer shows beside their events, and what the
connections of a device have been told.

Each statement asks for many rooms at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.account_data import DELETED
from homeserver.storage.engine import asks_once
from homeserver.storage.events import COLUMNS, StoredEvent
from homeserver.storage.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from homeserver.storage.engine import Transaction

AT_ONCE = 500
"""Rooms or events in one statement."""


def _parts(values: Collection[int] | Collection[str]) -> Iterator[tuple[str, Sequence[int] | Sequence[str]]]:
    for part in in_parts(values, AT_ONCE):
        yield ",".join("?" * len(part)), part  # type: ignore[misc]  # a list of one of the two


# rooms --------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """A room of a user. ``pos``: where their membership came to be; ``newest``: that of the last event, for who is in
    the room; ``sender``: who set their membership, unless they are in the room.
    """

    room_nid: int
    room_id: str
    membership: str
    event_nid: int
    pos: int
    newest: int | None
    sender: str | None


@asks_once
async def listed(tx: Transaction, user_nid: int) -> list[Listed]:
    """All rooms in which a user has a membership, without those that they forgot."""
    rows = await tx.all(
        "SELECT m.room_nid, r.room_id, m.membership, m.event_nid, m.pos,"
        " CASE WHEN m.membership = 'join' THEN (SELECT MAX(e.pos) FROM events e WHERE e.room_nid = m.room_nid) END,"
        " CASE WHEN m.membership <> 'join' THEN (SELECT u.user_id FROM events e JOIN users u"
        " ON u.user_nid = e.sender_nid WHERE e.event_nid = m.event_nid) END"
        " FROM memberships m JOIN rooms r USING (room_nid) WHERE m.user_nid = ? AND NOT EXISTS"
        " (SELECT 1 FROM forgotten_rooms f WHERE f.user_nid = m.user_nid AND f.room_nid = m.room_nid)",
        user_nid,
    )
    return [Listed(*row) for row in rows]


async def landmarks(tx: Transaction, room_nids: Collection[int]) -> list[tuple[int, str, bytes]]:
    """What created rooms, and what encrypted them, of their current state: (room_nid, type, client)."""
    found: list[tuple[int, str, bytes]] = []
    for marks, part in _parts(room_nids):
        rows = await tx.all(
            "SELECT s.room_nid, s.type, e.client FROM current_state s JOIN events e USING (event_nid)"
            f" WHERE s.room_nid IN ({marks}) AND s.type IN ('m.room.create', 'm.room.encryption')"
            " AND s.state_key = ''",
            *part,
        )
        found += [(row[0], row[1], row[2]) for row in rows]
    return found


async def children(tx: Transaction, room_nids: Collection[int]) -> list[tuple[str, bytes]]:
    """The m.space.child events of rooms' current state: (state key, client)."""
    found: list[tuple[str, bytes]] = []
    for marks, part in _parts(room_nids):
        rows = await tx.all(
            "SELECT s.state_key, e.client FROM current_state s JOIN events e USING (event_nid)"
            f" WHERE s.room_nid IN ({marks}) AND s.type = 'm.space.child'",
            *part,
        )
        found += [(row[0], row[1]) for row in rows]
    return found


@asks_once
async def newest_among(tx: Transaction, room_nid: int, types: Collection[str], upto: int, scanned: int) -> int | None:
    """The place of the newest accepted event of some types, among so many events of a room up to a place."""
    marks = ",".join("?" * len(types))
    row = await tx.one(
        "SELECT MAX(pos) FROM (SELECT pos, type, verdict FROM events WHERE room_nid = ? AND pos <= ?"
        f" ORDER BY pos DESC LIMIT ?) last WHERE verdict = 0 AND type IN ({marks})",
        room_nid,
        upto,
        scanned,
        *types,
    )
    return None if row is None or row[0] is None else int(row[0])


async def newest_of_rooms(
    tx: Transaction, room_nids: Collection[int], upto: int, limit: int
) -> dict[int, list[StoredEvent]]:
    """The newest ``limit`` accepted events of each room up to a place, by room row id, the newest first."""
    found: dict[int, list[StoredEvent]] = {}
    for marks, part in _parts(room_nids):
        rows = await tx.all(
            f"SELECT r.room_nid, {COLUMNS} FROM rooms r JOIN events e ON e.event_nid IN (SELECT x.event_nid"
            " FROM events x WHERE x.room_nid = r.room_nid AND x.pos <= ? AND x.verdict = 0 ORDER BY x.pos DESC LIMIT ?)"
            f" JOIN users u ON u.user_nid = e.sender_nid WHERE r.room_nid IN ({marks}) ORDER BY r.room_nid, e.pos DESC",
            upto,
            limit,
            *part,
        )
        for row in rows:
            found.setdefault(row[0], []).append(StoredEvent(*row[1:]))
    return found


# what is shown beside events ----------------------------------------------------------------


async def account_data(
    tx: Transaction, user_nid: int, room_nids: Collection[int], after: int, upto: int
) -> list[tuple[int, str, bytes]]:
    """A resident's account data of rooms (room_nid 0: of the account) that was set, or deleted, with
    ``after < pos <= upto``: (room_nid, type, content). For ``after`` 0, without what has been deleted.
    """
    found: list[tuple[int, str, bytes]] = []
    for marks, part in _parts(room_nids):
        rows = await tx.all(
            "SELECT room_nid, type, content FROM account_data"
            f" WHERE user_nid = ? AND room_nid IN ({marks}) AND pos > ? AND pos <= ? ORDER BY pos",
            user_nid,
            *part,
            after,
            upto,
        )
        found += [(row[0], row[1], row[2]) for row in rows if after or row[2] != DELETED]
    return found


class Beginnings(NamedTuple):
    """What a new connection is told beside its rooms: account data (room_nid, type, content), the user's push rules,
    receipts on events (room_nid, receipt), the user's own (whether it is a private one, room_nid, receipt), the events
    that have something to be bundled with them, and transaction ids of the device by event id.
    """

    data: list[tuple[int, str, bytes]]
    rules: bytes | None
    receipts: list[tuple[int, Receipt]]
    own: list[tuple[bool, int, Receipt]]
    related: set[str]
    sent: dict[str, str]


class Shown(NamedTuple):
    """The events of an answer, by id: all of them; those with which others may be bundled; and those of which it is to
    be found whether the device sent them.
    """

    all: Collection[str]
    parents: Collection[str]
    own: Collection[str]


@asks_once
async def beginnings(
    tx: Transaction, user_nid: int, device_nid: int, room_nids: Collection[int], shown: Shown, upto: int
) -> Beginnings:
    """All that `account_data`, `receipts_on` and `own_receipts` find of at most AT_ONCE rooms, to which events others
    relate (see relations.py), and what `client_transactions.of_events` finds, in one trip."""
    marks, event_marks = ",".join("?" * len(room_nids)), _marks(shown.all)
    of_rooms: list[int] = [user_nid, *room_nids, upto]
    own = _rounded(shown.own)
    receipt = "r.room_nid, u.user_id, r.thread_id, r.event_id, r.event_pos, r.ts, NULL"
    rows = await tx.all(
        "SELECT 0, room_nid, type, '', '', 0, 0, content FROM account_data"
        f" WHERE user_nid = ? AND room_nid IN ({marks}) AND pos <= ?"
        " UNION ALL SELECT 1, 0, '', '', '', 0, 0, ruleset FROM push_rules WHERE user_nid = ?"
        f" UNION ALL SELECT 2, {receipt} FROM receipts r JOIN users u USING (user_nid)"
        f" WHERE r.event_id IN ({event_marks}) AND r.pos <= ?"
        f" UNION ALL SELECT 3, {receipt} FROM receipts r JOIN users u USING (user_nid)"
        f" WHERE r.user_nid = ? AND r.room_nid IN ({marks}) AND r.pos <= ?"
        f" UNION ALL SELECT 4, {receipt} FROM private_receipts r JOIN users u USING (user_nid)"
        f" WHERE r.user_nid = ? AND r.room_nid IN ({marks}) AND r.pos <= ?"
        " UNION ALL SELECT 5, 0, p.parent_id, '', '', 0, 0, NULL FROM (SELECT DISTINCT parent_id FROM relations"
        f" WHERE parent_id IN ({_marks(shown.parents)}) AND rel_type IN ('m.thread', 'm.replace', 'm.reference')) p"
        " UNION ALL SELECT 6, 0, e.event_id, c.txn_id, '', 0, 0, NULL FROM event_transactions e"
        f" JOIN client_transactions c USING (txn_key) WHERE c.device_nid = ? AND e.event_id IN ({_marks(own)})",
        *of_rooms,
        user_nid,
        *shown.all,
        upto,
        *of_rooms,
        *of_rooms,
        *shown.parents,
        device_nid,
        *own,
    )
    found = Beginnings([], next((row[7] for row in rows if row[0] == 1), None), [], [], set(), {})
    for part, room_nid, *values, content in rows:
        if part == 0 and content != DELETED:
            found.data.append((room_nid, values[0], content))
        elif part == 2:
            found.receipts.append((room_nid, Receipt(*values)))
        elif part == 5:
            found.related.add(values[0])
        elif part == 6:
            found.sent[values[0]] = values[1]
        elif part > 2:
            found.own.append((part == 4, room_nid, Receipt(*values)))
    return found


def _marks(values: Collection[str]) -> str:
    return ",".join("?" * len(values)) or "NULL"


def _rounded(values: Collection[str]) -> list[str]:
    """The same values, some of them again: statements that differ in their number alone would each be prepared."""
    whole = list(values)
    while whole and len(whole) & 7:
        whole.append(whole[0])
    return whole


@asks_once
async def account_data_of_type(tx: Transaction, user_nid: int, kind: str) -> list[tuple[int, bytes]]:
    """A resident's account data of one type: (room_nid, content)."""
    rows = await tx.all("SELECT room_nid, content FROM account_data WHERE user_nid = ? AND type = ?", user_nid, kind)
    return [(row[0], row[1]) for row in rows]


async def receipts_on(tx: Transaction, event_ids: Collection[str], upto: int) -> list[tuple[int, Receipt]]:
    """The public receipts that are on these events: (room_nid, receipt)."""
    found: list[tuple[int, Receipt]] = []
    for marks, part in _parts(event_ids):
        rows = await tx.all(
            "SELECT r.room_nid, u.user_id, r.thread_id, r.event_id, r.event_pos, r.ts FROM receipts r"
            f" JOIN users u USING (user_nid) WHERE r.event_id IN ({marks}) AND r.pos <= ?",
            *part,
            upto,
        )
        found += [(row[0], Receipt(*row[1:])) for row in rows]
    return found


async def own_receipts(
    tx: Transaction, user_nid: int, room_nids: Collection[int], upto: int
) -> list[tuple[bool, int, Receipt]]:
    """A resident's receipts in rooms: (whether it is a private one, room_nid, receipt)."""
    found: list[tuple[bool, int, Receipt]] = []
    for marks, part in _parts(room_nids):
        rows = await tx.all(
            "SELECT 0, r.room_nid, u.user_id, r.thread_id, r.event_id, r.event_pos, r.ts FROM receipts r"
            f" JOIN users u USING (user_nid) WHERE r.user_nid = ? AND r.room_nid IN ({marks}) AND r.pos <= ?"
            " UNION ALL SELECT 1, r.room_nid, u.user_id, r.thread_id, r.event_id, r.event_pos, r.ts"
            " FROM private_receipts r JOIN users u USING (user_nid)"
            f" WHERE r.user_nid = ? AND r.room_nid IN ({marks}) AND r.pos <= ?",
            user_nid,
            *part,
            upto,
            user_nid,
            *part,
            upto,
        )
        found += [(bool(row[0]), row[1], Receipt(*row[2:])) for row in rows]
    return found


async def rooms_with_receipts(tx: Transaction, room_nids: Collection[int], after: int) -> list[int]:
    """Those of the rooms in which public receipts came after a position."""
    found: list[int] = []
    for marks, part in _parts(room_nids):
        rows = await tx.all(
            f"SELECT DISTINCT room_nid FROM receipts WHERE room_nid IN ({marks}) AND pos > ?", *part, after
        )
        found += [row[0] for row in rows]
    return found


# connections --------------------------------------------------------------------------------


class StoredPosition(NamedTuple):
    """A position of a connection. ``parent`` None: ``body`` is the whole; else what differs from that position."""

    number: int
    parent: int | None
    ts: int
    body: bytes


@asks_once
async def positions(tx: Transaction, device_nid: int, conn_id: str) -> list[StoredPosition]:
    """All positions of a connection."""
    rows = await tx.all(
        "SELECT number, parent, ts, body FROM sliding_positions WHERE device_nid = ? AND conn_id = ?",
        device_nid,
        conn_id,
    )
    return [StoredPosition(*row) for row in rows]


async def keep(
    tx: Transaction,
    user_nid: int,
    device_nid: int,
    conn_id: str,
    position: StoredPosition,
    others: Collection[int],
) -> None:
    """Queue a new position of a connection; of its others, only these are kept."""
    if others:
        marks = ",".join("?" * len(others))
        tx.later(
            f"DELETE FROM sliding_positions WHERE device_nid = ? AND conn_id = ? AND number NOT IN ({marks})",
            [(device_nid, conn_id, *others)],
        )
    else:
        tx.later("DELETE FROM sliding_positions WHERE device_nid = ? AND conn_id = ?", [(device_nid, conn_id)])
    tx.later(
        "INSERT INTO sliding_positions (user_nid, device_nid, conn_id, number, parent, ts, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(user_nid, device_nid, conn_id, position.number, position.parent, position.ts, position.body)],
    )


async def drop_oldest(tx: Transaction, device_nid: int, most: int) -> None:
    """Queue that of a device's connections only those are kept that were used last, ``most`` of them."""
    tx.later(
        "DELETE FROM sliding_positions WHERE device_nid = ? AND conn_id NOT IN (SELECT conn_id FROM sliding_positions"
        " WHERE device_nid = ? GROUP BY conn_id ORDER BY MAX(ts) DESC, MAX(number) DESC LIMIT ?)",
        [(device_nid, device_nid, most)],
    )


async def touch(tx: Transaction, device_nid: int, conn_id: str, ts: int) -> None:
    """Queue that a connection was used."""
    tx.later("UPDATE sliding_positions SET ts = ? WHERE device_nid = ? AND conn_id = ?", [(ts, device_nid, conn_id)])


async def drop_unused(tx: Transaction, before_ts: int) -> int:
    """Delete the positions that were not used since ``before_ts``; returns how many."""
    return await tx.run("DELETE FROM sliding_positions WHERE ts < ?", before_ts)
