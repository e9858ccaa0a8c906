"""What residents have allowed clients: codes that wait to be taken up, and the devices that were signed in by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Grant(NamedTuple):
    """What was allowed. ``device_nid``: the device that it signed in; None while it waits."""

    user_id: str
    user_nid: int
    client_id: str
    device_id: str
    scope: str
    redirect_uri: str | None
    challenge: str | None
    expires_ts: int
    device_nid: int | None


class Held(NamedTuple):
    """A device by the lineage of its refresh tokens."""

    user_id: str
    user_nid: int
    device_id: str
    generation: int


def put(tx: Transaction, code_hash: bytes, grant: Grant, now_ms: int) -> None:
    """Queue a grant; those that have expired go."""
    tx.later("DELETE FROM oauth_grants WHERE expires_ts < ?", [(now_ms,)])
    tx.later(
        "INSERT INTO oauth_grants (code_hash, user_nid, client_id, device_id, scope, redirect_uri, challenge,"
        " expires_ts) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(code_hash, *grant[1:8])],
    )


async def find(tx: Transaction, code_hash: bytes) -> Grant | None:
    """The grant of a code, expired ones included."""
    row = await tx.one(
        "SELECT u.user_id, g.user_nid, g.client_id, g.device_id, g.scope, g.redirect_uri, g.challenge, g.expires_ts,"
        " g.device_nid FROM oauth_grants g JOIN users u USING (user_nid) WHERE g.code_hash = ?",
        code_hash,
    )
    return None if row is None else Grant(*row)


def take(tx: Transaction, code_hash: bytes, device_nid: int) -> None:
    """Queue that a grant was taken up."""
    tx.later("UPDATE oauth_grants SET device_nid = ? WHERE code_hash = ?", [(device_nid, code_hash)])


def drop(tx: Transaction, code_hash: bytes) -> None:
    """Queue that a grant is void."""
    tx.later("DELETE FROM oauth_grants WHERE code_hash = ?", [(code_hash,)])


def drop_of(tx: Transaction, user_nid: int) -> None:
    """Queue that all grants of a user are void."""
    tx.later("DELETE FROM oauth_grants WHERE user_nid = ?", [(user_nid,)])


# -- sessions


def put_session(
    tx: Transaction, device_nid: int, user_nid: int, client_id: str, scope: str, lineage: bytes, generation: int
) -> None:
    """Queue that a client signed in a device by OAuth; ``lineage``: the digest of what its refresh tokens share."""
    tx.later(
        "INSERT INTO oauth_sessions (device_nid, user_nid, client_id, scope, lineage, generation)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (device_nid) DO UPDATE SET client_id = excluded.client_id,"
        " scope = excluded.scope, lineage = excluded.lineage, generation = excluded.generation",
        [(device_nid, user_nid, client_id, scope, lineage, generation)],
    )


def drop_session(tx: Transaction, device_nid: int) -> None:
    """Queue that a device is not signed in by OAuth any more."""
    tx.later("DELETE FROM oauth_sessions WHERE device_nid = ?", [(device_nid,)])


def count_refresh(tx: Transaction, device_nid: int, generation: int) -> None:
    """Queue the number of the last refresh token that a device was given."""
    tx.later("UPDATE oauth_sessions SET generation = ? WHERE device_nid = ?", [(generation, device_nid)])


async def by_lineage(tx: Transaction, lineage: bytes) -> Held | None:
    """The device whose refresh tokens have this lineage."""
    row = await tx.one(
        "SELECT u.user_id, o.user_nid, d.device_id, o.generation FROM oauth_sessions o"
        " JOIN devices d USING (device_nid) JOIN users u ON u.user_nid = o.user_nid WHERE o.lineage = ?",
        lineage,
    )
    return None if row is None else Held(*row)


async def is_in_use(tx: Transaction, client_id: str) -> bool:
    """Whether a resident is signed in with this client."""
    return await tx.one("SELECT 1 FROM oauth_sessions WHERE client_id = ? LIMIT 1", client_id) is not None
