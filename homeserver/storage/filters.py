"""Filters that residents have uploaded. ``definition`` is canonical JSON, so that the same filter has one id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


async def add(tx: Transaction, user_nid: int, definition: bytes, most: int) -> int | None:
    """The id of a user's filter, which is stored unless it was; None when the user has ``most`` of them."""
    rows = await tx.all("SELECT filter_id, definition FROM filters WHERE user_nid = ? ORDER BY filter_id", user_nid)
    for filter_id, known in rows:
        if known == definition:
            return int(filter_id)
    if len(rows) >= most:
        return None
    filter_id = 1 + (rows[-1][0] if rows else -1)
    await tx.run(
        "INSERT INTO filters (user_nid, filter_id, definition) VALUES (?, ?, ?)", user_nid, filter_id, definition
    )
    return int(filter_id)


@asks_once
async def find(tx: Transaction, user_nid: int, filter_id: int) -> bytes | None:
    """A user's filter."""
    row = await tx.one("SELECT definition FROM filters WHERE user_nid = ? AND filter_id = ?", user_nid, filter_id)
    return None if row is None else row[0]
