"""An archive that is only looked at: unpacked into a folder of its own, as a node that nobody is served from.

Rows are taken as they stand, the foreign ones too, which a node would refuse. Of files there are the names alone, for
these say what they are. The folder is in the data directory, readable by nobody else, and gone afterwards; what a crash
has left of one goes with the next.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from homeserver.archives.backing_up import node_migrations
from homeserver.archives.restoring import applied_to, media_path
from homeserver.archives.sealing import Damaged
from homeserver.protocol.errors import Conflict, NodeUnavailable
from homeserver.storage import archive as stored
from homeserver.storage import migrate
from homeserver.storage.connect import engine_for
from homeserver.storage.nodes import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from homeserver.archives.reading import Archive
    from homeserver.context import Server

PREFIX: Final = "looked-at-"
ROWS: Final = "rows.db"


class _Turns:
    """One archive at a time (``directory.memory(_Turns)``)."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()


@asynccontextmanager
async def looked_at(server: Server, archive: Archive) -> AsyncIterator[tuple[Node, dict[str, Any]]]:
    """An archive of this deployment as a node, and its manifest. Raises OSError, and Conflict if it cannot be used."""
    async with server.nodes.directory.memory(_Turns).lock:
        folder = await asyncio.to_thread(_fresh_folder, server.settings.data_dir)
        try:
            try:
                manifest = await asyncio.to_thread(_unpack, archive, folder, server.name)
            except (Damaged, migrate.SchemaMismatch, ValueError) as fault:
                raise Conflict(f"{archive.path} cannot be used: {fault}") from None
            name = str(manifest["node"])
            engine = engine_for(name, f"sqlite:{ROWS}", node_migrations(), root=folder, clock=server.clock)
            try:
                await engine.open()
                node = Node(name, str(manifest["jurisdiction"]), engine, folder / "media")
                yield node, manifest
            except NodeUnavailable:
                raise Conflict(f"{archive.path} could not be unpacked into {folder.parent}") from None
            finally:
                await engine.close()
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _fresh_folder(data_dir: Path) -> Path:
    data_dir.mkdir(parents=True, exist_ok=True)
    for left in data_dir.glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=data_dir))


def _unpack(archive: Archive, folder: Path, deployment: str) -> dict[str, Any]:
    manifest = archive.verified()
    if manifest.get("deployment") != deployment or "node" not in manifest:
        raise Damaged(f"it is no archive of a node of {deployment}")
    migrations = applied_to(str(manifest["node"]), manifest)
    stored.unpack(folder / ROWS, str(manifest["node"]), migrations, archive.rows())
    (folder / "media").mkdir(mode=0o700)
    for name, _ in archive.parts():
        if name.startswith("media/"):
            path = folder / "media" / media_path(name)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
    return manifest
