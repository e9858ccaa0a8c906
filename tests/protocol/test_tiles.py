"""Tiles of a log: their paths, as C2SP tlog-tiles writes them, and where in them a subtree is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol import tiles
from homeserver.protocol.merkle import Frontier, Subtree, leaf_hash
from homeserver.protocol.tiles import ENTRIES, Tile

PATHS = [
    (Tile(0, 0), "tile/0/000"),
    (Tile(0, 67), "tile/0/067"),
    (Tile(3, 1_234_067), "tile/3/x001/x234/067"),
    (Tile(0, 1_000), "tile/0/x001/000"),
    (Tile(0, 1_234_067, 12), "tile/0/x001/x234/067.p/12"),
    (Tile(ENTRIES, 0, 1), "tile/entries/000.p/1"),
    (Tile(ENTRIES, 255_999), "tile/entries/x255/999"),
]


@pytest.mark.parametrize(("tile", "path"), PATHS)
def test_paths(tile: Tile, path: str) -> None:
    assert tiles.path(tile) == path
    assert tiles.read_path(path.split("/")[1:]) == tile


@given(st.integers(0, 6), st.integers(0, 10**9), st.integers(1, 256))
def test_every_path_is_read_as_it_was_written(level: int, place: int, width: int) -> None:
    tile = Tile(level, place, width)
    read = tiles.read_path(tiles.path(tile).split("/")[1:])
    assert read == (tile if tile.end < 2**63 else None)


NO_PATHS = """
    0 0/67 0/0067 00/067 64/000 -1/000 x/067 0/x001 0/x000/067 0/001/067 0/x01/067 0/067.p 0/067.p/0 0/067.p/256
    0/067.p/012 0/067.p/ 0/067/12 0/x001.p/067 0/०६७ entries/1 Entries/001 0/x999/x999/x999/x999/x999/x999/999 0/
    0/067.p/12/3 63/000
"""


@pytest.mark.parametrize("path", NO_PATHS.split())
def test_what_is_no_path(path: str) -> None:
    assert tiles.read_path(path.split("/")) is None


def test_how_far_a_log_must_reach() -> None:
    assert Tile(0, 0).end == 256
    assert Tile(0, 1, 3).end == 259
    assert Tile(1, 0, 2).end == 512
    assert Tile(2, 1).end == 2 * 256**3
    assert Tile(ENTRIES, 2, 7).end == 519


def test_subtrees_are_found_in_tiles() -> None:
    tree = Frontier()
    known: dict[Subtree, bytes] = {}
    for index in range(1030):
        tree, whole = tree.append(leaf_hash(index.to_bytes(4, "big")))
        known.update(whole)
    rows: dict[tuple[int, int], bytes] = {}
    for subtree in sorted(known):
        if subtree.level % 8 == 0:
            at = (subtree.level // 8, subtree.place >> 8)
            rows[at] = rows.get(at, b"") + known[subtree]
    for subtree, root in known.items():
        within = tiles.holding(subtree)
        assert tiles.root_within(rows[within.level, within.place], within) == root
    with pytest.raises(ValueError, match="narrower"):
        tiles.root_within(rows[1, 0][:32], tiles.holding(Subtree(9, 0)))


def test_entries() -> None:
    assert tiles.bundled([b"", b"ab", b"c" * 300]) == b"\0\0" + b"\0\x02ab" + b"\x01\x2c" + b"c" * 300
    with pytest.raises(ValueError, match="65535"):
        tiles.bundled([bytes(65536)])
