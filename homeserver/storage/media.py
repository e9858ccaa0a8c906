"""What a node knows of the media that its residents uploaded; the bytes are files of its media folder.

A row without a size is pending: its URI has been given out, and its content must come before ``expires_ts``. A row with
both is kept until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction

_COLUMNS = "media_id, user_nid, content_type, filename, size, digest, created_ts, expires_ts"


class Medium(NamedTuple):
    """One medium. ``size`` in bytes and ``digest`` (see media/digests.py) are None while it is pending; times are in
    milliseconds since 1970, and ``expires_ts`` is None once there is content, unless that is kept for a while only.
    """

    media_id: str
    user_nid: int
    content_type: str
    filename: str | None
    size: int | None
    digest: bytes | None
    created_ts: int
    expires_ts: int | None


class Content(NamedTuple):
    """What an upload brought."""

    content_type: str
    filename: str | None
    size: int
    digest: bytes


async def find(tx: Transaction, media_id: str) -> Medium | None:
    """A medium, pending ones and expired ones included."""
    row = await tx.one(f"SELECT {_COLUMNS} FROM media WHERE media_id = ?", media_id)
    return None if row is None else Medium(*row)


async def add(
    tx: Transaction, media_id: str, user_nid: int, content: Content, now_ms: int, until_ms: int | None = None
) -> None:
    """Queue a medium whose file is in its place; ``until_ms``: how long it is kept, when that is not for ever."""
    tx.later(
        f"INSERT INTO media ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(media_id, user_nid, *content, now_ms, until_ms)],
    )


async def held(tx: Transaction, user_nid: int, *, passing: bool = False) -> tuple[int, int]:
    """How many media with content a user has, and their bytes; those that are kept for a while only are counted by
    themselves (``passing``)."""
    row = await tx.one(
        "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM media"
        f" WHERE user_nid = ? AND size IS NOT NULL AND expires_ts IS {'NOT NULL' if passing else 'NULL'}",
        user_nid,
    )
    assert row is not None
    return int(row[0]), int(row[1])


async def reserve(tx: Transaction, media_id: str, user_nid: int, now_ms: int, expires_ts: int, most: int) -> int | None:
    """Add a pending medium unless the user has ``most`` of them; returns then when the first of those expires."""
    row = await tx.one(
        "SELECT COUNT(*), MIN(expires_ts) FROM media WHERE user_nid = ? AND size IS NULL AND expires_ts > ?",
        user_nid,
        now_ms,
    )
    if row is not None and row[0] >= most:
        return int(row[1])
    await tx.run(
        "INSERT INTO media (media_id, user_nid, content_type, created_ts, expires_ts) VALUES (?, ?, '', ?, ?)",
        media_id,
        user_nid,
        now_ms,
        expires_ts,
    )
    return None


async def fill(tx: Transaction, media_id: str, content: Content, now_ms: int) -> bool:
    """Give a pending medium its content; False when it has some already, has expired, or is gone."""
    changed = await tx.run(
        "UPDATE media SET content_type = ?, filename = ?, size = ?, digest = ?, expires_ts = NULL"
        " WHERE media_id = ? AND size IS NULL AND expires_ts > ?",
        *content,
        media_id,
        now_ms,
    )
    return changed == 1


async def remove(tx: Transaction, media_id: str) -> Medium | None:
    """Delete a medium; returns what it was."""
    row = await tx.one(f"DELETE FROM media WHERE media_id = ? RETURNING {_COLUMNS}", media_id)
    return None if row is None else Medium(*row)


async def remove_expired(tx: Transaction, now_ms: int, limit: int) -> list[tuple[str, bytes | None]]:
    """Delete media whose time is over; returns their ids and the digests of their files, None for pending ones."""
    rows = await tx.all(
        "DELETE FROM media WHERE media_id IN"
        " (SELECT media_id FROM media WHERE expires_ts <= ? ORDER BY expires_ts LIMIT ?) RETURNING media_id, digest",
        now_ms,
        limit,
    )
    return [(row[0], None if row[1] is None else bytes(row[1])) for row in rows]


# retention ----------------------------------------------------------------------------------


async def touch(tx: Transaction, media_id: str, now_ms: int) -> None:
    """Note that somebody asks for a medium."""
    await tx.run("UPDATE media SET asked_ts = ? WHERE media_id = ?", now_ms, media_id)


async def begin_noting(tx: Transaction, now_ms: int, limit: int) -> int:
    """Count the time of media of which nothing is noted from now on; how many these were."""
    return await tx.run(
        "UPDATE media SET asked_ts = ? WHERE media_id IN (SELECT media_id FROM media WHERE asked_ts IS NULL"
        " AND size IS NOT NULL AND expires_ts IS NULL LIMIT ?)",
        now_ms,
        limit,
    )


async def note_no_more(tx: Transaction, limit: int) -> int:
    """Forget when media were asked for; of how many."""
    return await tx.run(
        "UPDATE media SET asked_ts = NULL WHERE media_id IN"
        " (SELECT media_id FROM media WHERE asked_ts IS NOT NULL ORDER BY asked_ts LIMIT ?)",
        limit,
    )


async def idle(tx: Transaction, before_ms: int, limit: int) -> list[tuple[str, int]]:
    """Media that nobody has asked for since a time, each with the row id of its owner; the longest ago first."""
    rows = await tx.all(
        "SELECT media_id, user_nid FROM media WHERE asked_ts < ? AND size IS NOT NULL AND expires_ts IS NULL"
        " ORDER BY asked_ts LIMIT ?",
        before_ms,
        limit,
    )
    return [(row[0], int(row[1])) for row in rows]


async def among(tx: Transaction, media_ids: Collection[str]) -> dict[str, bytes | None]:
    """The digests of those of the media that there are; None for pending ones."""
    if not media_ids:
        return {}
    marks = ",".join("?" * len(media_ids))
    rows = await tx.all(f"SELECT media_id, digest FROM media WHERE media_id IN ({marks})", *media_ids)
    return {row[0]: row[1] for row in rows}


async def any_stored(tx: Transaction) -> bool:
    """Whether there is a medium with content, or a copy of one, so that there must be files."""
    own = await tx.one("SELECT 1 FROM media WHERE size IS NOT NULL LIMIT 1")
    return own is not None or await tx.one("SELECT 1 FROM remote_media WHERE asked_ts > 0 LIMIT 1") is not None
