"""The digest of the program that runs: over every file of its packages, in a form that a stranger makes from a release.

It is what the program says of itself: it tells honest operators which build they run, and nobody what a liar runs.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

PACKAGES: Final = ("config", "federation", "homeserver")
"""All that Domicile is made of, beside the libraries that it uses."""

_HERE: Final = Path(__file__).resolve().parents[2]


def files(root: Path = _HERE) -> dict[str, str]:
    """The SHA-256 of each file (hexadecimal) by its path under ``root``, in the order of the paths' bytes.

    What Python has compiled is left out. Raises OSError.
    """
    found = [path for package in PACKAGES for path in (root / package).rglob("*") if "__pycache__" not in path.parts]
    named = sorted((path.relative_to(root).as_posix(), path) for path in found if path.is_file())
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named}


def listing(found: dict[str, str]) -> str:
    """The files as ``sha256sum`` writes them: a line for each."""
    return "".join(f"{digest}  {name}\n" for name, digest in found.items())


def digest(root: Path = _HERE) -> str:
    """SHA-256, hexadecimal, of the `listing` of the files under ``root``. Raises OSError."""
    return hashlib.sha256(listing(files(root)).encode()).hexdigest()


@cache
def running() -> str:
    """The digest of this program, as its files were when this was first asked: the server asks when it starts."""
    return digest()
