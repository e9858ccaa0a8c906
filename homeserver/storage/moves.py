"""Moves of users between nodes: how far each has come, what of a user has been staged, and where they were before.

A move that goes away from a node is a row there, and one on the node to which it goes. No transaction sees both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.belongings import BelongingRow
from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction


class Departure(NamedTuple):
    """A move away from a node. ``wish``: what was asked, as JSON; times in milliseconds since 1970. See the schema."""

    user_id: str
    user_nid: int
    move_id: str
    target: str
    state: str
    halted: str | None
    wish: bytes
    reason: str | None
    begun_ts: int
    changed_ts: int


class Arrival(NamedTuple):
    """A move to a node. ``account``: JSON; see the schema."""

    move_id: str
    user_id: str
    source: str
    state: str
    account: bytes


_DEPARTURE = (
    "SELECT u.user_id, d.user_nid, d.move_id, d.target, d.state, d.halted, d.wish, d.reason, d.begun_ts, d.changed_ts"
    " FROM departures d JOIN users u ON u.user_nid = d.user_nid"
)

# the journal --------------------------------------------------------------------------------


async def begin(tx: Transaction, user_nid: int, move_id: str, target: str, state: str, wish: bytes, now: int) -> bool:
    """Begin to move a resident away; False while they are being moved already."""
    made = await tx.run(
        "INSERT INTO departures (user_nid, move_id, target, state, wish, begun_ts, changed_ts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        user_nid,
        move_id,
        target,
        state,
        wish,
        now,
        now,
    )
    return made == 1


async def departures(tx: Transaction) -> list[Departure]:
    """All moves away from here, the oldest first."""
    return [Departure(*row) for row in await tx.all(f"{_DEPARTURE} ORDER BY d.begun_ts, d.move_id")]


async def departure_of(tx: Transaction, user_id: str) -> Departure | None:
    """The move of a resident."""
    row = await tx.one(f"{_DEPARTURE} WHERE u.user_id = ?", user_id)
    return None if row is None else Departure(*row)


async def note_state(tx: Transaction, move_id: str, state: str, reason: str | None, now: int) -> bool:
    """A move has come so far; ``reason``: what it waits for. False when it has been halted, or is no more."""
    return (
        await tx.run(
            "UPDATE departures SET state = ?, reason = ?, changed_ts = ? WHERE move_id = ? AND halted IS NULL",
            state,
            reason,
            now,
            move_id,
        )
        == 1
    )


async def halt(tx: Transaction, move_id: str, halted: str | None, reason: str | None, now: int) -> bool:
    """A move goes on no more ("stopped" or "failed"), or goes on again (None). False when there is none, or when it is
    being switched at this moment."""
    return (
        await tx.run(
            "UPDATE departures SET halted = ?, reason = ?, changed_ts = ? WHERE move_id = ? AND state <> 'switching'",
            halted,
            reason,
            now,
            move_id,
        )
        == 1
    )


async def give_up(tx: Transaction, move_id: str) -> None:
    """Forget a move away from here: the user stays."""
    await tx.run("DELETE FROM departures WHERE move_id = ?", move_id)


async def expect(tx: Transaction, move_id: str, user_id: str, source: str, account: bytes) -> None:
    """Note that a user is on the way here."""
    await tx.run(
        "INSERT INTO arrivals (move_id, user_id, source, state, account) VALUES (?, ?, ?, 'staging', ?)"
        " ON CONFLICT DO NOTHING",
        move_id,
        user_id,
        source,
        account,
    )


async def arrivals(tx: Transaction) -> list[Arrival]:
    """All moves to here."""
    rows = await tx.all("SELECT move_id, user_id, source, state, account FROM arrivals ORDER BY move_id")
    return [Arrival(*row) for row in rows]


async def arrival(tx: Transaction, move_id: str) -> Arrival | None:
    """One move to here."""
    row = await tx.one("SELECT move_id, user_id, source, state, account FROM arrivals WHERE move_id = ?", move_id)
    return None if row is None else Arrival(*row)


async def note_arrival(tx: Transaction, move_id: str, state: str, account: bytes) -> None:
    """A move to here has come so far."""
    await tx.run("UPDATE arrivals SET state = ?, account = ? WHERE move_id = ?", state, account, move_id)


async def forget_arrival(tx: Transaction, move_id: str) -> None:
    """Nothing is left to be done for a move to here."""
    await clear_staged(tx, move_id)
    await tx.run("DELETE FROM arrivals WHERE move_id = ?", move_id)


# receipts -----------------------------------------------------------------------------------


async def put_receipt(tx: Transaction, move_id: str, user_nid: int, ended_ts: int, receipt: bytes) -> bytes:
    """Keep the receipt of a move that has ended here; returns the one that is kept: there is one."""
    await tx.run(
        "INSERT INTO move_receipts (move_id, user_nid, ended_ts, receipt) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        move_id,
        user_nid,
        ended_ts,
        receipt,
    )
    row = await tx.one("SELECT receipt FROM move_receipts WHERE move_id = ?", move_id)
    assert row is not None
    return bytes(row[0])


async def receipts_of(tx: Transaction, user_nid: int) -> list[bytes]:
    """The receipts of a resident's moves, the oldest first."""
    rows = await tx.all("SELECT receipt FROM move_receipts WHERE user_nid = ? ORDER BY ended_ts, move_id", user_nid)
    return [row[0] for row in rows]


