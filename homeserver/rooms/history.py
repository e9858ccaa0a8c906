"""Reading a room's past: one event, or a stretch of the timeline in either direction, of what somebody may see.

spec: client-server-api/#get_matrixclientv3roomsroomidmessages
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.errors import NotFound
from homeserver.rooms.state import Room, Timed, timed
from homeserver.storage import events, rooms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from homeserver.rooms.sight import Sight
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node


async def find(node: Node, room: Room, seen: Sight, event_id: str) -> Timed:
    """An event of the timeline that somebody may see. Raises NotFound, which also stands for what is not theirs."""
    row = await node.read(events.by_id, room.nid, event_id)
    if row is not None and row.pos is not None and row.verdict == 0 and seen.sees(timed(row)):
        return timed(row)
    raise NotFound("There is no such event, or you may not see it")


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a timeline in the order in which it was read; ``end`` None: there is no more in that direction.

    ``start`` and ``end`` are positions *between* events: the timeline up to and including that position.
    """

    events: list[Timed]
    start: int
    end: int | None


SCANNED = 1000
"""Events that one page looks at, at most: a filter that lets little through ends the page early, with its ``end``."""


async def page(
    node: Node,
    room: Room,
    seen: Sight,
    *,
    start: int,
    to: int | None,
    backwards: bool,
    limit: int,
    wanted: Callable[[Timed], bool] | None = None,
) -> Page:
    """Up to ``limit`` visible events from ``start`` (see `Page`), in either direction; not beyond ``to``.

    spec: client-server-api/#get_matrixclientv3roomsroomidmessages
    """
    timeline = events.timeline_backwards if backwards else events.timeline_forwards

    async def rows(at: int, count: int) -> list[StoredEvent]:
        return await node.read(timeline, room.nid, at, to, count)

    def passes(event: Timed) -> bool:
        return seen.sees(event) and (wanted is None or wanted(event))

    turned = await turn(rows, passes, start=start, backwards=backwards, limit=limit)
    complete = turned.exhausted and (not backwards or to is not None or await _is_whole(node, room))
    return Page(turned.events, start, None if complete else turned.at)


class Turned(NamedTuple):
    """What `turn` found on its way to the position ``at``; ``exhausted``: there are no more rows beyond it."""

    events: list[Timed]
    at: int
    exhausted: bool


async def turn(
    rows: Callable[[int, int], Awaitable[Sequence[StoredEvent]]],
    passes: Callable[[Timed], bool],
    *,
    start: int,
    backwards: bool,
    limit: int,
) -> Turned:
    """Up to ``limit`` events that pass, of ``rows(position, count)`` from ``start`` on (see `Page`)."""
    chosen: list[Timed] = []
    at, scanned = start, 0
    while limit and scanned < SCANNED:
        count = min(max(limit - len(chosen), 20), SCANNED - scanned)
        found = await rows(at, count)
        for row in found:
            event = timed(row)
            at = event.pos - 1 if backwards else event.pos
            scanned += 1
            if passes(event):
                chosen.append(event)
                if len(chosen) == limit:
                    return Turned(chosen, at, exhausted=False)
        if len(found) < count:
            return Turned(chosen, at, exhausted=True)
    return Turned(chosen, at, exhausted=False)


async def _is_whole(node: Node, room: Room) -> bool:
    """Whether no older history has yet to be copied to the node."""
    return (await node.read(rooms.by_nid, room.nid)).history_before is None
