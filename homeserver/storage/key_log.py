"""The log of changes of a node's residents' public keys, and of what else it states: leaves, tiles of hashes, and how
far both are.

Indexes are given out by one row, in the transaction that changes the keys, so that commit order is the order of the
log and no index is left out. The tiles follow behind (`homeserver/transparency/sequencing.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.storage.engine import Transaction

AT_ONCE = 200
"""Names that are looked for in one statement."""

ALL_FOUND = 2**62
"""What ``found`` is once everybody is in the log who had keys before there was one."""


class Progress(NamedTuple):
    """How far a log is: ``size`` leaves, ``hashed`` of them in the tiles, and the newest checkpoint, of as many."""

    size: int = 0
    hashed: int = 0
    checkpoint: bytes | None = None
    found: int = 0


class Placed(NamedTuple):
    """A leaf, and where it is."""

    place: int
    leaf: bytes


class TileName(NamedTuple):
    """The name of a tile of hashes: ``place`` counts tiles of a level, each 256 times as wide as one below."""

    level: int
    place: int


@asks_once
async def progress(tx: Transaction) -> Progress:
    """How far the log is."""
    row = await tx.one("SELECT size, hashed, checkpoint, found FROM key_log WHERE id = 1")
    return Progress() if row is None else Progress(*row)


async def take(tx: Transaction) -> int:
    """The index of one more leaf, which this transaction is to `put`."""
    row = await tx.one(
        "INSERT INTO key_log (id, size, hashed, found) VALUES (1, 1, 0, 0)"
        " ON CONFLICT (id) DO UPDATE SET size = key_log.size + 1 RETURNING size"
    )
    assert row is not None
    return int(row[0]) - 1


def put(tx: Transaction, index: int, tag: bytes, leaf: bytes) -> None:
    """Queue a leaf about the user of this name, or what else it is found by."""
    tx.later("INSERT INTO key_log_leaves (leaf_index, tag, leaf) VALUES (?, ?, ?)", [(index, tag, leaf)])


async def newest(tx: Transaction, tags: Collection[bytes]) -> dict[bytes, Placed]:
    """The last leaf about each of these users, if there is any."""
    found = {}
    for part in in_parts(tags, AT_ONCE):
        rows = await tx.all(
            "SELECT tag, leaf_index, leaf FROM key_log_leaves WHERE leaf_index IN (SELECT MAX(leaf_index)"
            f" FROM key_log_leaves WHERE tag IN ({','.join('?' * len(part))}) GROUP BY tag)",
            *part,
        )
        found.update({bytes(row[0]): Placed(int(row[1]), bytes(row[2])) for row in rows})
    return found


async def ends(tx: Transaction, tag: bytes) -> tuple[Placed | None, Placed | None]:
    """The last leaf of this tag, and the last of all; in one trip."""
    rows = await tx.all(
        "SELECT tag, leaf_index, leaf FROM key_log_leaves WHERE leaf_index IN"
        " (SELECT MAX(leaf_index) FROM key_log_leaves WHERE tag = ?"
        " UNION ALL SELECT MAX(leaf_index) FROM key_log_leaves) ORDER BY leaf_index",
        tag,
    )
    placed = [Placed(int(row[1]), bytes(row[2])) for row in rows]
    mine = next((each for each, row in zip(placed, rows, strict=True) if bytes(row[0]) == tag), None)
    return mine, placed[-1] if placed else None


async def stated(tx: Transaction, kind: str) -> list[Placed]:
    """All leaves of a kind that is about nobody's keys (`protocol.key_log.Kind`), in their order."""
    rows = await tx.all(f"SELECT leaf_index, leaf FROM key_log_leaves WHERE {_OF_KIND} ORDER BY leaf_index", *_of(kind))
    return [Placed(int(row[0]), bytes(row[1])) for row in rows]


async def count_stated(tx: Transaction, kind: str) -> int:
    """How many leaves there are of such a kind."""
    row = await tx.one(f"SELECT COUNT(*) FROM key_log_leaves WHERE {_OF_KIND}", *_of(kind))
    assert row is not None
    return int(row[0])


