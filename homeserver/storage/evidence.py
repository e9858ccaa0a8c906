"""What a node's database says of its residents as a whole, page by page: why they are here, and whence they came."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Resting(NamedTuple):
    """A resident, and why they were pinned: see `storage.pins`; None for who came before evidence was kept."""

    user_nid: int
    user_id: str
    how: str | None
    rule: str | None
    ts: int | None


@asks_once
async def residents(tx: Transaction, after: int, limit: int) -> list[Resting]:
    """Residents by row id, behind ``after``."""
    rows = await tx.all(
        "SELECT r.user_nid, u.user_id, p.how, p.rule, p.ts FROM residents r JOIN users u ON u.user_nid = r.user_nid"
        " LEFT JOIN pins p ON p.user_nid = r.user_nid WHERE r.user_nid > ? ORDER BY r.user_nid LIMIT ?",
        after,
        limit,
    )
    return [Resting(*row) for row in rows]


@asks_once
async def receipts(tx: Transaction, after: int, last: int) -> list[tuple[int, bytes]]:
    """Receipts of moves of the residents behind ``after`` up to ``last``: row id and receipt, the oldest of each
    first."""
    rows = await tx.all(
        "SELECT user_nid, receipt FROM move_receipts WHERE user_nid > ? AND user_nid <= ?"
        " ORDER BY user_nid, ended_ts, move_id",
        after,
        last,
    )
    return [(row[0], bytes(row[1])) for row in rows]
