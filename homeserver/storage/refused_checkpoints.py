"""Checkpoints that logs have signed and that were not signed here, for it could not be told whether they go on from
what was: in the directory database, until that is found out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.protocol.checkpoints import Head
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.storage.engine import Transaction

MOST: Final = 16
"""Of one log; the largest stay."""


class Refused(NamedTuple):
    """A checkpoint, under the signature of its log alone."""

    head: Head
    note: bytes


@asks_once
async def waiting(tx: Transaction) -> dict[str, list[Refused]]:
    """All that have not been explained, by the logs that have signed them, the largest first."""
    rows = await tx.all("SELECT origin, size, root, note FROM refused_checkpoints ORDER BY origin, size DESC, root")
    found: dict[str, list[Refused]] = {}
    for origin, size, root, note in rows:
        found.setdefault(origin, []).append(Refused(Head(int(size), bytes(root)), bytes(note)))
    return found


@asks_once
async def waits(tx: Transaction, origin: str, head: Head) -> bool:
    """Whether one is among them."""
    sql = "SELECT 1 FROM refused_checkpoints WHERE origin = ? AND size = ? AND root = ?"
    return await tx.one(sql, origin, *head) is not None


@asks_once
async def counts(tx: Transaction) -> dict[str, int]:
    """How many there are, by the logs that have signed them."""
    rows = await tx.all("SELECT origin, COUNT(*) FROM refused_checkpoints GROUP BY origin")
    return {origin: int(count) for origin, count in rows}


async def keep(tx: Transaction, origin: str, refused: Refused, now_ms: int) -> None:
    """Keep one, unless there are as many larger ones as may be."""
    await tx.run(
        "INSERT INTO refused_checkpoints (origin, size, root, note, refused_ts) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        origin,
        *refused.head,
        refused.note,
        now_ms,
    )
    sizes = await tx.all("SELECT size, root FROM refused_checkpoints WHERE origin = ? ORDER BY size DESC, root", origin)
    await explained(tx, origin, [Head(int(size), bytes(root)) for size, root in sizes[MOST:]])


async def explained(tx: Transaction, origin: str, heads: Iterable[Head]) -> None:
    """Forget some of a log."""
    sql = "DELETE FROM refused_checkpoints WHERE origin = ? AND size = ? AND root = ?"
    await tx.many(sql, [(origin, *head) for head in heads])


async def forget(tx: Transaction, origin: str) -> None:
    """Forget all of a log."""
    await tx.run("DELETE FROM refused_checkpoints WHERE origin = ?", origin)
