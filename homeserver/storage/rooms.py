"""Rooms of one node: their row, members, the nodes that hold replicas, aliases, what the invited may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once
from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Row, Transaction


class StoredRoom(NamedTuple):
    """A room's row. ``state_group`` is None while the node knows it only from invitations.

    ``tips``: event ids of the forward extremities. ``history_before``: position at the home node before which events
    have yet to be copied here; None when the replica is whole.
    """

    room_nid: int
    room_id: str
    version: str
    home: str | None
    tips: tuple[str, ...]
    state_group: int | None
    published: bool
    history_before: int | None


class StoredMembership(NamedTuple):
    """A user's membership in a room, and the position at which it came to be."""

    room_nid: int
    room_id: str
    membership: str
    event_nid: int
    pos: int


_ROOM = "room_nid, room_id, version, home, tips, state_group, published, history_before"


def _room(row: Row) -> StoredRoom:
    room_nid, room_id, version, home, tips, state_group, published, history_before = row
    return StoredRoom(
        room_nid, room_id, version, home, tuple(tips.split()), state_group, bool(published), history_before
    )


async def create(tx: Transaction, room_id: str, version: str, home: str | None) -> int:
    """Make a room known to this node, if it is not; returns its row id."""
    await tx.run(
        "INSERT INTO rooms (room_id, version, home) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", room_id, version, home
    )
    row = await tx.one("SELECT room_nid FROM rooms WHERE room_id = ?", room_id)
    assert row is not None
    return int(row[0])


async def find(tx: Transaction, room_id: str) -> StoredRoom | None:
    """A room that this node knows."""
    row = await tx.one(f"SELECT {_ROOM} FROM rooms WHERE room_id = ?", room_id)
    return None if row is None else _room(row)


async def by_nid(tx: Transaction, room_nid: int) -> StoredRoom:
    """A room by its row id."""
    row = await tx.one(f"SELECT {_ROOM} FROM rooms WHERE room_nid = ?", room_nid)
    assert row is not None
    return _room(row)


async def unfinished(tx: Transaction) -> list[StoredRoom]:
    """The replicas of which older history has yet to be copied."""
    return [_room(row) for row in await tx.all(f"SELECT {_ROOM} FROM rooms WHERE history_before IS NOT NULL")]


async def ids(tx: Transaction, room_nids: Collection[int]) -> dict[int, str]:
    """Room ids by row id."""
    if not room_nids:
        return {}
    marks = ",".join("?" * len(room_nids))
    rows = await tx.all(f"SELECT room_nid, room_id FROM rooms WHERE room_nid IN ({marks})", *room_nids)
    return {row[0]: row[1] for row in rows}


async def drop_empty(tx: Transaction, room_nid: int) -> None:
    """Take out the row of a room that never came to be."""
    await tx.run("DELETE FROM rooms WHERE room_nid = ? AND state_group IS NULL", room_nid)


def advance(tx: Transaction, room_nid: int, tips: Sequence[str], state_group: int | None) -> None:
    """Queue the room's new forward extremities and the snapshot of its current state."""
    tx.later("UPDATE rooms SET tips = ?, state_group = ? WHERE room_nid = ?", [(" ".join(tips), state_group, room_nid)])


def set_home(tx: Transaction, room_nid: int, home: str | None) -> None:
    """Queue which node orders the room; None: no node that there is."""
    tx.later("UPDATE rooms SET home = ? WHERE room_nid = ?", [(home, room_nid)])


def set_history_before(tx: Transaction, room_nid: int, before: int | None) -> None:
    """Queue how far the copying of older history has come."""
    tx.later("UPDATE rooms SET history_before = ? WHERE room_nid = ?", [(before, room_nid)])


async def publish(tx: Transaction, room_nid: int, published: bool) -> None:
    """Put a room in the room directory, or take it out."""
    await tx.run("UPDATE rooms SET published = ? WHERE room_nid = ?", int(published), room_nid)


# members ------------------------------------------------------------------------------------


def set_membership(tx: Transaction, rows: Sequence[tuple[str, int, str, int, int]]) -> None:
    """Queue memberships: (user id, room_nid, membership, row id of the event, pos)."""
    tx.later(
        f"INSERT INTO memberships (user_nid, room_nid, membership, event_nid, pos) VALUES ({NID_OF}, ?, ?, ?, ?)"
        " ON CONFLICT (user_nid, room_nid) DO UPDATE SET membership = excluded.membership,"
        " event_nid = excluded.event_nid, pos = excluded.pos",
        rows,
    )
    tx.later(  # who comes back, or is asked back, has not forgotten the room
        "DELETE FROM forgotten_rooms WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = ?) AND room_nid = ?",
        [(user, room) for user, room, membership, *_ in rows if membership != "leave"],
    )


