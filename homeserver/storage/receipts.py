"""Receipts of a node's rooms, public and private; and the counts of unread events that start from them.

spec: client-server-api/#receipts
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.engine import asks_once
from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.storage.engine import Transaction


class Receipt(NamedTuple):
    """That a user has read up to an event. ``thread_id``: an event id, ``main``, or empty for an unthreaded one.

    ``event_pos``: the event's place in the timeline; ``ts``: milliseconds since 1970.
    """

    user_id: str
    thread_id: str
    event_id: str
    event_pos: int
    ts: int


@asks_once
async def place(tx: Transaction, room_nid: int, event_id: str) -> int | None:
    """The place in the timeline of an event that may be read up to."""
    row = await tx.one("SELECT pos FROM events WHERE event_id = ? AND room_nid = ? AND verdict = 0", event_id, room_nid)
    return None if row is None or row[0] is None else int(row[0])


async def read_to(tx: Transaction, room_nid: int, user_nid: int, thread_id: str, *, private: bool) -> int | None:
    """How far a user has read by receipts of one kind."""
    table = "private_receipts" if private else "receipts"
    row = await tx.one(
        f"SELECT event_pos FROM {table} WHERE room_nid = ? AND user_nid = ? AND thread_id = ?",
        room_nid,
        user_nid,
        thread_id,
    )
    return None if row is None else int(row[0])


async def held(tx: Transaction, room_nid: int, user_id: str, thread_id: str) -> tuple[int, int] | None:
    """The place and the time (ms) of a user's public receipt, whoever they are."""
    row = await tx.one(
        f"SELECT event_pos, ts FROM receipts WHERE room_nid = ? AND user_nid = {NID_OF} AND thread_id = ?",
        room_nid,
        user_id,
        thread_id,
    )
    return None if row is None else (int(row[0]), int(row[1]))


def put(tx: Transaction, room_nid: int, receipt: Receipt, pos: int, *, private: bool) -> None:
    """Queue a receipt at a position. The user has been interned."""
    table, key = (
        ("private_receipts", "user_nid, room_nid, thread_id")
        if private
        else ("receipts", "room_nid, user_nid, thread_id")
    )
    tx.later(
        f"INSERT INTO {table} (room_nid, user_nid, thread_id, event_id, event_pos, ts, pos)"
        f" VALUES (?, {NID_OF}, ?, ?, ?, ?, ?) ON CONFLICT ({key}) DO UPDATE SET event_id = excluded.event_id,"
        " event_pos = excluded.event_pos, ts = excluded.ts, pos = excluded.pos",
        [(room_nid, receipt.user_id, receipt.thread_id, receipt.event_id, receipt.event_pos, receipt.ts, pos)],
    )
    if not receipt.thread_id:  # else only what is counted of that thread is outdated
        tx.later(
            f"DELETE FROM unread_counts WHERE user_nid = {NID_OF} AND room_nid = ?",
            [(receipt.user_id, room_nid)],
        )


async def since(tx: Transaction, room_nids: Collection[int], after: int, upto: int) -> list[tuple[int, Receipt]]:
    """The public receipts of rooms that came with ``after < pos <= upto``: (room_nid, receipt)."""
    if not room_nids:
        return []
    marks = ",".join("?" * len(room_nids))
    rows = await tx.all(
        "SELECT r.room_nid, u.user_id, r.thread_id, r.event_id, r.event_pos, r.ts FROM receipts r"
        f" JOIN users u USING (user_nid) WHERE r.room_nid IN ({marks}) AND r.pos > ? AND r.pos <= ?",
        *room_nids,
        after,
        upto,
    )
    return [(row[0], Receipt(*row[1:])) for row in rows]


async def private_since(tx: Transaction, user_nid: int, after: int, upto: int) -> list[tuple[int, Receipt]]:
    """The private receipts of a resident that came with ``after < pos <= upto``: (room_nid, receipt)."""
    rows = await tx.all(
        "SELECT r.room_nid, u.user_id, r.thread_id, r.event_id, r.event_pos, r.ts FROM private_receipts r"
        " JOIN users u USING (user_nid) WHERE r.user_nid = ? AND r.pos > ? AND r.pos <= ?",
        user_nid,
        after,
        upto,
    )
    return [(row[0], Receipt(*row[1:])) for row in rows]


