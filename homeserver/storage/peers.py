"""What goes to other servers: in which stretches of the node's positions each takes part in a room, what waits for it,
and how far it has been sent that.

An event for a thousand servers is one row: it is for those whose stretches of its room cover its position. So is a
receipt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction

DIRECT = "m.direct_to_device"
"""The kind of EDU that holds messages to devices."""


class NewEdu(NamedTuple):
    """What is to be sent to a server about a resident; ``content`` is canonical JSON, ``data_class`` what the policy is
    asked. Its position is taken when it is written."""

    server: str
    user_id: str
    data_class: str
    kind: str
    content: bytes


class PeerRow(NamedTuple):
    """How far a server has been sent what is for it, and when it is tried again after so many failures in a row
    (milliseconds since 1970).

    What it was away too long for (`give_up`) stands up to ``gone_upto``.
    """

    server: str
    sent_pos: int
    failures: int
    retry_ts: int
    gone_upto: int = 0


class Waiting(NamedTuple):
    """What waits for a server at a position: the row id of an event, or None for what `edus_at` knows."""

    pos: int
    event_nid: int | None


class OutgoingEvent(NamedTuple):
    """An event on its way out."""

    event_nid: int
    event_id: str
    room_version: str
    sender: str
    client: bytes
    rest: bytes


class OutgoingEdu(NamedTuple):
    """What was queued as `NewEdu`."""

    pos: int
    data_class: str
    kind: str
    content: bytes


class OutgoingReceipt(NamedTuple):
    """A resident's public receipt. ``thread_id`` is empty for an unthreaded one; ``ts`` in milliseconds since 1970."""

    pos: int
    room_id: str
    user_id: str
    thread_id: str
    event_id: str
    ts: int


# who takes part -----------------------------------------------------------------------------


def enter(tx: Transaction, rows: Sequence[tuple[str, int, int]]) -> None:
    """Queue that servers take part in rooms after a position: (server, room_nid, position)."""
    tx.later(
        "INSERT INTO peer_rooms (server, room_nid, since_pos) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        rows,
    )


def leave(tx: Transaction, rows: Sequence[tuple[str, int, int]]) -> None:
    """Queue that servers take part in rooms up to a position, that included: (server, room_nid, position)."""
    tx.later(
        "UPDATE peer_rooms SET until_pos = ? WHERE server = ? AND room_nid = ? AND until_pos IS NULL AND since_pos < ?",
        [(pos, server, room_nid, pos) for server, room_nid, pos in rows],
    )


def reach(tx: Transaction, rows: Sequence[tuple[str, int, int]]) -> None:
    """Queue that servers outside a room are sent what stands at one position: (server, room_nid, position)."""
    tx.later(
        "INSERT INTO peer_rooms (server, room_nid, since_pos, until_pos) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(server, room_nid, pos - 1, pos) for server, room_nid, pos in rows],
    )


def replace(tx: Transaction, room_nid: int, pos: int, servers: Collection[str]) -> None:
    """Queue that from a position on exactly these servers take part in a room, whoever did before."""
    tx.later(
        "UPDATE peer_rooms SET until_pos = ? WHERE room_nid = ? AND until_pos IS NULL AND since_pos < ?",
        [(pos, room_nid, pos)],
    )
    enter(tx, [(server, room_nid, pos) for server in sorted(servers)])


async def takes_part(tx: Transaction, server: str) -> bool:
    """Whether another server takes part in any room now."""
    row = await tx.one("SELECT 1 FROM peer_rooms WHERE server = ? AND until_pos IS NULL LIMIT 1", server)
    return row is not None


async def present(tx: Transaction, room_nid: int) -> set[str]:
    """The other servers that take part in a room now."""
    rows = await tx.all("SELECT server FROM peer_rooms WHERE room_nid = ? AND until_pos IS NULL", room_nid)
    return {str(row[0]) for row in rows}


async def sharing(tx: Transaction, user_id: str, limit: int) -> list[str]:
    """The other servers that take part in a room that a user has joined: those that do in the most, first."""
    rows = await tx.all(
        "SELECT p.server FROM memberships m JOIN peer_rooms p ON p.room_nid = m.room_nid"
        f" WHERE m.user_nid = {NID_OF} AND m.membership = 'join' AND p.until_pos IS NULL"
        " GROUP BY p.server ORDER BY COUNT(*) DESC, p.server LIMIT ?",
        user_id,
        limit,
    )
    return [str(row[0]) for row in rows]


