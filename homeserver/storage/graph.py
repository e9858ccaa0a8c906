"""Events of one room by their ids: what an event of the room refers to is looked for nowhere else.

Servers choose the ids of events in old rooms, so that an id alone does not say of which room an event is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage.events import of_room as of_room

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


async def known(tx: Transaction, room_nid: int, event_id: str) -> tuple[tuple[int, int | None] | None, int | None]:
    """What a node has of an event that comes: row id and place of itself, and the row id of a redaction of the room
    that came before it."""
    rows = await tx.all(
        "SELECT 0, event_nid, pos FROM events WHERE event_id = ?"
        # CROSS: from what waits to its events. The other way around SQLite would look through all of the room.
        " UNION ALL SELECT 1, w.redaction_nid, NULL FROM waiting_redactions w CROSS JOIN events e"
        " WHERE w.target_id = ? AND e.event_nid = w.redaction_nid AND e.room_nid = ?",
        event_id,
        event_id,
        room_nid,
    )
    held = next(((nid, pos) for kind, nid, pos in rows if kind == 0), None)
    return held, min((nid for kind, nid, _ in rows if kind == 1), default=None)
