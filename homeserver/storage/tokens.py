"""Access and refresh tokens, kept as hashes only.

A used refresh token stays until what it bought is used for the first time, so that a client that never got the
answer can ask again. spec: client-server-api/#refreshing-access-tokens
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Session(NamedTuple):
    """What an access token stands for. ``refresh_hash``: the refresh token that bought it, until it is used."""

    user_id: str
    user_nid: int
    device_id: str
    device_nid: int
    expires_ts: int | None
    refresh_hash: bytes | None
    admin: bool
    guest: bool
    locked: bool
    suspended: bool
    oauth: bool
    epoch: int = 0
    came_pos: int = 0


class Refresh(NamedTuple):
    """What a refresh token stands for. ``client_id`` and ``scope`` are those of an OAuth session."""

    user_id: str
    user_nid: int
    device_id: str
    device_nid: int
    expires_ts: int | None
    client_id: str | None
    scope: str | None
    locked: bool


@asks_once
async def find_access(tx: Transaction, token_hash: bytes) -> Session | None:
    """The session of an access token, expired ones included."""
    row = await tx.one(
        "SELECT u.user_id, t.user_nid, d.device_id, t.device_nid, t.expires_ts, t.refresh_hash,"
        " a.admin, a.guest, a.locked, a.suspended, o.client_id IS NOT NULL,"
        " (SELECT COUNT(*) FROM earlier_homes h WHERE h.user_nid = t.user_nid),"
        " (SELECT COALESCE(MAX(h.came_pos), 0) FROM earlier_homes h WHERE h.user_nid = t.user_nid)"
        " FROM access_tokens t JOIN devices d USING (device_nid)"
        " JOIN accounts a ON a.user_nid = t.user_nid JOIN users u ON u.user_nid = t.user_nid"
        " LEFT JOIN oauth_sessions o ON o.device_nid = t.device_nid WHERE t.token_hash = ?",
        token_hash,
    )
    return None if row is None else Session(*row[:6], *map(bool, row[6:11]), *row[11:])


async def find_refresh(tx: Transaction, token_hash: bytes) -> Refresh | None:
    """What a refresh token stands for, expired ones included."""
    row = await tx.one(
        "SELECT u.user_id, t.user_nid, d.device_id, t.device_nid, t.expires_ts, o.client_id, o.scope, a.locked"
        " FROM refresh_tokens t JOIN devices d USING (device_nid)"
        " JOIN accounts a ON a.user_nid = t.user_nid JOIN users u ON u.user_nid = t.user_nid"
        " LEFT JOIN oauth_sessions o ON o.device_nid = t.device_nid WHERE t.token_hash = ?",
        token_hash,
    )
    return None if row is None else Refresh(row[0], row[1], row[2], row[3], row[4], row[5], row[6], bool(row[7]))


def put_access(
    tx: Transaction,
    token_hash: bytes,
    user_nid: int,
    device_nid: int,
    expires_ts: int | None,
    refresh_hash: bytes | None = None,
) -> None:
    """Queue a new access token; ``refresh_hash`` is the refresh token that bought it."""
    tx.later(
        "INSERT INTO access_tokens (token_hash, user_nid, device_nid, expires_ts, refresh_hash) VALUES (?, ?, ?, ?, ?)",
        [(token_hash, user_nid, device_nid, expires_ts, refresh_hash)],
    )


def put_refresh(tx: Transaction, token_hash: bytes, user_nid: int, device_nid: int, expires_ts: int | None) -> None:
    """Queue a new refresh token."""
    tx.later(
        "INSERT INTO refresh_tokens (token_hash, user_nid, device_nid, expires_ts) VALUES (?, ?, ?, ?)",
        [(token_hash, user_nid, device_nid, expires_ts)],
    )


def take_back(tx: Transaction, refresh_hash: bytes) -> None:
    """Queue that whatever a refresh token has bought before is void: it was never used, and is bought again."""
    tx.later("DELETE FROM access_tokens WHERE refresh_hash = ?", [(refresh_hash,)])
    tx.later(
        "DELETE FROM refresh_tokens WHERE token_hash = (SELECT next_hash FROM refresh_tokens WHERE token_hash = ?)",
        [(refresh_hash,)],
    )


def set_bought(tx: Transaction, refresh_hash: bytes, next_hash: bytes) -> None:
    """Queue which refresh token comes after this one."""
    tx.later("UPDATE refresh_tokens SET next_hash = ? WHERE token_hash = ?", [(next_hash, refresh_hash)])


def revoke_used(tx: Transaction, refresh_hash: bytes) -> None:
    """Queue that a refresh token is gone, since what it bought has been used."""
    tx.later("DELETE FROM refresh_tokens WHERE token_hash = ?", [(refresh_hash,)])
    tx.later("UPDATE access_tokens SET refresh_hash = NULL WHERE refresh_hash = ?", [(refresh_hash,)])


async def predecessors(tx: Transaction, next_hash: bytes) -> list[bytes]:
    """The refresh tokens that were exchanged for this one and are still there."""
    return [row[0] for row in await tx.all("SELECT token_hash FROM refresh_tokens WHERE next_hash = ?", next_hash)]


def drop_expired(tx: Transaction, device_nid: int, before_ms: int) -> None:
    """Queue the deletion of a device's access tokens that expired before then."""
    tx.later("DELETE FROM access_tokens WHERE device_nid = ? AND expires_ts < ?", [(device_nid, before_ms)])


def drop_device(tx: Transaction, device_nid: int) -> None:
    """Queue the deletion of all tokens of a device."""
    tx.later("DELETE FROM access_tokens WHERE device_nid = ?", [(device_nid,)])
    tx.later("DELETE FROM refresh_tokens WHERE device_nid = ?", [(device_nid,)])
