"""The epochs of a node: to which key records of sessions are sealed, and what was sealed to it.

A number is given once; what is destroyed stays as a row that says when, without shares, and so without any way to open
what was sealed.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from homeserver.protocol.epochs import Epoch, SealedShare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Row, Transaction

AT_ONCE: Final = 5000
"""Rows that are deleted together."""
TABLES: Final = ("sessions", "device_days", "epochs")
"""Where something goes when epochs are destroyed."""

_COLUMNS: Final = "number, public_key, threshold, shares, salt, born_ts, seen_ts, ends_ts, destroyed_ts"


class StoredEpoch(NamedTuple):
    """An epoch as it is kept; of one that is being destroyed there are no shares and no salt. Times in milliseconds:
    born, last known to be in use, at its latest end, and when it was destroyed."""

    epoch: Epoch
    salt: bytes
    born_ts: int
    seen_ts: int
    ends_ts: int
    destroyed_ts: int | None

    @property
    def can_be_opened(self) -> bool:
        """Whether its shares are still there."""
        return bool(self.epoch.shares)


async def newest(tx: Transaction) -> StoredEpoch | None:
    """The epoch with the highest number: the only one that may be in use."""
    row = await tx.one(f"SELECT {_COLUMNS} FROM epochs WHERE number = (SELECT MAX(number) FROM epochs)")
    return None if row is None else _read(tx, row)


async def find(tx: Transaction, number: int) -> StoredEpoch | None:
    """An epoch by its number."""
    row = await tx.one(f"SELECT {_COLUMNS} FROM epochs WHERE number = ?", number)
    return None if row is None else _read(tx, row)


async def every(tx: Transaction) -> list[StoredEpoch]:
    """All epochs that there ever were, the oldest first."""
    return [_read(tx, row) for row in await tx.all(f"SELECT {_COLUMNS} FROM epochs ORDER BY number")]


def put(tx: Transaction, epoch: Epoch, salt: bytes, born_ts: int, ends_ts: int) -> None:
    """Queue a new epoch."""
    shares = {
        name: {"key": _text(share.key), "box": _text(share.box), "digest": _text(share.digest)}
        for name, share in epoch.shares.items()
    }
    tx.later(
        "INSERT INTO epochs (number, public_key, threshold, shares, salt, born_ts, seen_ts, ends_ts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                epoch.number,
                epoch.public_key,
                epoch.threshold,
                orjson.dumps(shares),
                salt,
                born_ts,
                born_ts,
                ends_ts,
            )
        ],
    )


def note_use(tx: Transaction, number: int, now_ms: int) -> None:
    """Queue that an epoch is in use now."""
    tx.later("UPDATE epochs SET seen_ts = ? WHERE number = ? AND seen_ts < ?", [(now_ms, number, now_ms)])


async def due(tx: Transaction, born_before: int) -> int | None:
    """Up to which number epochs are to be destroyed, if any are: those that were born before a moment, and all before
    them, whatever the clock said at their birth; and those of which that was begun."""
    row = await tx.one(
        "SELECT MAX(number), MAX(CASE WHEN destroyed_ts IS NULL THEN 1 ELSE 0 END) FROM epochs WHERE number <= (SELECT"
        " MAX(number) FROM epochs WHERE born_ts <= ? OR LENGTH(shares) = 0)",
        born_before,
    )
    return None if row is None or row[0] is None or not row[1] else int(row[0])


async def newest_number(tx: Transaction) -> int | None:
    """The highest number of an epoch that is not destroyed."""
    row = await tx.one("SELECT number FROM epochs WHERE destroyed_ts IS NULL ORDER BY number DESC LIMIT 1")
    return None if row is None else int(row[0])


async def close_for_ever(tx: Transaction, number: int) -> None:
    """Make away with the shares of all epochs up to a number: from now on nobody opens what was sealed to them."""
    await tx.run("UPDATE epochs SET shares = ?, salt = ? WHERE number <= ? AND destroyed_ts IS NULL", b"", b"", number)


async def delete_some(tx: Transaction, number: int) -> bool:
    """Delete some of what belongs to epochs up to a number; False when nothing was left."""
    gone = await tx.run(
        "DELETE FROM sessions WHERE session_nid IN (SELECT session_nid FROM sessions WHERE epoch <= ? LIMIT ?)",
        number,
        AT_ONCE,
    )
    if gone < AT_ONCE:
        gone += await tx.run("DELETE FROM device_days WHERE epoch <= ?", number)
    return gone > 0


async def note_destroyed(tx: Transaction, number: int, now_ms: int) -> list[int]:
    """Note that epochs up to a number are destroyed; returns the numbers of those that were not before."""
    rows = await tx.all(
        "UPDATE epochs SET destroyed_ts = ? WHERE number <= ? AND destroyed_ts IS NULL RETURNING number", now_ms, number
    )
    return sorted(row[0] for row in rows)


async def holding(tx: Transaction, numbers: Sequence[int]) -> dict[int, int]:
    """How many records are sealed to each of these epochs."""
    marks = ",".join("?" * len(numbers))
    rows = await tx.all(f"SELECT epoch, COUNT(*) FROM sessions WHERE epoch IN ({marks}) GROUP BY epoch", *numbers)
    return dict.fromkeys(numbers, 0) | {int(row[0]): int(row[1]) for row in rows}


def _read(tx: Transaction, row: Row) -> StoredEpoch:
    number, public_key, threshold, shares, salt, born_ts, seen_ts, ends_ts, destroyed_ts = row
    found = {
        name: SealedShare(b64decode(each["key"]), b64decode(each["box"]), b64decode(each["digest"]))
        for name, each in (orjson.loads(shares) if shares else {}).items()
    }
    epoch = Epoch(tx.node, number, public_key, threshold, found)
    return StoredEpoch(epoch, salt, born_ts, seen_ts, ends_ts, destroyed_ts)


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
