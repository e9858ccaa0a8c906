"""The directory put back from an archive of it: all of it, under its name, or nothing.

It is made beside its place and takes its name when it is whole, for an empty directory would find nobody, and would
give names away twice.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from homeserver.archives.backing_up import directory_migrations
from homeserver.archives.sealing import Damaged
from homeserver.protocol.errors import Conflict
from homeserver.runtime import durable
from homeserver.storage import archive as stored
from homeserver.storage import migrate

if TYPE_CHECKING:
    from pathlib import Path

    from homeserver.archives.reading import Archive


async def restore(archive: Archive, deployment: str, path: Path) -> dict[str, Any]:
    """Put the directory's archive back as the file ``path``, which must not be there; returns the manifest. Raises
    Conflict, OSError."""
    return await asyncio.to_thread(_restore, archive, deployment, path)


def _restore(archive: Archive, deployment: str, path: Path) -> dict[str, Any]:
    if path.exists():
        raise Conflict(f"{path} is there already: move it away, with {path.name}-wal if that is there, and begin again")
    draft = path.with_name(f"{path.name}.part")
    leftovers = [draft.with_name(draft.name + ending) for ending in ("", "-wal", "-shm")]
    beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]
    if any(file.exists() for file in beside):
        raise Conflict(f"{beside[0]} is there still, which belongs to another directory: move it away, and begin again")
    for file in leftovers:
        file.unlink(missing_ok=True)
    try:
        manifest = archive.verified()
        if not manifest.get("directory") or manifest.get("deployment") != deployment:
            raise Damaged(f"it is no archive of the directory of {deployment}")
        known = directory_migrations()
        applied = [(int(number), str(name), str(digest)) for number, name, digest in manifest["schema"]]
        migrate.pending("directory", known, applied, create=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        stored.unpack(draft, "directory", known[: max(number for number, _, _ in applied)], archive.rows())
    except (Damaged, migrate.SchemaMismatch, ValueError) as fault:
        for file in leftovers:
            file.unlink(missing_ok=True)
        raise Conflict(f"{archive.path} cannot be used, and nothing was restored: {fault}") from None
    durable.sync(draft)
    draft.rename(path)
    durable.sync_folder(path.parent)
    return manifest