def all_left(tx: Transaction, room_nid: int, pos: int) -> None:
    """Queue that nobody is in a room, before those who are, are written. What residents were invited to, or knocked at,
    by events of which the room may know nothing, is theirs to refuse or take back."""
    tx.later(
        "UPDATE memberships SET membership = 'leave', pos = ? WHERE room_nid = ? AND membership <> 'leave'"
        " AND NOT (membership IN ('invite', 'knock') AND user_nid IN (SELECT user_nid FROM residents))",
        [(pos, room_nid)],
    )


@asks_once
async def memberships_of(tx: Transaction, user_nid: int) -> list[StoredMembership]:
    """All rooms in which a user has a membership, without those that they forgot."""
    rows = await tx.all(
        "SELECT m.room_nid, r.room_id, m.membership, m.event_nid, m.pos"
        " FROM memberships m JOIN rooms r USING (room_nid)"
        " WHERE m.user_nid = ? AND NOT EXISTS (SELECT 1 FROM forgotten_rooms f"
        " WHERE f.user_nid = m.user_nid AND f.room_nid = m.room_nid)",
        user_nid,
    )
    return [StoredMembership(*row) for row in rows]


@asks_once
async def last_places(tx: Transaction, user_nid: int, upto: int) -> list[tuple[int, str, int]]:
    """The rooms that a user has joined, and the place of the newest event up to a position: (room_nid, room id, pos).

    Rooms without such an event are left out. Costs a search in an index for each room.
    """
    rows = await tx.all(
        "SELECT m.room_nid, r.room_id, (SELECT MAX(e.pos) FROM events e WHERE e.room_nid = m.room_nid AND e.pos <= ?)"
        " FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid WHERE m.user_nid = ? AND m.membership = 'join'",
        upto,
        user_nid,
    )
    return [(row[0], row[1], row[2]) for row in rows if row[2] is not None]


async def members(tx: Transaction, room_nid: int) -> list[tuple[str, int, str, bool]]:
    """Everybody with a membership in a room: (user id, user_nid, membership, resident of this node)."""
    rows = await tx.all(
        "SELECT u.user_id, m.user_nid, m.membership, CASE WHEN s.user_nid IS NULL THEN 0 ELSE 1 END"
        " FROM memberships m JOIN users u ON u.user_nid = m.user_nid"
        " LEFT JOIN residents s ON s.user_nid = m.user_nid WHERE m.room_nid = ?",
        room_nid,
    )
    return [(user_id, user_nid, membership, bool(resident)) for user_id, user_nid, membership, resident in rows]


async def forget(tx: Transaction, user_nid: int, room_nid: int) -> None:
    """Take a room that the user has left out of their sight."""
    await tx.run(
        "INSERT INTO forgotten_rooms (user_nid, room_nid) VALUES (?, ?) ON CONFLICT DO NOTHING", user_nid, room_nid
    )


async def has_forgotten(tx: Transaction, user_nid: int, room_nid: int) -> bool:
    """Whether the user has forgotten the room."""
    row = await tx.one("SELECT 1 FROM forgotten_rooms WHERE user_nid = ? AND room_nid = ?", user_nid, room_nid)
    return row is not None


async def sharing(tx: Transaction, user_nid: int) -> list[int]:
    """Residents of this node who share a joined room with a user, themselves not included."""
    rows = await tx.all(
        "SELECT DISTINCT o.user_nid FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid"
        " JOIN residents r ON r.user_nid = o.user_nid"
        " WHERE m.user_nid = ? AND m.membership = 'join' AND o.membership = 'join' AND o.user_nid <> ?",
        user_nid,
        user_nid,
    )
    return [int(row[0]) for row in rows]


async def sharing_with(tx: Transaction, user_id: str) -> list[int]:
    """Residents of this node who share a joined room with a user, whoever that is; themselves not included."""
    rows = await tx.all(
        "SELECT DISTINCT o.user_nid FROM users u JOIN memberships m ON m.user_nid = u.user_nid"
        " JOIN memberships o ON o.room_nid = m.room_nid JOIN residents r ON r.user_nid = o.user_nid"
        " WHERE u.user_id = ? AND m.membership = 'join' AND o.membership = 'join' AND o.user_nid <> u.user_nid",
        user_id,
    )
    return [int(row[0]) for row in rows]


@asks_once
async def companions(tx: Transaction, user_nid: int) -> set[str]:
    """The user ids of everybody who shares a joined room with a user, themselves included."""
    rows = await tx.all(
        "SELECT DISTINCT u.user_id FROM memberships m JOIN memberships o ON o.room_nid = m.room_nid"
        " JOIN users u ON u.user_nid = o.user_nid"
        " WHERE m.user_nid = ? AND m.membership = 'join' AND o.membership = 'join'",
        user_nid,
    )
    return {str(row[0]) for row in rows}


