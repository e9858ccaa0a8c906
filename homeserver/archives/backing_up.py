"""Archives of nodes: one node each, its database as it is at one moment, and the files that its rows speak of.

Rows come before files: a file is never changed, so that what the rows speak of is what is archived. One that is deleted
in between is counted, and missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import structlog

from homeserver.archives.writing import Writer
from homeserver.media import shelves
from homeserver.media.shelves import DRAFTS
from homeserver.media.store import Files
from homeserver.protocol.errors import Conflict, NodeUnavailable
from homeserver.storage import archive, audit, migrate, streams
from homeserver.storage.tables import UNARCHIVED

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence
    from pathlib import Path

    from nacl.public import PublicKey

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

PATIENCE: Final = 1.0
"""Seconds after which it is told how far a backup is."""

log = structlog.get_logger("backup")


@dataclass
class Backups:
    """The backup that is being made (``directory.memory(Backups)``), and how far it is."""

    task: asyncio.Task[dict[str, Any]] | None = None
    seen: dict[str, int] = field(default_factory=lambda: {"rows": 0, "files": 0})

    @property
    def busy(self) -> bool:
        """Whether one is being made."""
        return self.task is not None and not self.task.done()


async def begin(server: Server, node: Node | None, path: Path, key: PublicKey | None) -> dict[str, Any]:
    """Begin an archive of a node, or of the directory (None); ``done`` with its manifest, or how far it is. Raises
    Conflict when one is being made, NodeUnavailable, OSError for a file that cannot be written."""
    backups = server.nodes.directory.memory(Backups)
    if backups.busy:
        raise Conflict("A backup is being made at the moment: wait for its end")
    writer = await asyncio.to_thread(Writer, path, key)
    backups.seen.update(rows=0, files=0)
    made = _directory(server, writer, backups) if node is None else _node(server, node, writer, backups)
    work = _whole(server, made, writer)
    backups.task = asyncio.get_running_loop().create_task(work, name="backup", context=Context())
    return await progress(server)


async def progress(server: Server) -> dict[str, Any]:
    """Wait a moment for the end of what is being made. Raises what ended it, and Conflict when there is nothing."""
    backups = server.nodes.directory.memory(Backups)
    if backups.task is None:
        raise Conflict("No backup is being made")
    await asyncio.wait([backups.task], timeout=PATIENCE)
    if not backups.task.done():
        return {"done": False, **backups.seen}
    task, backups.task = backups.task, None
    if task.cancelled():
        raise Conflict("The backup was broken off: the server is being stopped")
    return {"done": True, **task.result()}


async def stop(server: Server) -> None:
    """Break off what is being made, and leave nothing of it."""
    backups = server.nodes.directory.memory(Backups)
    if backups.busy and backups.task is not None:
        backups.task.cancel()
        await asyncio.gather(backups.task, return_exceptions=True)


async def _whole(server: Server, made: Coroutine[Any, Any, dict[str, Any]], writer: Writer) -> dict[str, Any]:
    try:
        manifest = {"deployment": server.name, "time": server.clock.now_ms(), **await made}
        size = await asyncio.to_thread(writer.finish, manifest)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(writer.give_up))
        raise
    of = manifest.get("node", "directory")
    log.info("archived", node=of, rows=sum(manifest["rows"].values()), files=manifest["files"])
    return {**manifest, "bytes": size}


async def _node(server: Server, node: Node, writer: Writer, backups: Backups) -> dict[str, Any]:
    found = await node.read(_rows, writer, backups)
    known = found.pop("media")
    found["files"], found["files_gone"] = await _media(node, writer, known, backups)
    return {"node": node.name, "jurisdiction": node.jurisdiction, **found}


async def _directory(server: Server, writer: Writer, backups: Backups) -> dict[str, Any]:
    found = await server.nodes.directory.engine.read(_tables, directory_migrations(), writer, backups)
    return {"directory": True, **found, "files": 0, "files_gone": 0}


def node_migrations() -> tuple[migrate.Migration, ...]:
    """The migrations of nodes."""
    return migrate.load(files("homeserver.storage") / "schema" / "node")


def directory_migrations() -> tuple[migrate.Migration, ...]:
    """The migrations of the directory."""
    return migrate.load(files("homeserver.storage") / "schema" / "directory")


async def _rows(tx: Transaction, writer: Writer, backups: Backups) -> dict[str, Any]:
    """Everything that is in the database of a node, at one moment."""
    found = await _tables(tx, node_migrations(), writer, backups)
    return {**found, "position": await streams.current(tx), "media": await audit.file_names(tx)}


async def _tables(
    tx: Transaction, migrations: Sequence[migrate.Migration], writer: Writer, backups: Backups
) -> dict[str, Any]:
    schema = [list(each) for each in await archive.ledger(tx)]
    counts: dict[str, int] = {}
    for layout in archive.layouts(migrations):
        if layout.table in UNARCHIVED:
            continue
        counts[layout.table] = 0
        number = 0
        async for part, rows in archive.parts(tx, layout):
            number += 1
            await asyncio.to_thread(writer.rows, f"rows/{layout.table}/{number:06}.jsonl.gz", part)
            counts[layout.table] += rows
            backups.seen["rows"] += rows
    return {"schema": schema, "rows": counts}


async def _media(node: Node, writer: Writer, known: dict[str, str], backups: Backups) -> tuple[int, int]:
    """The files that rows speak of: how many were archived, and how many were gone."""
    run = node.memory(Files).run
    whole: set[str] = set()
    count = 0
    for path in await run(node, lambda: sorted(media_files(node.media))):
        named = shelves.belongs_to(path.name)
        if named is None or known.get(named[0]) != named[1]:
            continue  # of what came after the rows, or left over from a crash
        name = f"media/{path.relative_to(node.media)}"
        if await run(node, writer.copy, name, path):
            count += 1
            backups.seen["files"] = count
            if path.name == f"{named[0]}-{named[1]}":
                whole.add(named[0])
    if known and not whole and not node.media.is_dir():
        raise NodeUnavailable(node.name)  # a disk that is not mounted
    return count, len(known) - len(whole)


def media_files(root: Path) -> Iterator[Path]:
    """All files of a media folder but drafts."""
    with contextlib.suppress(FileNotFoundError):
        for path in root.rglob("*"):
            if path.is_file() and path.relative_to(root).parts[0] != DRAFTS:
                yield path
