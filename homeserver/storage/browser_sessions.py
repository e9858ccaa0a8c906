"""Browsers in which residents are signed in to our pages, kept as digests of what the browser holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class BrowserSession(NamedTuple):
    """Who is signed in. ``confirmed_ts``: when they last proved to be it; times in milliseconds."""

    user_id: str
    user_nid: int
    has_password: bool
    suspended: bool
    confirmed_ts: int
    expires_ts: int


def put(tx: Transaction, session_hash: bytes, user_nid: int, confirmed_ts: int, expires_ts: int) -> None:
    """Queue a new one; those that have expired go."""
    tx.later("DELETE FROM browser_sessions WHERE expires_ts < ?", [(confirmed_ts,)])
    tx.later(
        "INSERT INTO browser_sessions (session_hash, user_nid, confirmed_ts, expires_ts) VALUES (?, ?, ?, ?)",
        [(session_hash, user_nid, confirmed_ts, expires_ts)],
    )


async def find(tx: Transaction, session_hash: bytes, now_ms: int) -> BrowserSession | None:
    """One that holds, of an account that does."""
    row = await tx.one(
        "SELECT u.user_id, b.user_nid, a.password_hash IS NOT NULL, a.suspended, b.confirmed_ts, b.expires_ts"
        " FROM browser_sessions b JOIN users u USING (user_nid) JOIN accounts a ON a.user_nid = b.user_nid"
        " WHERE b.session_hash = ? AND b.expires_ts > ? AND a.locked = 0 AND a.deactivated_ts IS NULL",
        session_hash,
        now_ms,
    )
    return None if row is None else BrowserSession(row[0], row[1], bool(row[2]), bool(row[3]), row[4], row[5])


async def drop(tx: Transaction, session_hash: bytes) -> None:
    """Sign a browser out."""
    await tx.run("DELETE FROM browser_sessions WHERE session_hash = ?", session_hash)


def drop_of(tx: Transaction, user_nid: int) -> None:
    """Queue that a user is signed out of all browsers."""
    tx.later("DELETE FROM browser_sessions WHERE user_nid = ?", [(user_nid,)])
