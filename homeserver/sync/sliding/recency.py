"""By what clients sort rooms: the place of the newest event that is worth it.

From memory when one of the room's last events is; else it is looked for once, among so many events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.runtime.lru import Lru
from homeserver.storage import sliding
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from homeserver.rooms.state import Room
    from homeserver.sync.sliding.telling import Draft, Telling

TYPES: Final = frozenset(
    (
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
        "org.matrix.msc3672.beacon_info",
    )
)
SCANNED = 1000
"""Events that are looked at, at most."""


class Bumps(Mirror):
    """What was found in rooms (``node.memory(Bumps)``): by row id, up to which place, and the newest one's place; 0 for
    none."""

    def __init__(self) -> None:
        self.of_room: Lru[int, tuple[int, int]] = Lru(100_000)

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.of_room.clear()


async def stamp(telling: Telling, draft: Draft) -> int:
    """The ``bump_stamp`` of a room: never below 0."""
    if not draft.joined or draft.room is None:
        return max(draft.listed.pos, 0)
    found = await _newest(telling, draft.room, draft.upto)
    return found if found > 0 else max(draft.listed.pos, 0)


async def _newest(telling: Telling, room: Room, upto: int) -> int:
    for event in reversed(room.recent):
        if event.pos <= upto and event.type in TYPES:
            return event.pos
    node = telling.caller.node
    memory = node.memory(Bumps).of_room
    held = memory.get(room.nid)
    if held is not None and room.recent_floor <= held[0]:
        return held[1]
    place = await node.read(sliding.newest_among, room.nid, TYPES, upto, SCANNED)
    memory[room.nid] = (upto, place or 0)
    return place or 0