async def shared(tx: Transaction, user_nid: int, other: str, after: str, limit: int) -> tuple[list[str], int]:
    """Rooms that a user and another one have joined: ``limit`` of them by room id, behind ``after``; and how many."""
    both = (
        " FROM users u JOIN memberships theirs ON theirs.user_nid = u.user_nid AND theirs.membership = 'join'"
        " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.user_nid = ? AND mine.membership = 'join'"
        " JOIN rooms r ON r.room_nid = mine.room_nid WHERE u.user_id = ?"
    )
    counted = await tx.one(f"SELECT COUNT(*){both}", user_nid, other)
    rows = await tx.all(
        f"SELECT r.room_id{both} AND r.room_id > ? ORDER BY r.room_id LIMIT ?", user_nid, other, after, limit
    )
    return [str(row[0]) for row in rows], 0 if counted is None else int(counted[0])


async def nodes_sharing(tx: Transaction, user_nid: int) -> list[str]:
    """The nodes with members in the rooms that a user has joined."""
    rows = await tx.all(
        "SELECT DISTINCT n.node FROM memberships m JOIN room_nodes n ON n.room_nid = m.room_nid"
        " WHERE m.user_nid = ? AND m.membership = 'join' AND n.members > 0",
        user_nid,
    )
    return [str(row[0]) for row in rows]


# replicas -----------------------------------------------------------------------------------


async def nodes(tx: Transaction, room_nid: int) -> dict[str, int]:
    """How many joined members of a room each node has."""
    rows = await tx.all("SELECT node, members FROM room_nodes WHERE room_nid = ? AND members > 0", room_nid)
    return {row[0]: row[1] for row in rows}


def clear_nodes(tx: Transaction, room_nid: int) -> None:
    """Queue that no node has members in a room."""
    tx.later("DELETE FROM room_nodes WHERE room_nid = ?", [(room_nid,)])


def set_nodes(tx: Transaction, rows: Sequence[tuple[int, str, int]]) -> None:
    """Queue counts of joined members: (room_nid, node, members)."""
    tx.later(
        "INSERT INTO room_nodes (room_nid, node, members) VALUES (?, ?, ?)"
        " ON CONFLICT (room_nid, node) DO UPDATE SET members = excluded.members",
        rows,
    )


# invitations --------------------------------------------------------------------------------


def invite(tx: Transaction, user_id: str, room_nid: int, state: bytes) -> None:
    """Queue what a resident who was invited, or knocks, may see: a JSON array of stripped state."""
    tx.later(
        f"INSERT INTO invitations (user_nid, room_nid, state) VALUES ({NID_OF}, ?, ?)"
        " ON CONFLICT (user_nid, room_nid) DO UPDATE SET state = excluded.state",
        [(user_id, room_nid, state)],
    )


async def invitations(tx: Transaction, user_nid: int, room_nids: Collection[int]) -> dict[int, bytes]:
    """Stripped state of rooms to which a resident is invited, or at which they knock."""
    if not room_nids:
        return {}
    marks = ",".join("?" * len(room_nids))
    rows = await tx.all(
        f"SELECT room_nid, state FROM invitations WHERE user_nid = ? AND room_nid IN ({marks})", user_nid, *room_nids
    )
    return {row[0]: row[1] for row in rows}


# aliases ------------------------------------------------------------------------------------


async def add_alias(tx: Transaction, alias: str, room_nid: int, creator: str) -> bool:
    """Point an alias to a room; False when it points somewhere already."""
    return (
        await tx.run(
            f"INSERT INTO aliases (alias, room_nid, creator_nid) VALUES (?, ?, {NID_OF}) ON CONFLICT DO NOTHING",
            alias,
            room_nid,
            creator,
        )
        == 1
    )


async def find_alias(tx: Transaction, alias: str) -> tuple[str, str] | None:
    """(room id, creator's user id) of an alias."""
    row = await tx.one(
        "SELECT r.room_id, u.user_id FROM aliases a JOIN rooms r USING (room_nid)"
        " JOIN users u ON u.user_nid = a.creator_nid WHERE a.alias = ?",
        alias,
    )
    return None if row is None else (row[0], row[1])


async def aliases(tx: Transaction, room_nid: int) -> list[str]:
    """The local aliases of a room."""
    return [row[0] for row in await tx.all("SELECT alias FROM aliases WHERE room_nid = ? ORDER BY alias", room_nid)]


async def networks(tx: Transaction, room_nid: int) -> list[str]:
    """The networks in whose directories application services have published a room."""
    return [str(row[0]) for row in await tx.all("SELECT network FROM network_rooms WHERE room_nid = ?", room_nid)]


async def hand_over_aliases(tx: Transaction, room_nid: int, heir_nid: int) -> None:
    """Point all aliases of a room to another one of this node."""
    await tx.run("UPDATE aliases SET room_nid = ? WHERE room_nid = ?", heir_nid, room_nid)


async def drop_alias(tx: Transaction, alias: str) -> bool:
    """Remove an alias; False when there was none."""
    return await tx.run("DELETE FROM aliases WHERE alias = ?", alias) == 1
