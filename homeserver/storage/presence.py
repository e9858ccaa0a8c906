"""What is kept of a resident's presence: the last state, status message and activity. The rest is in memory.

spec: client-server-api/#presence
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class StoredPresence(NamedTuple):
    """A resident's presence as it was kept. ``last_active_ts``: milliseconds since 1970."""

    presence: str
    status_msg: str | None
    last_active_ts: int


async def find(tx: Transaction, user_nid: int) -> StoredPresence | None:
    """What was kept for a resident."""
    row = await tx.one("SELECT presence, status_msg, last_active_ts FROM presence WHERE user_nid = ?", user_nid)
    return None if row is None else StoredPresence(*row)


async def put(tx: Transaction, user_nid: int, kept: StoredPresence) -> None:
    """Keep a resident's presence."""
    await tx.run(
        "INSERT INTO presence (user_nid, presence, status_msg, last_active_ts) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET presence = excluded.presence, status_msg = excluded.status_msg,"
        " last_active_ts = excluded.last_active_ts",
        user_nid,
        *kept,
    )


async def of_user(tx: Transaction, user_id: str) -> StoredPresence | None:
    """What was kept for a resident, by user id."""
    row = await tx.one(
        "SELECT p.presence, p.status_msg, p.last_active_ts FROM presence p JOIN users u USING (user_nid)"
        " WHERE u.user_id = ?",
        user_id,
    )
    return None if row is None else StoredPresence(*row)
