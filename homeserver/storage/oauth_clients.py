"""Clients that registered to sign users in, in the deployment's directory database: they are about nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Client(NamedTuple):
    """A registered client. ``metadata`` is JSON bytes."""

    client_id: str
    metadata: bytes
    registered_ts: int


async def put(tx: Transaction, client: Client, unused_before: int, most: int) -> None:
    """Keep a client, or that it has registered again.

    Of those with which nobody ever signed in, what registered before that time (ms) goes, and the oldest beyond
    ``most``.
    """
    tx.later("DELETE FROM oauth_clients WHERE used_ts IS NULL AND registered_ts < ?", [(unused_before,)])
    tx.later(
        "DELETE FROM oauth_clients WHERE used_ts IS NULL AND registered_ts <= (SELECT registered_ts FROM oauth_clients"
        " WHERE used_ts IS NULL AND registered_ts > 0 ORDER BY registered_ts DESC LIMIT 1 OFFSET ?)",
        [(most - 1,)],
    )
    await tx.run(
        "INSERT INTO oauth_clients (client_id, metadata, registered_ts) VALUES (?, ?, ?)"
        " ON CONFLICT (client_id) DO UPDATE SET registered_ts = excluded.registered_ts",
        *client,
    )


async def find(tx: Transaction, client_id: str) -> Client | None:
    """One client."""
    row = await tx.one("SELECT client_id, metadata, registered_ts FROM oauth_clients WHERE client_id = ?", client_id)
    return None if row is None else Client(*row)


async def note_use(tx: Transaction, client_id: str, now_ms: int) -> None:
    """Somebody signs in with the client."""
    await tx.run("UPDATE oauth_clients SET used_ts = ? WHERE client_id = ?", now_ms, client_id)


async def idle(tx: Transaction, before_ms: int, limit: int) -> list[str]:
    """Clients with which nobody has signed in since then, the longest unused first."""
    rows = await tx.all(
        "SELECT client_id FROM oauth_clients WHERE used_ts IS NOT NULL AND used_ts < ? ORDER BY used_ts LIMIT ?",
        before_ms,
        limit,
    )
    return [str(row[0]) for row in rows]


async def delete(tx: Transaction, client_id: str, before_ms: int) -> None:
    """Forget a client unless somebody has signed in with it since then."""
    await tx.run("DELETE FROM oauth_clients WHERE client_id = ? AND used_ts < ?", client_id, before_ms)
