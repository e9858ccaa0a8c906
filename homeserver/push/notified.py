"""The events of which a user has been, or would have been, notified: found when they ask, written down for nobody.

The timelines of their rooms are read together from the newest event backwards, and judged by the rules that they have
now; only as far as is needed for a page, and never more than a bound.

spec: client-server-api/#get_matrixclientv3notifications
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.push import unread
from homeserver.rooms import showing, sight, state
from homeserver.rooms.state import timed
from homeserver.storage import events as stored
from homeserver.storage import rooms as stored_rooms

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.push.unread import Notable
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.nodes import Node

MOST_JUDGED = 2000
"""Events that are judged for one page: a page may be short of what was asked for, and yet not be the last."""

CHUNK = 50


class Page(NamedTuple):
    """Notifications as JSON objects, the newest first, and the position from which the next page goes on."""

    shown: list[bytes]
    following: int | None


@dataclass(slots=True)
class _Walk:
    """A room's timeline on its way backwards; ``ahead``: what has been read and not been looked at."""

    room: Room
    seen: Sight
    ahead: deque[Timed] = field(default_factory=deque)

    async def read(self, node: Node, upto: int) -> None:
        """Have something ahead, if there is anything up to a position."""
        if not self.ahead:
            if self.room.recent and self.room.recent[0].pos <= upto:
                self.ahead.extend(event for event in reversed(self.room.recent) if event.pos <= upto)
            else:
                rows = await node.read(stored.timeline_backwards, self.room.nid, upto, None, CHUNK)
                self.ahead.extend(timed(row) for row in rows)

    def take(self, downto: int) -> list[Timed]:
        """What is ahead down to a position, and the first of it in any case."""
        taken = [self.ahead.popleft()]
        while self.ahead and self.ahead[0].pos > downto:
            taken.append(self.ahead.popleft())
        return taken


async def page(server: Server, caller: Caller, upto: int, limit: int, only_highlights: bool) -> Page:
    """The newest notifications up to a position, with ``only_highlights`` those that stand out."""
    node = caller.node
    walks: dict[str, _Walk] = {}
    heap = [(-pos, room_id) for _, room_id, pos in await node.read(stored_rooms.last_places, caller.user_nid, upto)]
    heapq.heapify(heap)
    shown: list[bytes] = []
    judged = 0
    while heap and judged < MOST_JUDGED:
        place, room_id = heapq.heappop(heap)
        walk = walks.get(room_id)
        if walk is None:
            room = await state.find(node, room_id)
            if room is None:
                continue
            walk = walks[room_id] = _Walk(room, await sight.of_room(node, room, caller.user_id))
        await walk.read(node, -place)
        if not walk.ahead:
            continue
        taken = walk.take(-heap[0][0] if heap else -(2**62))
        judged += len(taken)
        heapq.heappush(heap, (-(walk.ahead[0].pos if walk.ahead else taken[-1].pos - 1), room_id))
        found = await _notable(caller, walk, taken, only_highlights)
        for each in found:
            shown.append(await _shown(server, caller, walk, each))
            if len(shown) == limit:
                return Page(shown, each.event.pos - 1)
    return Page(shown, -heap[0][0] if heap else None)


async def _notable(caller: Caller, walk: _Walk, events: list[Timed], only_highlights: bool) -> list[Notable]:
    visible = [event for event in events if walk.seen.membership_at(event.pos) == sight.JOINED]
    found = await unread.notable(caller.node, walk.room, caller.user_nid, caller.user_id, visible)
    return [each for each in found if each.outcome.highlight or not only_highlights]


async def _shown(server: Server, caller: Caller, walk: _Walk, each: Notable) -> bytes:
    read = await unread.read_of(caller.node, caller.user_nid, walk.room.nid)
    (event,) = await showing.show_all(server, caller, walk.room, walk.seen, [each.event])
    return orjson.dumps(
        {
            "actions": list(each.outcome.actions),
            "event": orjson.Fragment(event),
            "read": read.covers(each.thread, each.event.pos),
            "room_id": walk.room.room_id,
            "ts": each.event.ts,
        }
    )