class UnreadStart(NamedTuple):
    """Where counting the unread events of a room goes on.

    ``newest``: position at which the newest receipt came that this knows of; ``read_to``: place up to which everything
    is read, in whatever thread; ``read``: by thread, a place beyond it. ``counted_to`` and ``counts`` (a JSON object:
    thread to notifications and highlights) are a count that was kept; ``again``: the threads in which it is outdated.
    """

    newest: int
    read_to: int
    read: dict[str, int]
    counted_to: int
    counts: bytes
    again: frozenset[str]


async def unread_starts(tx: Transaction, user_nid: int, room_nids: Sequence[int]) -> dict[int, UnreadStart]:
    """Where counting a resident's unread events goes on, by room_nid.

    From a count that was kept, or else from what they have read, or from their joining. Two trips for each 500 rooms.
    """
    found: dict[int, UnreadStart] = {}
    for part in in_parts(room_nids, 500):
        marks = ",".join("?" * len(part))
        read = await _read_to(tx, user_nid, part)
        kept = {
            row[0]: row[1:]
            for row in await tx.all(
                "SELECT room_nid, read_to, counted_to, threads FROM unread_counts"
                f" WHERE user_nid = ? AND room_nid IN ({marks}) AND threads IS NOT NULL",
                user_nid,
                *part,
            )
        }
        found.update({room_nid: _start(read.get(room_nid, {}), kept.get(room_nid)) for room_nid in part})
    return found


def _start(read: Mapping[str, tuple[int, int]], kept: tuple[int, int, bytes] | None) -> UnreadStart:
    read_to, whole_at = read.get("", (0, 0))
    beyond = {thread: place for thread, (place, _) in read.items() if thread and place > read_to}
    newest = max((at for _, at in read.values()), default=0)
    if kept is None or whole_at > kept[0]:
        return UnreadStart(newest, read_to, beyond, read_to, b"{}", frozenset())
    again = frozenset(thread for thread, (_, at) in read.items() if thread and at > kept[0])
    return UnreadStart(newest, read_to, beyond, kept[1], kept[2], again)


async def _read_to(tx: Transaction, user_nid: int, room_nids: Sequence[int]) -> dict[int, dict[str, tuple[int, int]]]:
    """How far a resident has read, by room_nid and thread: (place, position at which the newest receipt came).

    Whatever the thread, under "": unthreaded receipts, and from where they have been in the room.
    """
    where = f"WHERE user_nid = ? AND room_nid IN ({','.join('?' * len(room_nids))})"
    rows = await tx.all(
        f"SELECT room_nid, thread_id, event_pos, pos FROM receipts {where}"
        f" UNION ALL SELECT room_nid, thread_id, event_pos, pos FROM private_receipts {where}"
        f" UNION ALL SELECT room_nid, '', pos, pos FROM memberships {where}",
        *(user_nid, *room_nids) * 3,
    )
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for room_nid, thread, place, at in rows:
        of_room = found.setdefault(room_nid, {})
        before = of_room.get(thread, (place, at))
        of_room[thread] = (max(before[0], place), max(before[1], at))
    return found


async def keep_count(
    tx: Transaction, user_nid: int, room_nid: int, newest: int, counted_to: int, counts: bytes
) -> None:
    """Keep a count (see `UnreadStart`), unless the user has read on since it was begun."""
    read = (await _read_to(tx, user_nid, [room_nid])).get(room_nid, {})
    if max((at for _, at in read.values()), default=0) != newest:
        return
    tx.later(
        "INSERT INTO unread_counts (user_nid, room_nid, read_to, counted_to, notifications, highlights, threads)"
        " VALUES (?, ?, ?, ?, 0, 0, ?) ON CONFLICT (user_nid, room_nid) DO UPDATE SET read_to = excluded.read_to,"
        " counted_to = excluded.counted_to, threads = excluded.threads",
        [(user_nid, room_nid, newest, counted_to, counts)],
    )
