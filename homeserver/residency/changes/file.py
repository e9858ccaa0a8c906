"""The file of the policy: what stands in it, and how another text takes its place at once or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from homeserver.runtime import durable

UNAPPLIED = ".unapplied"
"""What is added to the name of the file, for what stood there and never was in force."""


def found(path: Path) -> str | None:
    """What stands in the file, as `config.load` reads it; None when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def obstacle(path: Path) -> str:
    """Why another text could not take the place of the file; "" when it can."""
    folder = Path(os.path.realpath(path)).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written to by this user, so that the new policy could not be put in place"
    return ""


def put(path: Path, text: str) -> None:
    """Have a text stand in the file, durably. A link leads on to the same file as before; its mode stays.

    Raises OSError, and then the file is what it was.
    """
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode & 0o777
    except FileNotFoundError:
        mode = 0o600
    durable.put(real, text.encode(), draft=real.with_name(f".{real.name}.new"), mode=mode)


def keep_beside(path: Path, text: str) -> Path:
    """Keep what stood in the file beside it; returns where. Raises OSError."""
    aside = path.with_name(path.name + UNAPPLIED)
    put(aside, text)
    return aside
