"""Pushers of residents: where a user's notifications go, and how far each has been told.

``definition`` is the JSON that the client gave. What waits for a pusher is not stored: it is what the timelines of its
owner's rooms have behind ``pushed_to``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once
from homeserver.storage.events import COLUMNS, StoredEvent

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction


class StoredPusher(NamedTuple):
    """A pusher. See the schema for what is said of its attempts; times in milliseconds since 1970."""

    user_nid: int
    user_id: str
    app_id: str
    pushkey: str
    definition: bytes
    set_ts: int
    pushed_to: int
    failures: int
    failing_ts: int
    retry_ts: int


class Progress(NamedTuple):
    """How far a pusher has come; the last three name it."""

    pushed_to: int
    failures: int
    failing_ts: int
    retry_ts: int
    user_nid: int
    app_id: str
    pushkey: str


_PUSHER = (
    "SELECT p.user_nid, u.user_id, p.app_id, p.pushkey, p.definition, p.set_ts, p.pushed_to, p.failures, p.failing_ts,"
    " p.retry_ts FROM pushers p JOIN users u ON u.user_nid = p.user_nid"
)


async def put(
    tx: Transaction,
    user_nid: int,
    device_nid: int,
    app_id: str,
    pushkey: str,
    definition: bytes,
    now_ms: int,
    position: int,
) -> None:
    """Set a pusher of a user; a new one is told of what comes behind ``position``."""
    await tx.run(
        "INSERT INTO pushers (user_nid, app_id, pushkey, device_nid, definition, set_ts, pushed_to)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (user_nid, app_id, pushkey) DO UPDATE SET device_nid = excluded.device_nid,"
        " definition = excluded.definition, set_ts = excluded.set_ts, failures = 0, failing_ts = 0, retry_ts = 0",
        user_nid,
        app_id,
        pushkey,
        device_nid,
        definition,
        now_ms,
        position,
    )


async def of_user(tx: Transaction, user_nid: int) -> list[bytes]:
    """The definitions of a user's pushers."""
    rows = await tx.all("SELECT definition FROM pushers WHERE user_nid = ? ORDER BY app_id, pushkey", user_nid)
    return [row[0] for row in rows]


async def count(tx: Transaction, user_nid: int) -> int:
    """How many pushers a user has."""
    row = await tx.one("SELECT COUNT(*) FROM pushers WHERE user_nid = ?", user_nid)
    assert row is not None
    return int(row[0])


async def delete(tx: Transaction, user_nid: int, app_id: str, pushkey: str) -> None:
    """Remove a pusher of a user."""
    await tx.run("DELETE FROM pushers WHERE user_nid = ? AND app_id = ? AND pushkey = ?", user_nid, app_id, pushkey)


async def delete_of_others(tx: Transaction, user_nid: int, app_id: str, pushkey: str) -> None:
    """Remove the pushers of everybody else that have the same app and key."""
    await tx.run("DELETE FROM pushers WHERE user_nid <> ? AND app_id = ? AND pushkey = ?", user_nid, app_id, pushkey)


async def delete_before(tx: Transaction, app_id: str, pushkey: str, set_ts: int) -> None:
    """Remove everybody's pushers with this app and key that were set before a time, in milliseconds since 1970."""
    await tx.run("DELETE FROM pushers WHERE app_id = ? AND pushkey = ? AND set_ts < ?", app_id, pushkey, set_ts)


# what delivery asks -------------------------------------------------------------------------


async def owners(tx: Transaction, after: int, limit: int) -> list[int]:
    """Row ids of residents who have pushers, in ascending order, from behind ``after``."""
    rows = await tx.all(
        "SELECT DISTINCT user_nid FROM pushers WHERE user_nid > ? ORDER BY user_nid LIMIT ?", after, limit
    )
    return [int(row[0]) for row in rows]


async def of_users(tx: Transaction, user_nids: Collection[int]) -> list[StoredPusher]:
    """All pushers of residents, at most 500 of these."""
    marks = ",".join("?" * len(user_nids))
    rows = await tx.all(f"{_PUSHER} WHERE p.user_nid IN ({marks}) ORDER BY p.app_id, p.pushkey", *user_nids)
    return [StoredPusher(*row) for row in rows]


@asks_once
async def find(tx: Transaction, user_nid: int, app_id: str, pushkey: str) -> StoredPusher | None:
    """One pusher; None when it has been removed."""
    row = await tx.one(f"{_PUSHER} WHERE p.user_nid = ? AND p.app_id = ? AND p.pushkey = ?", user_nid, app_id, pushkey)
    return None if row is None else StoredPusher(*row)


async def reject(tx: Transaction, user_nid: int, app_id: str, pushkey: str, set_ts: int) -> None:
    """Remove a pusher, unless it has been set again since ``set_ts``."""
    await tx.run(
        "DELETE FROM pushers WHERE user_nid = ? AND app_id = ? AND pushkey = ? AND set_ts = ?",
        user_nid,
        app_id,
        pushkey,
        set_ts,
    )


async def keep_progress(tx: Transaction, rows: Sequence[Progress]) -> None:
    """Write how far pushers have come; those that are gone stay so."""
    await tx.many(
        "UPDATE pushers SET pushed_to = ?, failures = ?, failing_ts = ?, retry_ts = ?"
        " WHERE user_nid = ? AND app_id = ? AND pushkey = ?",
        rows,
    )


class Behind(NamedTuple):
    """An event that a resident may have to be told of, and its place: for an invitation, that of the membership."""

    room_id: str
    pos: int
    event: StoredEvent


async def behind(tx: Transaction, user_nid: int, after: int, upto: int, limit: int) -> list[Behind]:
    """The newest events, oldest first, with ``after < pos <= upto`` in rooms where a resident is, since they came."""
    rows = await tx.all(
        f"SELECT r.room_id, e.pos, {COLUMNS} FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid"
        " JOIN events e ON e.room_nid = m.room_nid JOIN users u ON u.user_nid = e.sender_nid"
        " WHERE m.user_nid = ? AND m.membership = 'join' AND e.pos > m.pos AND e.pos > ? AND e.pos <= ?"
        " AND e.verdict = 0 ORDER BY e.pos DESC LIMIT ?",
        user_nid,
        after,
        upto,
        limit,
    )
    return [Behind(row[0], row[1], StoredEvent(*row[2:])) for row in reversed(rows)]


async def invitations_behind(tx: Transaction, user_nid: int, after: int, upto: int) -> list[Behind]:
    """The open invitations of a resident that came with ``after < pos <= upto``, oldest first."""
    rows = await tx.all(
        f"SELECT r.room_id, m.pos, {COLUMNS} FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid"
        " JOIN events e ON e.event_nid = m.event_nid JOIN users u ON u.user_nid = e.sender_nid"
        " WHERE m.user_nid = ? AND m.membership = 'invite' AND m.pos > ? AND m.pos <= ? ORDER BY m.pos",
        user_nid,
        after,
        upto,
    )
    return [Behind(row[0], row[1], StoredEvent(*row[2:])) for row in rows]
