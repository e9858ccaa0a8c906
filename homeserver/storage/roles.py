"""Which residents administer the deployment, and as what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


@asks_once
async def of_user(tx: Transaction, user_nid: int) -> tuple[bool, set[str]]:
    """Whether a resident is an operator, and the other roles that they have. Nothing for a closed account."""
    rows = await tx.all(
        "SELECT a.admin, r.role FROM accounts a LEFT JOIN roles r ON r.user_nid = a.user_nid"
        " WHERE a.user_nid = ? AND a.deactivated_ts IS NULL",
        user_nid,
    )
    return any(row[0] for row in rows), {str(row[1]) for row in rows if row[1] is not None}


async def give(tx: Transaction, user_nid: int, role: str, now_ms: int) -> None:
    """Give a resident a role, which they may have already."""
    await tx.run(
        "INSERT INTO roles (user_nid, role, given_ts) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", user_nid, role, now_ms
    )


async def take(tx: Transaction, user_nid: int, role: str) -> bool:
    """Take a role from a resident; False when they did not have it."""
    return await tx.run("DELETE FROM roles WHERE user_nid = ? AND role = ?", user_nid, role) > 0


@asks_once
async def everybody(tx: Transaction) -> list[tuple[str, bool, str | None]]:
    """All residents who have a role: (user id, whether an operator, another role), a row for each other role."""
    rows = await tx.all(
        "SELECT u.user_id, a.admin, r.role FROM accounts a JOIN users u ON u.user_nid = a.user_nid"
        " LEFT JOIN roles r ON r.user_nid = a.user_nid"
        " WHERE a.deactivated_ts IS NULL AND (a.admin <> 0 OR r.role IS NOT NULL) ORDER BY u.user_id, r.role"
    )
    return [(str(row[0]), bool(row[1]), None if row[2] is None else str(row[2])) for row in rows]
