"""What has been received from other servers, so that what comes again is not taken in twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


async def has_transaction(tx: Transaction, origin: str, txn_id: str) -> bool:
    """Whether a transaction of a server has been taken in whole."""
    row = await tx.one("SELECT 1 FROM received_transactions WHERE origin = ? AND txn_id = ?", origin, txn_id)
    return row is not None


async def put_transaction(tx: Transaction, origin: str, txn_id: str, ts: int) -> None:
    """Note that a transaction has been taken in whole, at ``ts`` (ms)."""
    tx.later(
        "INSERT INTO received_transactions (origin, txn_id, ts) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(origin, txn_id, ts)],
    )


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
    tx.later("DELETE FROM received_transactions WHERE ts < ?", [(before_ts,)])
    tx.later("DELETE FROM received_to_device WHERE ts < ?", [(before_ts,)])
