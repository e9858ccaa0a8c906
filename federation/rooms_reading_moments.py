"""The event of a room nearest to a moment, for servers that ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import NotFound
from homeserver.storage import events

if TYPE_CHECKING:
    from federation.rooms_reading import Reading
    from homeserver.storage.events import StoredEvent

LOOKED_AT: Final = 100
"""Events nearest to a moment among which one is looked for that the server may see."""


async def nearest(reading: Reading, moment: int, *, backwards: bool) -> StoredEvent:
    """The event nearest to a moment (milliseconds since 1970), that or earlier, or that or later. Raises NotFound.

    spec: server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
    """
    rows = await reading.node.read(events.nearest, reading.room.nid, moment, backwards, LOOKED_AT)
    for row in rows:
        if reading.sees(row):
            return row
    raise NotFound(f"There is no event {'before' if backwards else 'after'} that moment")