async def met(tx: Transaction, user_nid: int, room_nids: Collection[int]) -> set[str]:
    """The other servers that share a room with a resident only by rooms of ``room_nids``."""
    marks = ",".join("?" * len(room_nids))
    if not marks:
        return set()
    rows = await tx.all(
        "SELECT DISTINCT p.server FROM peer_rooms p JOIN memberships m ON m.room_nid = p.room_nid"
        f" WHERE p.room_nid IN ({marks}) AND p.until_pos IS NULL AND m.user_nid = ? AND m.membership = 'join'"
        " AND NOT EXISTS (SELECT 1 FROM peer_rooms q JOIN memberships n ON n.room_nid = q.room_nid"
        " WHERE q.server = p.server AND q.until_pos IS NULL AND n.user_nid = ? AND n.membership = 'join'"
        f" AND q.room_nid NOT IN ({marks}))",
        *room_nids,
        user_nid,
        user_nid,
        *room_nids,
    )
    return {str(row[0]) for row in rows}


# what waits ---------------------------------------------------------------------------------


def put_edus(tx: Transaction, first: int, edus: Sequence[NewEdu]) -> None:
    """Queue EDUs at the positions ``first``, ``first + 1``, …"""
    tx.later(
        f"INSERT INTO peer_edus (pos, server, user_nid, class, kind, content) VALUES (?, ?, {NID_OF}, ?, ?, ?)",
        [(first + offset, *edu) for offset, edu in enumerate(edus)],
    )


def put_events(tx: Transaction, first: int, server: str, room_nid: int, event_nids: Sequence[int]) -> None:
    """Queue events that are older than a server's part in their room, at the positions ``first``, ``first + 1``, …"""
    tx.later(
        "INSERT INTO peer_events (pos, server, room_nid, event_nid) VALUES (?, ?, ?, ?)",
        [(first + offset, server, room_nid, nid) for offset, nid in enumerate(event_nids)],
    )


_COVERED = "p.server = ? AND {pos} > p.since_pos AND (p.until_pos IS NULL OR {pos} <= p.until_pos)"
_EVENTS = (
    "peer_rooms p JOIN events e ON e.room_nid = p.room_nid AND e.to_peers = 1"
    f" WHERE {_COVERED.format(pos='e.pos')} AND e.verdict = 0"
)
_RECEIPTS = (
    "peer_rooms p JOIN receipts c ON c.room_nid = p.room_nid JOIN residents o ON o.user_nid = c.user_nid"
    " JOIN rooms r ON r.room_nid = c.room_nid JOIN users u ON u.user_nid = c.user_nid"
    f" WHERE {_COVERED.format(pos='c.pos')}"
)


async def waiting(tx: Transaction, server: str, after: int, upto: int, limit: int) -> list[Waiting]:
    """The oldest that is for a server with ``after < position <= upto``, in order."""
    rows = await tx.all(
        f"SELECT e.pos AS pos, e.event_nid FROM {_EVENTS} AND e.pos > ? AND e.pos <= ?"
        " UNION ALL SELECT q.pos, NULL FROM peer_edus q WHERE q.server = ? AND q.pos > ? AND q.pos <= ?"
        " UNION ALL SELECT x.pos, x.event_nid FROM peer_events x WHERE x.server = ? AND x.pos > ? AND x.pos <= ?"
        f" UNION ALL SELECT c.pos, NULL FROM {_RECEIPTS} AND c.pos > ? AND c.pos <= ?"
        " ORDER BY pos LIMIT ?",
        *(server, after, upto) * 4,
        limit,
    )
    return [Waiting(*row) for row in rows]


async def newest(tx: Transaction, server: str, after: int, upto: int) -> list[Waiting]:
    """Of the events that are for a server with ``after < position <= upto`` the last in each stretch, in order."""
    rows = await tx.all(
        "SELECT e.pos, e.event_nid FROM peer_rooms p JOIN events e ON e.room_nid = p.room_nid AND e.to_peers = 1"
        " AND e.pos = (SELECT MAX(l.pos) FROM events l WHERE l.room_nid = p.room_nid AND l.to_peers = 1"
        " AND l.verdict = 0 AND l.pos > p.since_pos AND (p.until_pos IS NULL OR l.pos <= p.until_pos)"
        " AND l.pos > ? AND l.pos <= ?) WHERE p.server = ? ORDER BY e.pos",
        after,
        upto,
        server,
    )
    return [Waiting(*row) for row in rows]


