"""Tiles of a log (C2SP tlog-tiles): up to 256 hashes of one level of the tree, or 256 entries, under one path.

A whole tile never changes, and one that is not whole is named by its width: so every path stands for the same bytes for
ever, and anybody may keep them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from homeserver.protocol.merkle import HASH_BYTES, LARGEST, Subtree, folded, node_hash

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
ENTRIES: Final = -1
"""The level of a tile of entries."""

_LEVEL: Final = re.compile(r"0|[1-9][0-9]?")
_GROUP: Final = re.compile(r"x[0-9]{3}")
_LAST: Final = re.compile(r"[0-9]{3}")
_WIDTH: Final = re.compile(r"[1-9][0-9]{0,2}")


class Tile(NamedTuple):
    """``width`` hashes, or entries, of a level (each 256 times as far up as the one below) from ``place * 256`` on."""

    level: int
    place: int
    width: int = WIDTH

    @property
    def end(self) -> int:
        """How many leaves a log must have for there to be this tile."""
        return (self.place * WIDTH + self.width) << HEIGHT * max(self.level, 0)


def path(tile: Tile) -> str:
    """Where a tile is found, behind the address of the log: ``tile/0/x001/067.p/12``."""
    digits = f"{tile.place:03}"
    digits = digits.rjust(-(-len(digits) // 3) * 3, "0")
    groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    level = "entries" if tile.level == ENTRIES else str(tile.level)
    return f"tile/{level}/{number}" + ("" if tile.width == WIDTH else f".p/{tile.width}")


def read_path(segments: Sequence[str]) -> Tile | None:
    """The tile of a path, given without ``tile`` in parts; None when it is not as it is written."""
    if len(segments) < 2:
        return None
    level, *number = segments
    if level != "entries" and (not _LEVEL.fullmatch(level) or int(level) > 63):
        return None
    width = WIDTH
    if number[-2:-1] and number[-2].endswith(".p"):
        if not _WIDTH.fullmatch(number[-1]) or int(number[-1]) >= WIDTH:
            return None
        width = int(number.pop())
        number[-1] = number[-1].removesuffix(".p")
    if not _LAST.fullmatch(number[-1]) or not all(_GROUP.fullmatch(group) for group in number[:-1]):
        return None
    if len(number) > 1 and number[0] == "x000":
        return None
    found = Tile(
        ENTRIES if level == "entries" else int(level), int("".join(group.removeprefix("x") for group in number)), width
    )
    return found if found.end <= LARGEST else None


def bundled(entries: Sequence[bytes]) -> bytes:
    """The bytes of a tile of entries. Raises ValueError for one that is too long."""
    if any(len(entry) > 0xFFFF for entry in entries):
        raise ValueError("an entry of a log has at most 65535 bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


class Within(NamedTuple):
    """Where a subtree is made from: ``length`` hashes from ``offset`` on of a tile of hashes."""

    level: int
    place: int
    offset: int
    length: int


def holding(subtree: Subtree) -> Within:
    """The tile that holds what a subtree's root is made of."""
    level, above = divmod(subtree.level, HEIGHT)
    start = subtree.place << above
    return Within(level, start >> HEIGHT, start & WIDTH - 1, 1 << above)


def root_within(hashes: bytes, within: Within) -> bytes:
    """The root of a subtree, from the bytes of its tile. Raises ValueError when the tile is too narrow."""
    start, end = within.offset * HASH_BYTES, (within.offset + within.length) * HASH_BYTES
    if len(hashes) < end:
        raise ValueError("the tile is narrower than that")
    row = [hashes[at : at + HASH_BYTES] for at in range(start, end, HASH_BYTES)]
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return folded(row)