# staging ------------------------------------------------------------------------------------


async def stage(tx: Transaction, move_id: str, table: str, rows: Sequence[BelongingRow], gone: Collection[str]) -> None:
    """Put rows of a table beside those that are there, or in their places, and take some away by their keys."""
    tx.later(
        "DELETE FROM staged_rows WHERE move_id = ? AND table_name = ? AND row_key = ?",
        [(move_id, table, key) for key in gone],
    )
    tx.later(
        "INSERT INTO staged_rows (move_id, table_name, row_key, content, place) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (move_id, table_name, row_key) DO UPDATE SET content = excluded.content, place = excluded.place",
        [(move_id, table, *row) for row in rows],
    )


async def staged(tx: Transaction, move_id: str, table: str, after: str, limit: int) -> list[BelongingRow]:
    """Rows of a table that have been staged, by key, behind ``after``."""
    rows = await tx.all(
        "SELECT row_key, content, place FROM staged_rows WHERE move_id = ? AND table_name = ? AND row_key > ?"
        " ORDER BY row_key LIMIT ?",
        move_id,
        table,
        after,
        limit,
    )
    return [BelongingRow(*row) for row in rows]


async def all_staged(tx: Transaction, move_id: str, table: str) -> list[BelongingRow]:
    """All rows of a table that have been staged."""
    rows = await tx.all(
        "SELECT row_key, content, place FROM staged_rows WHERE move_id = ? AND table_name = ?", move_id, table
    )
    return [BelongingRow(*row) for row in rows]


async def clear_staged(tx: Transaction, move_id: str) -> None:
    """Throw away what was staged of a move."""
    await tx.run("DELETE FROM staged_rows WHERE move_id = ?", move_id)


# where the user is, and was -----------------------------------------------------------------


async def jump(tx: Transaction, position: int, count: int) -> int:
    """Take ``count`` positions behind all of this node, and behind ``position`` of another; returns the first.

    Only inside `Node.advance`. So what other servers, and clients, have been told in order goes on in order.
    """
    row = await tx.one(
        "UPDATE stream SET position = CASE WHEN position < ? THEN ? ELSE position END + ? WHERE id = 1"
        " RETURNING position",
        position,
        position,
        count,
    )
    assert row is not None
    tx.taken += count
    return int(row[0]) - count + 1


async def device_nids(tx: Transaction, user_nid: int) -> dict[str, int]:
    """The row ids of a resident's devices by device id."""
    rows = await tx.all("SELECT device_id, device_nid FROM devices WHERE user_nid = ?", user_nid)
    return {str(row[0]): int(row[1]) for row in rows}


async def keys_changed_at(tx: Transaction, user_nid: int) -> int | None:
    """The last position at which a user's public keys changed."""
    row = await tx.one("SELECT pos FROM device_list_changes WHERE user_nid = ?", user_nid)
    return None if row is None else int(row[0])


def take_over_keys(tx: Transaction, user_nid: int, changed_at: int | None) -> None:
    """Queue that the keys of a user who arrives are no copy any more. ``changed_at``: their last change where they
    were, which other servers have been told by its number: the next refers to it."""
    for table in ("key_replicas", "carried_proofs", "device_keys", "cross_signing_keys"):
        tx.later(f"DELETE FROM {table} WHERE user_nid = ?", [(user_nid,)])
    if changed_at is not None:
        tx.later(
            "INSERT INTO device_list_changes (user_nid, pos) VALUES (?, ?)"
            " ON CONFLICT (user_nid) DO UPDATE SET pos = excluded.pos",
            [(user_nid, changed_at)],
        )


def note_holders(tx: Transaction, user_nid: int, here: str, before: str) -> None:
    """Queue that the node where a user was may hold copies of their keys now, and that where they are does not."""
    tx.later("DELETE FROM key_holders WHERE user_nid = ? AND node = ?", [(user_nid, here)])
    tx.later("INSERT INTO key_holders (user_nid, node) VALUES (?, ?) ON CONFLICT DO NOTHING", [(user_nid, before)])


def note_home(tx: Transaction, user_nid: int, epoch: int, node: str, left_pos: int, came_pos: int) -> None:
    """Queue where a user was in an epoch of their tokens, and at which position the next began."""
    tx.later(
        "INSERT INTO earlier_homes (user_nid, epoch, node, left_pos, came_pos) VALUES (?, ?, ?, ?, ?)",
        [(user_nid, epoch, node, left_pos, came_pos)],
    )