async def events_at(tx: Transaction, event_nids: Collection[int]) -> list[OutgoingEvent]:
    """Events by row id, in no particular order."""
    if not event_nids:
        return []
    rows = await tx.all(
        "SELECT e.event_nid, e.event_id, r.version, u.user_id, e.client, e.rest FROM events e"
        " JOIN rooms r ON r.room_nid = e.room_nid JOIN users u ON u.user_nid = e.sender_nid"
        f" WHERE e.event_nid IN ({','.join('?' * len(event_nids))})",
        *event_nids,
    )
    return [OutgoingEvent(*row) for row in rows]


async def edus_at(tx: Transaction, server: str, after: int, upto: int) -> list[OutgoingEdu]:
    """The EDUs queued for a server with ``after < position <= upto``, in order."""
    rows = await tx.all(
        "SELECT pos, class, kind, content FROM peer_edus WHERE server = ? AND pos > ? AND pos <= ? ORDER BY pos",
        server,
        after,
        upto,
    )
    return [OutgoingEdu(*row) for row in rows]


async def receipts_at(tx: Transaction, server: str, after: int, upto: int) -> list[OutgoingReceipt]:
    """The residents' receipts that are for a server with ``after < position <= upto``, in order."""
    rows = await tx.all(
        "SELECT c.pos, r.room_id, u.user_id, c.thread_id, c.event_id, c.ts FROM"
        f" {_RECEIPTS} AND c.pos > ? AND c.pos <= ? ORDER BY c.pos",
        server,
        after,
        upto,
    )
    return [OutgoingReceipt(*row) for row in rows]


# how far ------------------------------------------------------------------------------------


async def unsent(tx: Transaction) -> list[PeerRow]:
    """The servers for which something waits."""
    rows = await tx.all(
        "SELECT s.server, COALESCE(k.sent_pos, 0), COALESCE(k.failures, 0), COALESCE(k.retry_ts, 0)"
        " FROM (SELECT server FROM peer_rooms UNION SELECT server FROM peer_edus"
        " UNION SELECT server FROM peer_events) s"
        " LEFT JOIN peers k ON k.server = s.server"
        " WHERE EXISTS (SELECT 1 FROM peer_events x WHERE x.server = s.server AND x.pos > COALESCE(k.sent_pos, 0))"
        " OR EXISTS (SELECT 1 FROM peer_edus q WHERE q.server = s.server AND q.pos > COALESCE(k.sent_pos, 0))"
        f" OR EXISTS (SELECT 1 FROM {_EVENTS.replace('p.server = ?', 'p.server = s.server')}"
        " AND e.pos > COALESCE(k.sent_pos, 0))"
        f" OR EXISTS (SELECT 1 FROM {_RECEIPTS.replace('p.server = ?', 'p.server = s.server')}"
        " AND c.pos > COALESCE(k.sent_pos, 0))"
    )
    return [PeerRow(*row) for row in rows]


async def find(tx: Transaction, server: str) -> PeerRow:
    """How far a server is; at the beginning if nothing was ever sent to it."""
    row = await tx.one("SELECT server, sent_pos, failures, retry_ts, gone_upto FROM peers WHERE server = ?", server)
    return PeerRow(server, 0, 0, 0) if row is None else PeerRow(*row)


async def away(tx: Transaction, failures: int) -> list[str]:
    """The servers that have been tried in vain at least so often in a row."""
    rows = await tx.all("SELECT server FROM peers WHERE failures >= ?", failures)
    return [str(row[0]) for row in rows]


async def keep_newest(tx: Transaction, server: str, kinds: Sequence[str]) -> int:
    """Delete the EDUs of these kinds that wait for a server, but for the last of each kind about each user.

    Returns how many are gone.
    """
    gone = 0
    for kind in kinds:
        gone += await tx.run(
            "DELETE FROM peer_edus WHERE server = ? AND kind = ? AND pos NOT IN"
            " (SELECT MAX(q.pos) FROM peer_edus q WHERE q.server = ? AND q.kind = ? GROUP BY q.user_nid)",
            *(server, kind) * 2,
        )
    return gone


