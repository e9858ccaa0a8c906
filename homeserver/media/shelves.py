"""Where files lie in the media folder of a node, and how they are called. No name in here comes from a client."""

from __future__ import annotations

import os
import re
import secrets
from itertools import product
from typing import TYPE_CHECKING, Final

from homeserver.runtime import durable

if TYPE_CHECKING:
    from pathlib import Path

DRAFTS: Final = "drafts"
"""The folder of files that are not whole yet."""
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_LETTERS: Final = _ALPHABET.encode() * 8  # for each byte the letter of five of its bits
_ID: Final = re.compile(r"[a-z2-7]{32}")
_NAME: Final = re.compile(r"([a-z2-7]{32})-([0-9a-f]{16})(?:\..+)?")
_SHELF: Final = re.compile(r"[a-z2-7]{2}")


def new_id() -> str:
    """A media id of 160 random bits, in letters that no file system confuses.

    spec: client-server-api/#matrix-content-mxc-uris
    """
    return secrets.token_bytes(32).translate(_LETTERS).decode()


def is_ours(media_id: str) -> bool:
    """Whether this could be an id that `new_id` made."""
    return _ID.fullmatch(media_id) is not None


def path_of(root: Path, media_id: str, digest: bytes) -> Path:
    """Where the file of a medium lies. The digest is part of its name, so that of two uploads to one id each has its
    own file, and the row says which one counts.
    """
    if not is_ours(media_id):
        raise ValueError("that is no media id of ours")
    return root / media_id[:2] / f"{media_id}-{digest.hex()[:16]}"


def belongs_to(name: str) -> tuple[str, str] | None:
    """The media id and the beginning of the digest in the name of a file or of what was derived from it."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match[1], match[2])


def strangers(root: Path) -> list[str]:
    """What stands directly in a media folder that no node puts there. Raises OSError."""
    found = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(name for name in found if name != DRAFTS and not _SHELF.fullmatch(name))


def found(root: Path) -> None:
    """Make a media folder. Raises OSError."""
    (root / DRAFTS).mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.sync_folder(root)
    durable.sync_folder(root.parent)


def prepare(root: Path) -> None:
    """Have the folder of a node all its shelves, so that no upload waits for one; they last, whoever made them. Raises
    OSError."""
    there = set(os.listdir(root))
    for name in map("".join, product(_ALPHABET, repeat=2)):
        if name not in there:
            (root / name).mkdir(mode=0o700, exist_ok=True)
    durable.sync_folder(root)


def place(draft: Path, path: Path) -> None:
    """Rename a file that has been synced into its place, durably. Waits for the disk."""
    shelf = path.parent
    try:
        draft.rename(path)
    except FileNotFoundError:
        shelf.mkdir(mode=0o700, exist_ok=True)
        durable.sync_folder(shelf.parent)
        draft.rename(path)
    durable.sync_folder(shelf)
