"""Which resident a provider of identities means by a subject. The row outlives the account, so that one that was closed
is not opened anew by signing in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Meant(NamedTuple):
    """Whom a subject means, and whether they may sign in."""

    user_id: str
    user_nid: int
    locked: bool
    deactivated: bool


async def find(tx: Transaction, provider: str, subject: str) -> Meant | None:
    """Whom a subject means."""
    row = await tx.one(
        "SELECT u.user_id, i.user_nid, a.locked, a.deactivated_ts IS NOT NULL FROM upstream_identities i"
        " JOIN users u USING (user_nid) JOIN accounts a ON a.user_nid = i.user_nid"
        " WHERE i.provider = ? AND i.subject = ?",
        provider,
        subject,
    )
    return None if row is None else Meant(row[0], row[1], bool(row[2]), bool(row[3]))


async def put(tx: Transaction, provider: str, subject: str, user_nid: int) -> bool:
    """Say whom a subject means; False when that was said."""
    made = await tx.run(
        "INSERT INTO upstream_identities (provider, subject, user_nid) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        provider,
        subject,
        user_nid,
    )
    return made == 1
