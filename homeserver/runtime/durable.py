"""Files that are there after a power cut: the name in its folder is synced as well as what the file holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Have the names in a folder last as they are now. Raises OSError."""
    sync(folder, os.O_DIRECTORY)


def sync(path: Path, flags: int = 0) -> None:
    """Have a file last that somebody else wrote. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def create(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Make a file that was not there. Raises FileExistsError, and then nothing was written, and OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def put(path: Path, content: bytes, *, draft: Path, mode: int = 0o600) -> None:
    """Have a file hold this, all of it or what it was before. ``draft``: in the same folder, where it is written first.

    Raises OSError, and then the file is what it was.
    """
    with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_folder(path.parent)