def carry_letters(tx: Transaction, rows: Sequence[tuple[int, int, int, int, int]]) -> None:
    """Queue which messages to devices came along: (pos, user_nid, device_nid, epoch, position before)."""
    tx.later("INSERT INTO carried_letters (pos, user_nid, device_nid, epoch, node_pos) VALUES (?, ?, ?, ?, ?)", rows)


def note_places(tx: Transaction, rows: Sequence[tuple[str, int, int, int]]) -> None:
    """Queue where events of timelines here stand elsewhere: (node, room_nid, position there, position here)."""
    tx.later(
        "INSERT INTO places_elsewhere (node, room_nid, node_pos, pos) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", rows
    )


async def media_of(tx: Transaction, user_nid: int) -> tuple[int, int]:
    """How many files a user's media have, and their bytes."""
    row = await tx.one(
        "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM media WHERE user_nid = ? AND size IS NOT NULL", user_nid
    )
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


class EarlierHome(NamedTuple):
    """Where a user was in an epoch, up to which position there, and at which position of the next node the next epoch
    began."""

    epoch: int
    node: str
    left_pos: int
    came_pos: int


async def homes_of(tx: Transaction, user_nid: int) -> list[EarlierHome]:
    """Where a user was before, in order."""
    rows = await tx.all(
        "SELECT epoch, node, left_pos, came_pos FROM earlier_homes WHERE user_nid = ? ORDER BY epoch", user_nid
    )
    return [EarlierHome(*row) for row in rows]


async def places_on(tx: Transaction, node: str, room_nids: Sequence[int]) -> list[tuple[int, int, int]]:
    """Where events of rooms stand on another node, and here: (room_nid, position there, position here)."""
    found: list[tuple[int, int, int]] = []
    for part in in_parts(room_nids, 500):
        marks = ",".join("?" * len(part))
        rows = await tx.all(
            f"SELECT room_nid, node_pos, pos FROM places_elsewhere WHERE node = ? AND room_nid IN ({marks})",
            node,
            *part,
        )
        found += [(row[0], row[1], row[2]) for row in rows]
    return found


async def last_letter(tx: Transaction, device_nid: int, epoch: int, node_pos: int) -> int | None:
    """The position here of the last message that a device had up to a position of an earlier epoch."""
    row = await tx.one(
        "SELECT MAX(pos) FROM carried_letters WHERE device_nid = ? AND epoch = ? AND node_pos <= ?",
        device_nid,
        epoch,
        node_pos,
    )
    return None if row is None or row[0] is None else int(row[0])


# rooms --------------------------------------------------------------------------------------


class Held(NamedTuple):
    """A room in which a user has a membership, as their node has it. ``event_id``: of the member event."""

    room_nid: int
    room_id: str
    version: str
    home: str | None
    replica: bool
    membership: str
    event_id: str
    pos: int


async def rooms_of(tx: Transaction, user_nid: int) -> list[Held]:
    """All rooms in which a user has a membership, those that they forgot too."""
    rows = await tx.all(
        "SELECT m.room_nid, r.room_id, r.version, r.home, CASE WHEN r.state_group IS NULL THEN 0 ELSE 1 END,"
        " m.membership, e.event_id, m.pos FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid"
        " JOIN events e ON e.event_nid = m.event_nid WHERE m.user_nid = ? ORDER BY r.room_id",
        user_nid,
    )
    return [Held(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6], row[7]) for row in rows]


async def timeline_places(tx: Transaction, room_nid: int, limit: int) -> list[tuple[str, int]]:
    """The newest events of a timeline, the newest first: (event id, position)."""
    rows = await tx.all(
        "SELECT event_id, pos FROM events WHERE room_nid = ? AND pos IS NOT NULL AND verdict = 0"
        " ORDER BY pos DESC LIMIT ?",
        room_nid,
        limit,
    )
    return [(str(row[0]), int(row[1])) for row in rows]


async def replicas_of(tx: Transaction, room_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """The rooms that this node holds, with their row ids, and whether all of their history is here."""
    found: dict[str, tuple[int, bool]] = {}
    for part in in_parts(room_ids, 500):
        marks = ",".join("?" * len(part))
        rows = await tx.all(
            "SELECT room_id, room_nid, CASE WHEN history_before IS NULL THEN 1 ELSE 0 END FROM rooms"
            f" WHERE room_id IN ({marks}) AND state_group IS NOT NULL",
            *part,
        )
        found.update({row[0]: (int(row[1]), bool(row[2])) for row in rows})
    return found


def date_memberships(tx: Transaction, user_id: str, rooms: Sequence[tuple[int, str]]) -> None:
    """Queue that a user has been in rooms since their member events, and not since the rooms came here: (room_nid,
    event id)."""
    tx.later(
        "UPDATE memberships SET pos = COALESCE((SELECT e.pos FROM events e WHERE e.event_id = ?), ?)"
        f" WHERE user_nid = {NID_OF} AND room_nid = ?",
        [(event_id, -(2**62), user_id, room_nid) for room_nid, event_id in rooms],
    )