async def put(tx: Transaction, rows: Sequence[PeerRow]) -> None:
    """Write how far servers are, and forget what they have. A position never goes back."""
    tx.later(
        "INSERT INTO peers (server, sent_pos, failures, retry_ts) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (server) DO UPDATE SET failures = excluded.failures, retry_ts = excluded.retry_ts, sent_pos ="
        " CASE WHEN excluded.sent_pos > peers.sent_pos THEN excluded.sent_pos ELSE peers.sent_pos END",
        [(row.server, row.sent_pos, row.failures, row.retry_ts) for row in rows],
    )
    had = [(row.server, row.sent_pos) for row in rows]
    tx.later("DELETE FROM peer_edus WHERE server = ? AND pos <= ?", had)
    tx.later("DELETE FROM peer_events WHERE server = ? AND pos <= ?", had)
    tx.later("DELETE FROM peer_rooms WHERE server = ? AND until_pos <= ?", had)


# who is away for too long -------------------------------------------------------------------


async def mark(tx: Transaction, ts: int, pos: int, before: int) -> int:
    """Note the node's position at a moment; returns the one that it had at the moment ``before`` (0: not known).

    Moments in milliseconds since 1970. What was noted before that is forgotten.
    """
    tx.later("INSERT INTO peer_marks (ts, pos) VALUES (?, ?) ON CONFLICT DO NOTHING", [(ts, pos)])
    row = await tx.one("SELECT ts, pos FROM peer_marks WHERE ts <= ? ORDER BY ts DESC LIMIT 1", before)
    if row is None:
        return 0
    tx.later("DELETE FROM peer_marks WHERE ts < ?", [(row[0],)])
    return int(row[1])


async def give_up(tx: Transaction, server: str, upto: int) -> int | None:
    """Give up what waits for a server up to a position, but for the newest event of each room (`newest`), and remember
    whether it is to be told whose keys have changed. Returns how many messages to devices are lost with that; None for
    a server that has all of it, or of which it was given up before.
    """
    row = await tx.one("SELECT sent_pos, gone_upto, gone_since FROM peers WHERE server = ?", server)
    if row is None or row[0] >= upto or row[1] >= upto:
        return None
    lost = await tx.run("DELETE FROM peer_edus WHERE server = ? AND pos <= ? AND kind = ?", server, upto, DIRECT)
    first = await tx.one(  # an EDU stands behind the change, or, when the server was met later, far behind it
        "SELECT MIN(c.pos) FROM peer_edus q JOIN device_list_changes c ON c.user_nid = q.user_nid"
        " WHERE q.server = ? AND q.pos <= ?",
        server,
        upto,
    )
    marks = [row[2]] + ([first[0] - 1] if first is not None and first[0] is not None else [])
    since = min((mark for mark in marks if mark is not None), default=None)
    await tx.run("DELETE FROM peer_edus WHERE server = ? AND pos <= ?", server, upto)
    await tx.run("UPDATE peers SET gone_since = ?, gone_upto = ? WHERE server = ?", since, upto, server)
    return lost


async def owed(tx: Transaction) -> set[str]:
    """The servers that were given up and have not been told whose keys have changed meanwhile."""
    return {str(row[0]) for row in await tx.all("SELECT server FROM peers WHERE gone_since IS NOT NULL")}


async def changed_meanwhile(tx: Transaction, server: str, limit: int) -> list[tuple[int, str]]:
    """The residents of whose changed keys a server is to be told since it was given up, and who share a room with it:
    when they changed (position), and user id."""
    rows = await tx.all(
        "SELECT c.pos, u.user_id FROM peers k"
        " JOIN device_list_changes c ON c.pos > k.gone_since AND c.pos <= k.gone_upto"
        " JOIN residents r ON r.user_nid = c.user_nid JOIN users u ON u.user_nid = c.user_nid WHERE k.server = ?"
        " AND EXISTS (SELECT 1 FROM memberships m JOIN peer_rooms p ON p.room_nid = m.room_nid"
        " WHERE m.user_nid = c.user_nid AND m.membership = 'join' AND p.server = k.server AND p.until_pos IS NULL)"
        " ORDER BY c.pos LIMIT ?",
        server,
        limit,
    )
    return [(int(row[0]), str(row[1])) for row in rows]


def owe(tx: Transaction, server: str, since: int | None) -> None:
    """Queue that a server is to be told of keys that changed after a position; None: of no more."""
    tx.later("UPDATE peers SET gone_since = ? WHERE server = ?", [(since, server)])
