"""Clears away what crashes and clients leave behind: files without a row, content URIs that were never used, pictures
of previews whose time is over, copies of other servers' media that nobody asks for, and uploads likewise, where those
are not kept for ever."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.media import remote_media, retention, shelves, store
from homeserver.media.download import Known
from homeserver.media.shelves import DRAFTS
from homeserver.media.store import Files
from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.parts import in_parts
from homeserver.storage import media as stored
from homeserver.storage import remote_media as stored_copies
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

GRACE_MS: Final = 3_600_000
"""How long ago a file must have been touched for the last time: until then it may be an upload in progress."""
BATCH: Final = 500

log = structlog.get_logger("media")


async def sweep(server: Server) -> None:
    """Clear away on every node that can be reached; to be run now and then."""
    for node in server.nodes:
        try:
            await sweep_node(server, node)
        except NodeUnavailable:
            log.info("media were not swept", node=node.name)


async def sweep_node(server: Server, node: Node) -> None:
    """Clear away on one node. Raises NodeUnavailable."""
    await _expire(server, node)
    await remote_media.forget_idle(server, node)
    await retention.forget_idle(server, node)
    files = node.memory(Files)
    before = (server.clock.now_ms() - GRACE_MS) / 1000
    drafts = await files.run(node, _old_files, node.media / DRAFTS, before)
    await files.run(node, _unlink, drafts)
    for folder in await files.run(node, _folders, node.media):
        old = await files.run(node, _old_files, folder, before)
        for part in in_parts(old, BATCH):
            await _clear(server, node, part)


async def _expire(server: Server, node: Node) -> None:
    """Forget the content URIs whose time is over, and what was kept until then."""
    while expired := await node.write(_remove_expired, node, server.clock.now_ms()):
        for media_id, digest in expired:
            await server.nodes.directory.release(Kind.MEDIA, media_id)
            if digest is not None:
                await store.erase(node, media_id, digest)


async def _remove_expired(tx: Transaction, node: Node, now_ms: int) -> list[tuple[str, bytes | None]]:
    expired = await stored.remove_expired(tx, now_ms, BATCH)
    tx.after_commit(lambda: _forget(node, expired))
    return expired


def _forget(node: Node, expired: Iterable[tuple[str, bytes | None]]) -> None:
    for media_id, _ in expired:
        node.memory(Known).forget(media_id)


async def _clear(server: Server, node: Node, paths: list[Path]) -> None:
    """Delete those of the files that no row speaks of."""
    named = {path: names for path in paths if (names := shelves.belongs_to(path.name)) is not None}
    ids = {media_id for media_id, _ in named.values()}
    rows = {**await node.read(stored.among, ids), **await node.read(stored_copies.among, ids)}
    left = {path: media_id for path, (media_id, digest) in named.items() if not _speaks_of(rows.get(media_id), digest)}
    if left:
        log.info("deleting files without a row", node=node.name, files=len(left))
        await node.memory(Files).run(node, _unlink, left)
        await _release(server, node, set(left.values()))


def _speaks_of(digest: bytes | None, beginning: str) -> bool:
    return digest is not None and digest.hex().startswith(beginning)


async def _release(server: Server, node: Node, media_ids: set[str]) -> None:
    """Forget the routes to media that are not there; not those of media that rest elsewhere by now."""
    rows = await node.read(stored.among, media_ids)
    directory = server.nodes.directory
    for media_id in media_ids - rows.keys():
        if await directory.find(Kind.MEDIA, media_id) == node.name:
            await directory.release(Kind.MEDIA, media_id)


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.name != DRAFTS and path.is_dir()] if root.is_dir() else []


def _old_files(folder: Path, before: float) -> list[Path]:
    return list(_older(folder, before)) if folder.is_dir() else []


def _older(folder: Path, before: float) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < before:
                yield folder / entry.name


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
