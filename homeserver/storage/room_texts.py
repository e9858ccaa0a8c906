"""What rooms are called and what they are about: the only text of a room that a server can read.

spec: client-server-api/#server-side-search
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage.events import COLUMNS, FROM, StoredEvent

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction


async def said(tx: Transaction, room_nids: Sequence[int], types: Collection[str]) -> list[tuple[int, StoredEvent]]:
    """All accepted events of these types, with an empty state key, of the timelines of rooms: (room_nid, event)."""
    if not room_nids or not types:
        return []
    rooms, kinds = ",".join("?" * len(room_nids)), ",".join("?" * len(types))
    rows = await tx.all(
        f"SELECT e.room_nid, {COLUMNS} {FROM} WHERE e.room_nid IN ({rooms}) AND e.type IN ({kinds})"
        " AND e.state_key = '' AND e.verdict = 0 AND e.pos IS NOT NULL",
        *room_nids,
        *types,
    )
    return [(row[0], StoredEvent(*row[1:])) for row in rows]
