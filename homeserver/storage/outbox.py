"""Traffic between the nodes of a deployment: what waits to be shipped, and what has been applied.

A row enters the outbox in the transaction that makes it true, and its position marks it as applied on the other
node in the transaction that applies it there: so it happens once, whenever either of them is killed. One whose
position is below zero is held back (rooms/lanes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction


Lane = int | str
"""What keeps its order: a room by its row id, or what belongs to no room by its kind."""


class Parcel(NamedTuple):
    """One row of the outbox. ``kind`` says how ``body`` is read (rooms/replicas.py)."""

    pos: int
    kind: str
    room_nid: int | None
    event_nid: int | None
    body: bytes | None


class NewParcel(NamedTuple):
    """What is to be shipped to ``destination``; its position is taken when it is written."""

    destination: str
    kind: str
    room_nid: int | None = None
    event_nid: int | None = None
    body: bytes | None = None


def lane_of(parcel: Parcel) -> Lane:
    """The lane that a parcel is in."""
    return parcel.kind if parcel.room_nid is None else parcel.room_nid


def put(tx: Transaction, first: int, parcels: Sequence[NewParcel]) -> None:
    """Queue parcels at the positions ``first``, ``first + 1``, …"""
    tx.later(
        "INSERT INTO outbox (pos, destination, kind, room_nid, event_nid, body) VALUES (?, ?, ?, ?, ?, ?)",
        [(first + offset, *parcel) for offset, parcel in enumerate(parcels)],
    )


async def waiting(tx: Transaction, destination: str, after: int, limit: int) -> list[Parcel]:
    """The oldest parcels for a node with a position above ``after``."""
    rows = await tx.all(
        "SELECT pos, kind, room_nid, event_nid, body FROM outbox WHERE destination = ? AND pos > ?"
        " ORDER BY pos LIMIT ?",
        destination,
        after,
        limit,
    )
    return [Parcel(*row) for row in rows]


async def waiting_of_kinds(tx: Transaction, destination: str, kind: str, moving: str) -> tuple[bool, bool]:
    """Whether parcels of one kind wait for a node, and whether parcels of another one do that are not held back."""
    row = await tx.one(
        "SELECT EXISTS (SELECT 1 FROM outbox WHERE destination = ? AND kind = ?),"
        " EXISTS (SELECT 1 FROM outbox WHERE destination = ? AND kind = ? AND pos > 0)",
        destination,
        kind,
        destination,
        moving,
    )
    return (False, False) if row is None else (bool(row[0]), bool(row[1]))


async def depth(tx: Transaction) -> dict[str, int]:
    """How many parcels wait for each node."""
    rows = await tx.all("SELECT destination, COUNT(*) FROM outbox GROUP BY destination")
    return {row[0]: row[1] for row in rows}


async def held_back(tx: Transaction) -> dict[str, int]:
    """How many parcels are held back from each node."""
    rows = await tx.all("SELECT destination, COUNT(*) FROM outbox WHERE pos < 0 GROUP BY destination")
    return {row[0]: row[1] for row in rows}


async def forget(tx: Transaction, destination: str) -> None:
    """Drop all parcels for a node that is no more."""
    await tx.run("DELETE FROM outbox WHERE destination = ?", destination)


async def clear(tx: Transaction, destination: str, upto: int) -> None:
    """Drop the parcels that the destination has applied."""
    await tx.run("DELETE FROM outbox WHERE destination = ? AND pos > 0 AND pos <= ?", destination, upto)


async def move(tx: Transaction, places: Sequence[tuple[int, int]]) -> None:
    """Give parcels other positions: (position, new position). Below zero: they are held back."""
    await tx.many("UPDATE outbox SET pos = ? WHERE pos = ?", [(new, old) for old, new in places])


async def held(tx: Transaction, destination: str) -> dict[Lane, str]:
    """What is held back from a node: by lane, the kind of its oldest parcel."""
    rows = await tx.all(
        "SELECT room_nid, kind, MAX(pos) FROM outbox WHERE destination = ? AND pos < 0 GROUP BY room_nid, kind",
        destination,
    )
    oldest: dict[Lane, tuple[int, str]] = {}
    for room_nid, kind, pos in rows:
        lane = kind if room_nid is None else room_nid
        oldest[lane] = max(oldest.get(lane, (pos, kind)), (pos, kind))
    return {lane: kind for lane, (_, kind) in oldest.items()}


async def of_lane(tx: Transaction, destination: str, lane: Lane, after: int) -> list[int]:
    """The positions of a lane's parcels, those that are held back and those that wait behind ``after``, in order."""
    which = "room_nid = ?" if isinstance(lane, int) else "room_nid IS NULL AND kind = ?"
    rows = await tx.all(
        f"SELECT pos FROM outbox WHERE destination = ? AND (pos < 0 OR pos > ?) AND {which} ORDER BY ABS(pos)",
        destination,
        after,
        lane,
    )
    return [int(row[0]) for row in rows]


async def applied(tx: Transaction, source: str) -> int:
    """How far the outbox of another node has been applied on this one."""
    row = await tx.one("SELECT pos FROM inbox WHERE source = ?", source)
    return 0 if row is None else int(row[0])


def set_applied(tx: Transaction, source: str, pos: int) -> None:
    """Queue that the outbox of ``source`` has been applied up to ``pos``."""
    tx.later(
        "INSERT INTO inbox (source, pos) VALUES (?, ?) ON CONFLICT (source) DO UPDATE SET pos = excluded.pos",
        [(source, pos)],
    )
