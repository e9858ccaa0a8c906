"""Destroying the database of a node that the deployment has given up, down to its files, once that is certain.

What is destroyed was made by the migrations and says by its own ledger which node it belonged to: nothing else is
touched. A file is overwritten before it goes (decision 14). Wherever this is cut off, it can be done again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from homeserver.runtime import durable
from homeserver.storage import archive, migrate
from homeserver.storage.connect import peek
from homeserver.storage.migrate import SchemaMismatch

if TYPE_CHECKING:
    from pathlib import Path

PIECE: Final = 1 << 20
GOING: Final = ".destroyed"
"""What is added to the name of a database's file before it is overwritten: it cannot say any more whose it is."""
_OWNER: Final = "SELECT name FROM migrations WHERE number = 0"


async def is_there(node: str, address: str, *, root: Path) -> bool:
    """Whether there is a database of a node at its address.

    Raises SchemaMismatch for one that is another node's, Unreachable.
    """
    file = _file(address, root)
    if file is not None and not file.exists():
        return False
    owner = await peek(address, "migrations", _OWNER, root=root)
    if owner and owner[0][0] != node:
        raise SchemaMismatch(f"the database of {node} belongs to {owner[0][0]} by now: it is left as it is")
    return bool(owner)


async def destroy(node: str, address: str, *, root: Path) -> bool:
    """Destroy the database of a node, at its address; False: it is not there any more. Raises what `is_there` raises,
    and OSError."""
    there = await is_there(node, address, root=root)
    file = _file(address, root)
    if file is not None:
        await asyncio.to_thread(_destroy_file, file)  # and what stands beside it
    elif there:
        from homeserver.storage.postgres.dropping import drop

        known = migrate.load(files("homeserver.storage") / "schema" / "node")
        await drop(address, [*(layout.table for layout in archive.layouts(known)), archive.LEDGER])
    return there


def _file(address: str, root: Path) -> Path | None:
    return root / address.removeprefix("sqlite:") if address.startswith("sqlite:") else None


def _destroy_file(file: Path) -> None:
    """A database that is known to be the node's, and what stands beside it."""
    going = file.with_name(file.name + GOING)
    _overwrite_and_remove(going)  # half of it, from when this was cut off
    if file.exists():
        file.rename(going)
        durable.sync_folder(file.parent)
    for ending in ("-wal", "-shm", "-journal"):
        _overwrite_and_remove(file.with_name(file.name + ending))
    _overwrite_and_remove(going)


def _overwrite_and_remove(path: Path) -> None:
    if path.exists():
        _overwrite(path)
        path.unlink()


def _overwrite(path: Path) -> None:
    with path.open("r+b") as there:
        left = os.fstat(there.fileno()).st_size
        while left > 0:
            left -= there.write(bytes(min(PIECE, left)))
        there.flush()
        os.fsync(there.fileno())


def count_folder(folder: Path) -> tuple[int, int]:
    """How many files are in a media folder, and their bytes. Raises OSError."""
    sizes = [path.stat().st_size for path in _files(folder)]
    return len(sizes), sum(sizes)


def destroy_folder(folder: Path) -> None:
    """Destroy a media folder with all its files. Raises OSError."""
    for path in _files(folder):
        _overwrite(path)
    if folder.exists():
        shutil.rmtree(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
