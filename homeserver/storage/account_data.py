"""Account data of residents: JSON that a user's clients keep, for the account (room_nid 0) or for one room."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction

GLOBAL = 0
"""The room_nid of what concerns no room."""


DELETED = b"{ }"
"""What an entry that has been deleted holds, so that clients are told: an empty object, as nobody else writes it."""


class Entry(NamedTuple):
    """One entry. ``content`` is JSON bytes."""

    room_nid: int
    type: str
    content: bytes
    pos: int


async def put(tx: Transaction, user_nid: int, room_nid: int, kind: str, content: bytes, pos: int) -> None:
    """Set an entry at a position. Only inside `Node.advance`."""
    tx.later(
        "INSERT INTO account_data (user_nid, room_nid, type, content, pos) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (user_nid, room_nid, type) DO UPDATE SET content = excluded.content, pos = excluded.pos",
        [(user_nid, room_nid, kind, content, pos)],
    )


@asks_once
async def find(tx: Transaction, user_nid: int, room_nid: int, kind: str) -> bytes | None:
    """The content of an entry; None when there is none, or it has been deleted."""
    row = await tx.one(
        "SELECT content FROM account_data WHERE user_nid = ? AND room_nid = ? AND type = ?", user_nid, room_nid, kind
    )
    return None if row is None or row[0] == DELETED else row[0]


@asks_once
async def of_types(tx: Transaction, user_nid: int, kinds: Sequence[str]) -> dict[str, bytes]:
    """The contents of those entries of an account that are there, by type, in the order of these."""
    marks = ",".join("?" * len(kinds))
    rows = await tx.all(
        f"SELECT type, content FROM account_data WHERE user_nid = ? AND room_nid = ? AND type IN ({marks})"
        " ORDER BY type",
        user_nid,
        GLOBAL,
        *kinds,
    )
    return {kind: content for kind, content in rows if content != DELETED}


@asks_once
async def since(tx: Transaction, user_nid: int, after: int, upto: int) -> list[Entry]:
    """The entries that were set, or deleted, behind ``after``, up to and with ``upto``."""
    rows = await tx.all(
        "SELECT room_nid, type, content, pos FROM account_data"
        " WHERE user_nid = ? AND pos > ? AND pos <= ? ORDER BY pos",
        user_nid,
        after,
        upto,
    )
    found = [Entry(*row) for row in rows]
    return found if after else [entry for entry in found if entry.content != DELETED]  # who knows nothing lacks nothing


async def room_of(tx: Transaction, user_nid: int, room_id: str) -> int | None:
    """The row id of a room that the user has ever been in or invited to."""
    row = await tx.one(
        "SELECT r.room_nid FROM rooms r JOIN memberships m USING (room_nid) WHERE r.room_id = ? AND m.user_nid = ?",
        room_id,
        user_nid,
    )
    return None if row is None else int(row[0])
