"""The event of a room nearest to a moment, for users; other servers are asked where theirs may be nearer.

spec: client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol.errors import NotFound, Refusal
from homeserver.rooms import backfilled, sight
from homeserver.rooms.state import timed
from homeserver.storage import events, timeline_gaps

if TYPE_CHECKING:
    from homeserver.context import Past, Server
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.nodes import Node

LOOKED_AT: Final = 200
"""Events nearest to a moment among which one is looked for that the user may see."""
LEAST_HOLE: Final = 1000
MOST_HOLE: Final = 10**9

log = structlog.get_logger("rooms.moments")


async def nearest(server: Server, node: Node, room: Room, seen: Sight, moment: int, *, backwards: bool) -> Timed:
    """The event nearest to a moment (milliseconds since 1970) that a user may see: that or earlier, or that or later.

    Raises NotFound.
    """
    found = await _held(node, room, seen, moment, backwards)
    if room.now.servers and server.settings.federation.enabled:
        following = await node.read(events.nearest, room.nid, moment, False, 1)
        gap = None if not following else await node.read(timeline_gaps.below, room.nid, following[0])
        if gap is not None and await _fetched(server, node, room, moment, gap, found, backwards=backwards):
            found = await _held(node, room, await sight.renewed(node, room, seen), moment, backwards)
    if found is None:
        raise NotFound(f"There is no event {'before' if backwards else 'after'} that moment that you may see")
    return found


async def _held(node: Node, room: Room, seen: Sight, moment: int, backwards: bool) -> Timed | None:
    rows = await node.read(events.nearest, room.nid, moment, backwards, LOOKED_AT)
    return next((event for event in map(timed, rows) if seen.sees(event)), None)


async def _fetched(
    server: Server,
    node: Node,
    room: Room,
    moment: int,
    gap: timeline_gaps.Gap,
    found: Timed | None,
    *,
    backwards: bool,
) -> bool:
    """Ask other servers for an event that is nearer, and put it into the gap. Whether there was one."""
    limit = None if found is None else found.ts
    try:
        past = await server.remote.fetch_nearest(server, node, room.room_id, moment, limit, backwards=backwards)
        return past is not None and await _put(server, node, room, past, gap)
    except Refusal as refusal:
        log.info("no server told of a moment", node=node.name, reason=refusal.message)
        return False


async def _put(server: Server, node: Node, room: Room, past: Past, gap: timeline_gaps.Gap) -> bool:
    """Put an event somewhere into a gap, so that there is space for what lies around it."""
    if gap.above is None:
        lowest = await node.read(timeline_gaps.lowest_place, room.nid)
        apart = 0 if lowest is None else 2 * (lowest[1] - past.event.depth)
        hole = min(max(apart, LEAST_HOLE), MOST_HOLE)
    else:
        hole = await node.read(timeline_gaps.space_below, room.nid, gap.above) // 2
    return await backfilled.store(server, node, room, [past], backfilled.Place(gap.above, hole)) > 0
