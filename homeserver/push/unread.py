"""Unread counts, lazily: nothing is written for a member when an event arrives.

A count is brought up to date when its owner syncs, by judging the events since it was last looked at. It starts at
what the user has read, and at what they have sent themselves.

spec: client-server-api/#receiving-notifications
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.accounts import push_rules
from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.push_evaluation import Evaluator, Narrowed, Subject
from homeserver.rooms import state
from homeserver.rooms.state import Room, Timed, timed
from homeserver.runtime.lru import Lru
from homeserver.storage import events, receipts
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.nodes import Node

CHUNK = 500
"""Events judged between two looks at the database."""

WORTH_KEEPING = 100
"""Judging more events than this is remembered in the database."""


class Count(NamedTuple):
    """Unread notifications, and how many of them highlight."""

    notifications: int
    highlights: int


@dataclass(slots=True)
class _Kept:
    read_to: int
    counted_to: int
    notifications: int
    highlights: int
    judged: int = 0


class Counts(Mirror):
    """Counts in memory (``node.memory(Counts)``), and what distinct rulesets say about the newest events."""

    def __init__(self) -> None:
        self.kept: Lru[tuple[int, int], _Kept] = Lru(100_000)
        # Starts that are being read, each with the mark of its newest reader: who reads on takes it away.
        self.reading: dict[tuple[int, int], object] = {}
        self.narrowed: Lru[tuple[int, Evaluator], Narrowed] = Lru(2_000)

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.kept.clear()
        self.reading.clear()


def forget(node: Node, user_nid: int, room_nid: int) -> None:
    """The user has read on: the next count starts anew from what they have read."""
    memory = node.memory(Counts)
    memory.kept.pop((user_nid, room_nid))
    memory.reading.pop((user_nid, room_nid), None)


async def _start(node: Node, user_nid: int, room_nids: Sequence[int]) -> dict[int, _Kept]:
    """Where counts go on, kept unless the user has read on meanwhile."""
    memory, mark = node.memory(Counts), object()
    memory.reading.update({(user_nid, room_nid): mark for room_nid in room_nids})
    found: dict[int, _Kept] = {}
    try:
        starts = await node.read(receipts.unread_starts, user_nid, room_nids)
        found = {room_nid: _Kept(*start) for room_nid, start in starts.items()}
        return found
    finally:
        for room_nid in room_nids:
            if memory.reading.get((user_nid, room_nid)) is mark:
                del memory.reading[user_nid, room_nid]
                if room_nid in found:
                    memory.kept[user_nid, room_nid] = found[room_nid]


async def prepare(node: Node, user_nid: int, room_nids: Sequence[int]) -> None:
    """Read together where the counts of many rooms go on, of those that are not in memory."""
    memory = node.memory(Counts).kept
    missing = [room_nid for room_nid in room_nids if (user_nid, room_nid) not in memory]
    if missing:
        await _start(node, user_nid, missing)


async def count(node: Node, room: Room, user_nid: int, user_id: str, upto: int) -> Count:
    """The unread counts of a room for a resident, up to a position. Usually no trip."""
    memory = node.memory(Counts)
    kept = memory.kept.get((user_nid, room.nid))
    if kept is None:
        kept = (await _start(node, user_nid, [room.nid]))[room.nid]
    if kept.counted_to < min(upto, room.last_pos):
        await state.require(node, room, [CREATE, POWER_LEVELS, (MEMBER, user_id)])
        evaluator = node.memory(push_rules.Compiled).find(user_nid)
        if evaluator is None:
            evaluator = (await node.read(push_rules.evaluators, node, [user_nid]))[user_nid]
        while kept.counted_to < upto:
            after = kept.counted_to
            fresh = await _after(node, room, after, upto)
            if kept.counted_to == after:  # nobody else went on meanwhile
                for event in fresh:
                    _judge(node, room, kept, event, evaluator, user_id)
                kept.counted_to = fresh[-1].pos if len(fresh) == CHUNK else upto
                kept.judged += len(fresh)
    if kept.judged > WORTH_KEEPING:
        kept.judged = 0
        row = (kept.read_to, kept.counted_to, kept.notifications, kept.highlights)
        await node.write(receipts.keep_count, user_nid, room.nid, row)
    return Count(kept.notifications, kept.highlights)


async def _after(node: Node, room: Room, after: int, upto: int) -> Sequence[Timed]:
    if after >= room.recent_floor:
        return [event for event in room.recent if after < event.pos <= upto][:CHUNK]
    return [timed(row) for row in await node.read(events.timeline_forwards, room.nid, after, upto, CHUNK)]


def _judge(node: Node, room: Room, kept: _Kept, event: Timed, evaluator: Evaluator, user_id: str) -> None:
    if event.sender == user_id:
        kept.notifications = kept.highlights = 0
        return
    narrowed = node.memory(Counts).narrowed
    found = narrowed.get((event.event_nid, evaluator))
    if found is None:
        found = narrowed[event.event_nid, evaluator] = evaluator.narrow(_subject(room, event))
    outcome = found.settled or found.outcome(user_id, _display_name(room, user_id))
    kept.notifications += outcome.notify
    kept.highlights += outcome.highlight


def _subject(room: Room, event: Timed) -> Subject:
    return Subject(
        room.room_id,
        event.event_id,
        event.type,
        event.sender,
        event.state_key,
        orjson.loads(content_of(event.client)),
        room.now.joined,
        Levels(room.rules, room.head.event(CREATE), room.head.event(POWER_LEVELS)),
    )


def _display_name(room: Room, user_id: str) -> str | None:
    member = room.head.event((MEMBER, user_id))
    name = None if member is None else member.content.get("displayname")
    return name if isinstance(name, str) else None