_OF_KIND: Final = "tag >= ? AND tag < ? AND LENGTH(tag) > 32"  # as long as that is no name of a user


def _of(kind: str) -> tuple[bytes, bytes]:
    return kind.encode() + b" ", kind.encode() + b"!"


async def about(tx: Transaction, tag: bytes) -> list[Placed]:
    """All leaves about the user of this name, in their order."""
    rows = await tx.all("SELECT leaf_index, leaf FROM key_log_leaves WHERE tag = ? ORDER BY leaf_index", tag)
    return [Placed(int(row[0]), bytes(row[1])) for row in rows]


async def leaves(tx: Transaction, start: int, end: int) -> list[bytes]:
    """The leaves from ``start`` to before ``end``, as far as there are any."""
    rows = await tx.all(
        "SELECT leaf FROM key_log_leaves WHERE leaf_index >= ? AND leaf_index < ? ORDER BY leaf_index", start, end
    )
    return [bytes(row[0]) for row in rows]


async def tiles(tx: Transaction, wanted: Collection[TileName]) -> dict[TileName, bytes]:
    """The hashes of these tiles, as many as there are."""
    found: dict[TileName, bytes] = {}
    for part in in_parts(wanted, AT_ONCE):
        marks = ",".join(["(?, ?)"] * len(part))
        rows = await tx.all(
            f"SELECT level, place, hashes FROM key_log_tiles WHERE (level, place) IN (VALUES {marks})",
            *(number for tile in part for number in tile),
        )
        found.update({TileName(int(row[0]), int(row[1])): bytes(row[2]) for row in rows})
    return found


def put_tiles(tx: Transaction, changed: Mapping[TileName, bytes]) -> None:
    """Queue tiles that are new or have become wider."""
    tx.later(
        "INSERT INTO key_log_tiles (level, place, hashes) VALUES (?, ?, ?)"
        " ON CONFLICT (level, place) DO UPDATE SET hashes = excluded.hashes",
        [(*tile, hashes) for tile, hashes in changed.items()],
    )


def advance(tx: Transaction, hashed: int, checkpoint: bytes) -> None:
    """Queue that so many leaves are in the tiles, and what was signed of them."""
    tx.later(
        "INSERT INTO key_log (id, size, hashed, checkpoint, found) VALUES (1, 0, ?, ?, 0)"
        " ON CONFLICT (id) DO UPDATE SET hashed = excluded.hashed, checkpoint = excluded.checkpoint",
        [(hashed, checkpoint)],
    )


async def clear(tx: Transaction) -> None:
    """Forget a log that does not go on. What follows it has another name, and begins with the keys that are there."""
    tables = ("key_log", "key_log_leaves", "key_log_tiles", "key_manifests", "key_log_cosigned", "key_log_witnesses")
    for table in tables:
        await tx.run(f"DELETE FROM {table}")


# those who had keys before there was a log --------------------------------------------------


async def unseen(tx: Transaction, after: int, limit: int) -> list[tuple[int, str]]:
    """Residents with public keys or receipts of moves, behind a row id: row id and user id."""
    rows = await tx.all(
        "SELECT r.user_nid, u.user_id FROM residents r JOIN users u ON u.user_nid = r.user_nid WHERE r.user_nid > ?"
        " AND (EXISTS (SELECT 1 FROM device_keys d WHERE d.user_nid = r.user_nid)"
        " OR EXISTS (SELECT 1 FROM move_receipts m WHERE m.user_nid = r.user_nid)"
        " OR EXISTS (SELECT 1 FROM cross_signing_keys c WHERE c.user_nid = r.user_nid))"
        " ORDER BY r.user_nid LIMIT ?",
        after,
        limit,
    )
    return [(int(row[0]), str(row[1])) for row in rows]


def note_found(tx: Transaction, user_nid: int) -> None:
    """Queue that residents have been looked through up to this row id."""
    tx.later(
        "INSERT INTO key_log (id, size, hashed, found) VALUES (1, 0, 0, ?)"
        " ON CONFLICT (id) DO UPDATE SET found = excluded.found",
        [(user_nid,)],
    )
