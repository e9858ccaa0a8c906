"""Profile fields of residents. ``value`` is JSON bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


@asks_once
async def of_user(tx: Transaction, user_id: str) -> dict[str, bytes] | None:
    """All fields of a resident whose account lives; None when there is no such account."""
    rows = await tx.all(
        "SELECT p.field, p.value FROM users u JOIN accounts a USING (user_nid) LEFT JOIN profiles p USING (user_nid)"
        " WHERE u.user_id = ? AND a.deactivated_ts IS NULL ORDER BY p.field",
        user_id,
    )
    if not rows:
        return None
    return {field: value for field, value in rows if field is not None}


async def fields(tx: Transaction, user_nid: int) -> dict[str, bytes]:
    """All fields of a resident."""
    rows = await tx.all("SELECT field, value FROM profiles WHERE user_nid = ?", user_nid)
    return dict(rows)


def put(tx: Transaction, user_nid: int, field: str, value: bytes) -> None:
    """Queue that a field has a value."""
    tx.later(
        "INSERT INTO profiles (user_nid, field, value) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid, field) DO UPDATE SET value = excluded.value",
        [(user_nid, field, value)],
    )


async def delete(tx: Transaction, user_nid: int, field: str) -> bool:
    """Remove a field; False when it was not there."""
    return await tx.run("DELETE FROM profiles WHERE user_nid = ? AND field = ?", user_nid, field) == 1
