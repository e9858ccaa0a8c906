"""Erasing a node's replica of a room with which no resident has anything to do any more.

First it is no replica any more, then its events go a part at a time, then the rest. Each transaction looks anew whether
the room is still to go: somebody may be invited to it meanwhile, or a new replica be planted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.runtime.parts import in_parts
from homeserver.storage.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction

PART = 1000
"""Events that go in one transaction."""

_NEEDED = (
    "EXISTS (SELECT 1 FROM memberships m JOIN residents s ON s.user_nid = m.user_nid WHERE m.room_nid = r.room_nid)"
)


async def rooms_of(tx: Transaction, user_nid: int) -> dict[int, str]:
    """The rooms in which a user has, or had, a membership, with their ids; half erased ones too."""
    rows = await tx.all(
        "SELECT r.room_nid, r.room_id FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid WHERE m.user_nid = ?",
        user_nid,
    )
    return {int(row[0]): str(row[1]) for row in rows}


async def unneeded(tx: Transaction, room_nids: Sequence[int]) -> list[int]:
    """Those of the rooms that no resident is in, was in, or is invited to."""
    found: list[int] = []
    for part in in_parts(room_nids, 500):
        marks = ",".join("?" * len(part))
        rows = await tx.all(f"SELECT room_nid FROM rooms r WHERE room_nid IN ({marks}) AND NOT {_NEEDED}", *part)
        found += [int(row[0]) for row in rows]
    return found


async def is_unsent(tx: Transaction, room_nid: int) -> bool:
    """Whether something of a room waits for another node, or for another server."""
    if await tx.one("SELECT 1 FROM outbox WHERE room_nid = ? LIMIT 1", room_nid) is not None:
        return True
    row = await tx.one(
        "SELECT 1 FROM events e JOIN peer_rooms p ON p.room_nid = e.room_nid AND e.pos > p.since_pos"
        " AND (p.until_pos IS NULL OR e.pos <= p.until_pos) LEFT JOIN peers k ON k.server = p.server"
        " WHERE e.room_nid = ? AND e.to_peers = 1 AND e.pos > COALESCE(k.sent_pos, 0) LIMIT 1",
        room_nid,
    )
    if row is not None:
        return True
    return await tx.one("SELECT 1 FROM peer_events WHERE room_nid = ? LIMIT 1", room_nid) is not None


async def hide(tx: Transaction, room_nid: int) -> bool:
    """Begin: the room is known, and no more; False when it is needed after all."""
    return (
        await tx.run(
            "UPDATE rooms AS r SET state_group = NULL, tips = '', published = 0, history_before = NULL"
            f" WHERE room_nid = ? AND NOT {_NEEDED}",
            room_nid,
        )
        == 1
    )


async def is_held(tx: Transaction, room_nid: int) -> bool:
    """Whether there is a state of a room, so that it is a replica (again)."""
    return await tx.one("SELECT 1 FROM rooms WHERE room_nid = ? AND state_group IS NOT NULL", room_nid) is not None


async def _is_going(tx: Transaction, room_nid: int) -> bool:
    row = await tx.one(f"SELECT 1 FROM rooms r WHERE room_nid = ? AND state_group IS NULL AND NOT {_NEEDED}", room_nid)
    return row is not None


async def erase_events(tx: Transaction, room_nid: int) -> bool:
    """Delete some of the events with all that is about them; False when none are left, or the room is needed again."""
    if not await _is_going(tx, room_nid):
        return False
    rows = await tx.all("SELECT event_nid, event_id FROM events WHERE room_nid = ? LIMIT ?", room_nid, PART)
    nids = [(row[0],) for row in rows]
    for table, column in (
        ("auth_links", "event_nid"),
        ("member_names", "event_nid"),
        ("openings", "event_nid"),
        ("relations", "child_nid"),
        ("sticky_events", "event_nid"),
        ("events", "event_nid"),
    ):
        tx.later(f"DELETE FROM {table} WHERE {column} = ?", nids)
    tx.later("DELETE FROM event_transactions WHERE event_id = ?", [(row[1],) for row in rows])
    return bool(rows)


async def groups(tx: Transaction, room_nid: int) -> list[int]:
    """The snapshots of a room's state."""
    return [int(row[0]) for row in await tx.all("SELECT group_nid FROM state_groups WHERE room_nid = ?", room_nid)]


async def erase_groups(tx: Transaction, room_nid: int, group_nids: Sequence[int]) -> None:
    """Delete snapshots of a room that has no events any more."""
    if await _is_going(tx, room_nid):
        for table in ("state_group_entries", "state_groups"):
            tx.later(f"DELETE FROM {table} WHERE group_nid = ?", [(nid,) for nid in group_nids])


_BY_ROOM = (
    "current_state",
    "state_changes",
    "memberships",
    "room_nodes",
    "receipts",
    "threads",
    "aliases",
    "network_rooms",
    "peer_events",
)


async def is_named(tx: Transaction, room_nid: int) -> bool:
    """Whether residents have something that names the room, though they were never in it."""
    for table in ("account_data", "thread_subscriptions", "forgotten_rooms", "private_receipts"):
        if await tx.one(f"SELECT 1 FROM {table} WHERE room_nid = ? LIMIT 1", room_nid) is not None:
            return True
    return False


async def peers_of(tx: Transaction, room_nid: int) -> list[tuple[str, int]]:
    """The stretches in which other servers take part in a room: (server, since)."""
    rows = await tx.all("SELECT server, since_pos FROM peer_rooms WHERE room_nid = ?", room_nid)
    return [(row[0], row[1]) for row in rows]


async def erase_rest(
    tx: Transaction, room_nid: int, peers: Sequence[tuple[str, int]], nodes: Sequence[str], *, named: bool
) -> None:
    """Delete what is left of a room that has no events any more; what residents have ``named`` keeps its row."""
    if not await _is_going(tx, room_nid):
        return
    for table in _BY_ROOM:
        tx.later(f"DELETE FROM {table} WHERE room_nid = ?", [(room_nid,)])
    tx.later(
        "DELETE FROM peer_rooms WHERE server = ? AND room_nid = ? AND since_pos = ?",
        [(server, room_nid, since) for server, since in peers],
    )
    tx.later("DELETE FROM places_elsewhere WHERE node = ? AND room_nid = ?", [(node, room_nid) for node in nodes])
    if not named:
        tx.later("DELETE FROM rooms WHERE room_nid = ? AND state_group IS NULL", [(room_nid,)])


# who is known by name only ------------------------------------------------------------------

_OWNERS = [(table.name, table.owner) for table in TABLES.values() if table.owner is not None and table.name != "users"]


async def is_anybody(tx: Transaction, user_nid: int) -> bool:
    """Whether anything on the node is a user's, or about them."""
    for table, owner in _OWNERS:
        if await tx.one(f"SELECT 1 FROM {table} WHERE {owner} = ? LIMIT 1", user_nid) is not None:
            return True
    return False


async def forget_name(tx: Transaction, user_nid: int) -> None:
    """Delete the name of a user of whom nothing is left, unless they have come to be in a room meanwhile."""
    await tx.run(
        "DELETE FROM users WHERE user_nid = ?"
        " AND NOT EXISTS (SELECT 1 FROM memberships WHERE user_nid = users.user_nid)"
        " AND NOT EXISTS (SELECT 1 FROM residents WHERE user_nid = users.user_nid)",
        user_nid,
    )
