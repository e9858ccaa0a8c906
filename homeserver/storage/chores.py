"""Work that one service asks of another above it, by a row instead of a call: it is done even after a crash.

Whoever asks writes the row in the transaction that makes the work necessary; the job of that kind does it, at least
once, and then deletes the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction


class Chore(NamedTuple):
    """One piece of work. ``user_nid`` is the resident whom it is about; ``body`` is JSON bytes."""

    chore_nid: int
    user_nid: int
    user_id: str
    body: bytes


def ask(tx: Transaction, kind: str, user_nid: int, body: bytes = b"{}") -> None:
    """Queue a chore; whoever asks wakes its job after the commit (``server.wakeups.wake(key(node.name, kind))``)."""
    tx.later("INSERT INTO chores (kind, user_nid, body) VALUES (?, ?, ?)", [(kind, user_nid, body)])


def ask_of_guests(tx: Transaction, kind: str, room_nids: Sequence[int]) -> None:
    """Queue a chore for each resident who is a guest and has joined one of the rooms."""
    tx.later(
        "INSERT INTO chores (kind, user_nid, body) SELECT ?, m.user_nid, ? FROM memberships m"
        " JOIN accounts a ON a.user_nid = m.user_nid WHERE m.room_nid = ? AND m.membership = 'join' AND a.guest = 1",
        [(kind, b"{}", room_nid) for room_nid in room_nids],
    )


def key(node: str, kind: str) -> tuple[str, str, str]:
    """What the job of a kind waits for in ``server.wakeups``."""
    return ("chore", node, kind)


async def waiting(tx: Transaction, kind: str, limit: int, after: int = 0) -> list[Chore]:
    """The oldest chores of a kind behind the row id ``after``."""
    rows = await tx.all(
        "SELECT c.chore_nid, c.user_nid, u.user_id, c.body FROM chores c JOIN users u USING (user_nid)"
        " WHERE c.kind = ? AND c.chore_nid > ? ORDER BY c.chore_nid LIMIT ?",
        kind,
        after,
        limit,
    )
    return [Chore(*row) for row in rows]


async def of(tx: Transaction, kind: str, user_nid: int) -> list[Chore]:
    """All chores of a kind that are about one resident."""
    rows = await tx.all(
        "SELECT c.chore_nid, c.user_nid, u.user_id, c.body FROM chores c JOIN users u USING (user_nid)"
        " WHERE c.kind = ? AND c.user_nid = ? ORDER BY c.chore_nid",
        kind,
        user_nid,
    )
    return [Chore(*row) for row in rows]


async def kinds_of(tx: Transaction, user_nid: int) -> list[str]:
    """The kinds of the chores that are about a resident."""
    return [str(row[0]) for row in await tx.all("SELECT DISTINCT kind FROM chores WHERE user_nid = ?", user_nid)]


async def done(tx: Transaction, chore_nids: Collection[int]) -> None:
    """Delete chores that have been done."""
    await tx.many("DELETE FROM chores WHERE chore_nid = ?", [(chore_nid,) for chore_nid in chore_nids])
