"""The threads that residents follow, and those that they have said not to follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Subscription(NamedTuple):
    """What somebody said of a thread last, and at which position. ``automatic``: their client said it for them."""

    pos: int
    subscribed: bool
    automatic: bool


class Change(NamedTuple):
    """A `Subscription`, with its thread."""

    room_id: str
    root_id: str
    held: Subscription


@asks_once
async def find(tx: Transaction, user_nid: int, room_nid: int, root_id: str) -> Subscription | None:
    """What a resident said of a thread last; None: nothing yet."""
    row = await tx.one(
        "SELECT pos, subscribed, automatic FROM thread_subscriptions"
        " WHERE user_nid = ? AND room_nid = ? AND root_id = ?",
        user_nid,
        room_nid,
        root_id,
    )
    return None if row is None else Subscription(row[0], bool(row[1]), bool(row[2]))


@asks_once
async def followed(tx: Transaction, user_nid: int, room_nid: int) -> list[str]:
    """The roots of the threads of a room that a resident follows."""
    rows = await tx.all(
        "SELECT root_id FROM thread_subscriptions WHERE user_nid = ? AND room_nid = ? AND subscribed = 1",
        user_nid,
        room_nid,
    )
    return [row[0] for row in rows]


def put(tx: Transaction, user_nid: int, room_nid: int, root_id: str, said: Subscription) -> None:
    """Queue what a resident says of a thread."""
    tx.later(
        "INSERT INTO thread_subscriptions (user_nid, room_nid, root_id, pos, subscribed, automatic)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user_nid, room_nid, root_id) DO UPDATE SET"
        " pos = excluded.pos, subscribed = excluded.subscribed, automatic = excluded.automatic",
        [(user_nid, room_nid, root_id, said.pos, int(said.subscribed), int(said.automatic))],
    )


@asks_once
async def changes(tx: Transaction, user_nid: int, after: int, before: int, limit: int) -> list[Change]:
    """What a resident said last of each thread, between two positions, the newest first."""
    rows = await tx.all(
        "SELECT r.room_id, t.root_id, t.pos, t.subscribed, t.automatic FROM thread_subscriptions t"
        " JOIN rooms r ON r.room_nid = t.room_nid WHERE t.user_nid = ? AND t.pos > ? AND t.pos < ?"
        " ORDER BY t.pos DESC LIMIT ?",
        user_nid,
        after,
        before,
        limit,
    )
    return [Change(row[0], row[1], Subscription(row[2], bool(row[3]), bool(row[4]))) for row in rows]
