"""Backups of room keys: versions and the sessions in them, encrypted by their owner's clients.

A version that was deleted leaves its number behind, so that it is never given out again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction

AT_ONCE = 1000
"""Sessions that are written in one statement."""


class Version(NamedTuple):
    """One backup. ``auth_data`` is JSON; ``etag`` counts the changes of its sessions."""

    version: int
    algorithm: str
    auth_data: bytes
    etag: int
    deleted: bool


class Session(NamedTuple):
    """The key of one Megolm session; ``session_data`` is JSON."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: bytes


class Contents(NamedTuple):
    """How many sessions a backup holds, and which state of them this is."""

    sessions: int
    etag: int


_VERSION = "version, algorithm, auth_data, etag, deleted"


async def find(tx: Transaction, user_nid: int, version: int) -> Version | None:
    """One backup, also a deleted one."""
    row = await tx.one(f"SELECT {_VERSION} FROM backup_versions WHERE user_nid = ? AND version = ?", user_nid, version)
    return None if row is None else Version(row[0], row[1], row[2], row[3], bool(row[4]))


async def newest(tx: Transaction, user_nid: int) -> Version | None:
    """The current backup: the newest that was not deleted."""
    row = await tx.one(
        f"SELECT {_VERSION} FROM backup_versions WHERE user_nid = ? AND deleted = 0 ORDER BY version DESC LIMIT 1",
        user_nid,
    )
    return None if row is None else Version(row[0], row[1], row[2], row[3], bool(row[4]))


async def create(tx: Transaction, user_nid: int, algorithm: str, auth_data: bytes) -> int:
    """Make a backup, which is the current one then; returns its version."""
    row = await tx.one(
        "INSERT INTO backup_versions (user_nid, version, algorithm, auth_data, etag) SELECT CAST(? AS BIGINT),"
        " COALESCE(MAX(version), 0) + 1, CAST(? AS TEXT), ?, 0 FROM backup_versions WHERE user_nid = ?"
        " RETURNING version",
        user_nid,
        algorithm,
        auth_data,
        user_nid,
    )
    assert row is not None
    return int(row[0])


async def set_auth_data(tx: Transaction, user_nid: int, version: int, auth_data: bytes) -> None:
    """Replace what a backup's keys are encrypted by."""
    await tx.run(
        "UPDATE backup_versions SET auth_data = ? WHERE user_nid = ? AND version = ?", auth_data, user_nid, version
    )


def delete(tx: Transaction, user_nid: int, version: int) -> None:
    """Queue the deletion of a backup with all its sessions."""
    tx.later("DELETE FROM backup_sessions WHERE user_nid = ? AND version = ?", [(user_nid, version)])
    tx.later(
        "UPDATE backup_versions SET deleted = 1, auth_data = ? WHERE user_nid = ? AND version = ?",
        [(b"{}", user_nid, version)],
    )


async def contents(tx: Transaction, user_nid: int, version: int) -> Contents:
    """Count and etag of a backup."""
    row = await tx.one(
        "SELECT (SELECT COUNT(*) FROM backup_sessions WHERE user_nid = ? AND version = ?), etag"
        " FROM backup_versions WHERE user_nid = ? AND version = ?",
        user_nid,
        version,
        user_nid,
        version,
    )
    assert row is not None
    return Contents(row[0], row[1])


async def put(tx: Transaction, user_nid: int, version: int, sessions: Sequence[Session]) -> bool:
    """Store sessions; of one that is there already the better key stays. True when anything changed.

    spec: client-server-api/#server-side-key-backups
    """
    changed = False
    for part in in_parts(sessions, AT_ONCE):
        rows = await tx.all(
            "INSERT INTO backup_sessions (user_nid, version, room_id, session_id, first_message_index,"
            f" forwarded_count, is_verified, session_data) VALUES {','.join(['(?, ?, ?, ?, ?, ?, ?, ?)'] * len(part))}"
            " ON CONFLICT (user_nid, version, room_id, session_id) DO UPDATE SET"
            " first_message_index = excluded.first_message_index, forwarded_count = excluded.forwarded_count,"
            " is_verified = excluded.is_verified, session_data = excluded.session_data"
            " WHERE excluded.is_verified > backup_sessions.is_verified"
            " OR (excluded.is_verified = backup_sessions.is_verified"
            " AND (excluded.first_message_index < backup_sessions.first_message_index"
            " OR (excluded.first_message_index = backup_sessions.first_message_index"
            " AND excluded.forwarded_count < backup_sessions.forwarded_count)))"
            " RETURNING 1",
            *(value for session in part for value in (user_nid, version, *session[:4], int(session[4]), session[5])),
        )
        changed = changed or bool(rows)
    return changed


def bump(tx: Transaction, user_nid: int, version: int) -> None:
    """Queue that a backup's sessions are not what they were."""
    tx.later("UPDATE backup_versions SET etag = etag + 1 WHERE user_nid = ? AND version = ?", [(user_nid, version)])


def _narrowed(room_id: str | None, session_id: str | None) -> tuple[str, list[str]]:
    params = [value for value in (room_id, session_id) if value is not None]
    return (" AND room_id = ?" if room_id is not None else "") + (
        " AND session_id = ?" if session_id is not None else ""
    ), params


async def sessions(
    tx: Transaction, user_nid: int, version: int, room_id: str | None = None, session_id: str | None = None
) -> list[Session]:
    """The sessions of a backup, or of one room in it, or one of them."""
    where, params = _narrowed(room_id, session_id)
    rows = await tx.all(
        "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data"
        f" FROM backup_sessions WHERE user_nid = ? AND version = ?{where} ORDER BY room_id, session_id",
        user_nid,
        version,
        *params,
    )
    return [Session(row[0], row[1], row[2], row[3], bool(row[4]), row[5]) for row in rows]


async def delete_sessions(
    tx: Transaction, user_nid: int, version: int, room_id: str | None = None, session_id: str | None = None
) -> bool:
    """Delete sessions from a backup; True when there were any."""
    where, params = _narrowed(room_id, session_id)
    gone = await tx.run(
        f"DELETE FROM backup_sessions WHERE user_nid = ? AND version = ?{where}", user_nid, version, *params
    )
    return gone > 0
