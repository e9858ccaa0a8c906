"""Messages to devices that have come from other servers, so that what comes again is not delivered twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


async def take_message(tx: Transaction, origin: str, message_id: str, ts: int) -> bool:
    """Note that a server's message to devices is delivered, at ``ts`` (ms); False when it was before."""
    count = await tx.run(
        "INSERT INTO received_to_device (origin, message_id, ts) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        origin,
        message_id,
        ts,
    )
    return count == 1


async def forget(tx: Transaction, before_ts: int, heard_before_ts: int, never_ts: int) -> None:
    """Drop what was noted before ``before_ts`` of servers that have been heard since, at the latest at
    ``heard_before_ts``; and of all what was noted before ``never_ts``."""
    tx.later(
        "DELETE FROM received_to_device WHERE ts < ? AND (ts < ? OR origin IN"
        " (SELECT origin FROM received_to_device WHERE ts >= ? AND ts < ?))",
        [(before_ts, never_ts, before_ts, heard_before_ts)],
    )
