"""What a node asks the database of another for, when it came back from an archive: what it knew once, and others still
know. Read a part at a time, while nobody waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.storage import chores

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction

AT_ONCE: Final = 200
"""Rooms that are read together."""


class Held(NamedTuple):
    """A room of which the node that is asked has a replica. ``has_members``: that it counts members on the other."""

    room_nid: int
    room_id: str
    home: str | None
    has_members: bool


class Outside(NamedTuple):
    """That somebody at home elsewhere is invited to a room, or knocks at it."""

    user_id: str
    room_nid: int
    room_id: str
    home: str | None
    event_nid: int


async def rooms_with(tx: Transaction, other: str, after: int) -> list[Held]:
    """The rooms behind a row id of which this node has a replica."""
    rows = await tx.all(
        "SELECT r.room_nid, r.room_id, r.home, EXISTS (SELECT 1 FROM room_nodes n WHERE n.room_nid = r.room_nid"
        " AND n.node = ? AND n.members > 0) FROM rooms r WHERE r.room_nid > ? AND r.state_group IS NOT NULL"
        " ORDER BY r.room_nid LIMIT ?",
        other,
        after,
        AT_ONCE,
    )
    return [Held(row[0], row[1], row[2], bool(row[3])) for row in rows]


async def last_membership(tx: Transaction, room_nid: int, user_ids: Collection[str]) -> int | None:
    """Where in a room's timeline the memberships of some users were said last; None without any."""
    marks = ",".join("?" * len(user_ids))
    row = await tx.one(
        "SELECT MAX(m.pos) FROM memberships m JOIN users u ON u.user_nid = m.user_nid"
        f" WHERE m.room_nid = ? AND u.user_id IN ({marks})",
        room_nid,
        *user_ids,
    )
    return None if row is None or row[0] is None else int(row[0])


async def outside(tx: Transaction) -> list[Outside]:
    """Who is outside a room of which this node has a replica and may come in, and is no resident."""
    rows = await tx.all(
        "SELECT u.user_id, m.room_nid, r.room_id, r.home, m.event_nid FROM memberships m"
        " JOIN rooms r ON r.room_nid = m.room_nid JOIN users u ON u.user_nid = m.user_nid"
        " LEFT JOIN residents s ON s.user_nid = m.user_nid"
        " WHERE m.membership IN ('invite', 'knock') AND r.state_group IS NOT NULL AND s.user_nid IS NULL"
    )
    return [Outside(*row) for row in rows]


async def own_outside(tx: Transaction) -> list[tuple[str, str, str]]:
    """The residents who are outside a room: user id, room id, and the id of the event that says so."""
    rows = await tx.all(
        "SELECT u.user_id, r.room_id, e.event_id FROM memberships m JOIN residents s ON s.user_nid = m.user_nid"
        " JOIN users u ON u.user_nid = m.user_nid JOIN rooms r ON r.room_nid = m.room_nid"
        " JOIN events e ON e.event_nid = m.event_nid WHERE m.membership IN ('invite', 'knock')"
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def membership_event(tx: Transaction, room_id: str, user_id: str) -> int | None:
    """The row id of the event that says what somebody is to a room of which this node has a replica."""
    row = await tx.one(
        "SELECT m.event_nid FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid"
        " JOIN users u ON u.user_nid = m.user_nid"
        " WHERE r.room_id = ? AND u.user_id = ? AND r.state_group IS NOT NULL",
        room_id,
        user_id,
    )
    return None if row is None else int(row[0])


async def tell_keys(tx: Transaction, other: str, kind: str) -> None:
    """Ask for all residents whose public keys another node was given to be told of there. ``kind`` of chore."""
    rows = await tx.all("SELECT user_nid FROM key_holders WHERE node = ?", other)
    for row in rows:
        chores.ask(tx, kind, row[0])
