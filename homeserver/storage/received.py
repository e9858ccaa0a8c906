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


async def forget(tx: Transaction, before_ts: int) -> None:
    """Drop what was noted before ``before_ts``."""
    tx.later("DELETE FROM received_to_device WHERE ts < ?", [(before_ts,)])
