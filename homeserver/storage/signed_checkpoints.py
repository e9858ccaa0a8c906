"""The newest checkpoints of logs of others that were signed here, one of each size: in the directory database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction

MOST: Final = 1000
"""Of one log: what it took back is seldom longer ago."""


@asks_once
async def up_to(tx: Transaction, origin: str, size: int) -> bytes | None:
    """The largest that has no more leaves than that."""
    sql = "SELECT note FROM signed_checkpoints WHERE origin = ? AND size <= ? ORDER BY size DESC LIMIT 1"
    row = await tx.one(sql, origin, size)
    return None if row is None else bytes(row[0])


async def add(tx: Transaction, origin: str, size: int, note: bytes) -> None:
    """Remember one; the first of a size stays, and the smallest go."""
    await tx.run(
        "INSERT INTO signed_checkpoints (origin, size, note) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        origin,
        size,
        note,
    )
    await tx.run(
        "DELETE FROM signed_checkpoints WHERE origin = ? AND size <= COALESCE((SELECT size FROM signed_checkpoints"
        " WHERE origin = ? ORDER BY size DESC LIMIT 1 OFFSET ?), -1)",
        origin,
        origin,
        MOST,
    )
