"""Copies of media of other servers, which a node fetched for its residents; the bytes are files of its media folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction
    from homeserver.storage.media import Content

_COLUMNS = "file_id, content_type, filename, size, digest, asked_ts"


class RemoteMedium(NamedTuple):
    """A copy. ``file_id`` names its file; ``asked_ts``: about when somebody asked for it last, in milliseconds."""

    file_id: str
    content_type: str
    filename: str | None
    size: int
    digest: bytes
    asked_ts: int


async def find(tx: Transaction, server_name: str, media_id: str) -> RemoteMedium | None:
    """The copy of a medium of another server."""
    row = await tx.one(f"SELECT {_COLUMNS} FROM remote_media WHERE server = ? AND media_id = ?", server_name, media_id)
    return None if row is None else RemoteMedium(*row)


async def add(tx: Transaction, file_id: str, server_name: str, media_id: str, content: Content, now_ms: int) -> bool:
    """Add a copy whose file is in its place; False when there is one already."""
    added = await tx.run(
        f"INSERT INTO remote_media ({_COLUMNS}, server, media_id, fetched_ts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (server, media_id) DO NOTHING",
        file_id,
        content.content_type,
        content.filename,
        content.size,
        content.digest,
        now_ms,
        server_name,
        media_id,
        now_ms,
    )
    return added == 1


async def touch(tx: Transaction, file_id: str, now_ms: int) -> None:
    """Note that somebody asked for a copy."""
    await tx.run("UPDATE remote_media SET asked_ts = ? WHERE file_id = ?", now_ms, file_id)


async def remove_idle(tx: Transaction, before_ms: int, limit: int) -> list[tuple[str, bytes]]:
    """Delete copies for which nobody has asked since; returns the names and digests of their files."""
    rows = await tx.all(
        "DELETE FROM remote_media WHERE file_id IN"
        " (SELECT file_id FROM remote_media WHERE asked_ts < ? ORDER BY asked_ts LIMIT ?) RETURNING file_id, digest",
        before_ms,
        limit,
    )
    return [(row[0], bytes(row[1])) for row in rows]


async def among(tx: Transaction, file_ids: Collection[str]) -> dict[str, bytes]:
    """The digests of those of the files that are copies."""
    if not file_ids:
        return {}
    marks = ",".join("?" * len(file_ids))
    rows = await tx.all(f"SELECT file_id, digest FROM remote_media WHERE file_id IN ({marks})", *file_ids)
    return {row[0]: bytes(row[1]) for row in rows}
