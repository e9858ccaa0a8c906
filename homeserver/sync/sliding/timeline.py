"""The timelines of the rooms of an answer: the newest events of each, from memory where that has them.

What is not in memory is read for all rooms together, and so is what somebody may see of a room, where that has to be
asked: not for events that came after their membership last changed.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from homeserver.rooms import erasure, sight
from homeserver.rooms.state import timed
from homeserver.storage import events as stored
from homeserver.storage import sliding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from homeserver.rooms.state import Room, Timed
    from homeserver.sync.sliding.telling import Draft, Telling

WHOLE = -(2**62)
"""The `Room.recent_floor` of a room of which all events are in memory."""

Found = tuple["Sequence[Timed]", bool]
"""Events, oldest first; and whether there are no more in the stretch that was asked for."""


async def fill(telling: Telling, drafts: Sequence[Draft]) -> None:
    """Set the events of drafts whose rooms the node has."""
    found = await _all_found(telling, drafts)
    await _look(telling, drafts, found)
    for draft in drafts:
        _cut(telling, draft, *found[draft.listed.room_nid])


async def _all_found(telling: Telling, drafts: Iterable[Draft]) -> dict[int, Found]:
    """By room row id."""
    node = telling.caller.node
    found: dict[int, Found] = {}
    missing: dict[tuple[int, int], list[int]] = {}
    for draft in drafts:
        room, nid = draft.room, draft.listed.room_nid
        assert room is not None
        start = None if draft.expanded else draft.since
        held = _at_hand(telling, draft, room) if start is None else None
        if held is None:
            held = _in_memory(room, start, draft.upto, draft.config.limit)
        if held is not None:
            found[nid] = held
        elif start is None:
            missing.setdefault((draft.upto, draft.config.limit), []).append(nid)
        else:
            limit = draft.config.limit + 1
            rows = await node.read(stored.timeline_backwards, room.nid, draft.upto, start, limit)
            found[nid] = [timed(row) for row in reversed(rows)], len(rows) < limit
    for (upto, limit), nids in missing.items():
        by_room = await node.read(sliding.newest_of_rooms, nids, upto, limit + 1)
        for nid in nids:
            newest = by_room.get(nid, [])
            found[nid] = [timed(row) for row in reversed(newest)], len(newest) <= limit
    return found


def _at_hand(telling: Telling, draft: Draft, room: Room) -> Found | None:
    """The newest events where the user may see them all, and none of what is before them is needed: most often."""
    if telling.ignored or telling.erased or draft.seen is not None:
        return None
    limit = draft.config.limit
    events = list(islice(reversed(room.recent), limit + 1))
    if len(events) <= limit or events[0].pos > draft.upto or events[max(limit - 1, 0)].pos < draft.listed.pos:
        return None
    events.reverse()
    return events, False


def _in_memory(room: Room, start: int | None, upto: int, limit: int) -> Found | None:
    if start is not None:
        if start < room.recent_floor:
            return None
        return [event for event in room.recent if start < event.pos <= upto], True
    events = list(room.recent)
    if events and events[-1].pos > upto:
        events = [event for event in events if event.pos <= upto]
    if room.recent_floor > WHOLE and len(events) <= limit:
        return None
    return events, room.recent_floor == WHOLE


async def _look(telling: Telling, drafts: Sequence[Draft], found: dict[int, Found]) -> None:
    """Ask what the user may see of those rooms where there is doubt."""
    asked = [draft for draft in drafts if draft.seen is None and _is_doubtful(telling, draft, found)]
    if asked:
        sights = await sight.of_rooms(
            telling.caller.node, [draft.listed.room_nid for draft in asked], telling.caller.user_id
        )
        for draft in asked:
            draft.seen = sights[draft.listed.room_nid]


def _is_doubtful(telling: Telling, draft: Draft, found: dict[int, Found]) -> bool:
    if telling.erased:
        return True
    events = found[draft.listed.room_nid][0][-max(draft.config.limit, 1) :]
    return bool(events) and events[0].pos < draft.listed.pos


def _cut(telling: Telling, draft: Draft, found: Sequence[Timed], complete: bool) -> None:
    """Keep the newest events that the user may see, as many as are wanted."""
    limit, seen, room = draft.config.limit, draft.seen, draft.room
    assert room is not None
    if telling.ignored:
        found = [event for event in found if event.state_key is not None or event.sender not in telling.ignored]
    if seen is not None:
        found = [event for event in found if seen.sees(event)]
    draft.limited = len(found) > limit or not complete
    events = found[-limit:] if limit else ()
    draft.events = erasure.shown(room, telling.erased, seen, events)
    if draft.events:
        draft.floor = draft.events[0].pos - 1
    else:
        draft.floor = draft.upto if draft.limited or draft.since is None else draft.since
    if draft.expanded and draft.since is not None:
        draft.limited = draft.limited and draft.floor > draft.since
