"""Unread counts, lazily: nothing is written for a member when an event arrives.

A count is brought up to date when its owner syncs, by judging the events since it was last looked at. It starts at
what the user has read, in each thread for itself, and at what they have sent themselves.

spec: client-server-api/#receiving-notifications
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.accounts import ignored, push_rules
from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.push_evaluation import Evaluator, Narrowed, Subject
from homeserver.push.threads import of_events as threads_of
from homeserver.rooms import state
from homeserver.rooms.receipts import MAIN
from homeserver.rooms.state import Room, Timed, timed
from homeserver.runtime.lru import Lru
from homeserver.storage import events, receipts
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.protocol.push_evaluation import Outcome
    from homeserver.storage.nodes import Node
    from homeserver.storage.receipts import UnreadStart

CHUNK = 500
"""Events judged between two looks at the database."""

WORTH_KEEPING = 100
"""Judging more events than this is remembered in the database."""


class Count(NamedTuple):
    """Unread notifications of a room, and how many of them highlight; ``threads``: the same by thread, where there are
    any, the main timeline's under `MAIN`.
    """

    notifications: int
    highlights: int
    threads: Mapping[str, tuple[int, int]]


@dataclass(slots=True)
class _Kept:
    """A count on its way: `UnreadStart` as it is now. ``again``: by outdated thread, the place it is read up to."""

    newest: int
    read: Mapping[str, int]
    counted_to: int
    counts: dict[str, tuple[int, int]]
    again: Mapping[str, int]
    judged: int = 0


def _kept(start: UnreadStart) -> _Kept:
    counts = {thread: (found[0], found[1]) for thread, found in orjson.loads(start.counts).items()}
    again = {thread: start.read.get(thread, start.read_to) for thread in start.again}
    return _Kept(start.newest, start.read, start.counted_to, counts, again)


class Counts(Mirror):
    """Counts in memory (``node.memory(Counts)``), and what distinct rulesets say about the newest events."""

    def __init__(self) -> None:
        self.kept: Lru[tuple[int, int], _Kept] = Lru(100_000)
        # Starts that are being read, each with the mark of its newest reader: who reads on takes it away.
        self.reading: dict[tuple[int, int], object] = {}
        self.narrowed: Lru[tuple[int, Evaluator], Narrowed] = Lru(500)

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
        found = {room_nid: _kept(start) for room_nid, start in starts.items()}
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
    """The unread counts of a room for a resident, up to a position. Usually no trip.

    What is sent by users whom they ignore does not count.
    """
    memory = node.memory(Counts)
    kept = memory.kept.get((user_nid, room.nid))
    if kept is None:
        kept = (await _start(node, user_nid, [room.nid]))[room.nid]
    if kept.again or kept.counted_to < min(upto, room.last_pos):
        judge = await _judge_of(node, room, user_nid, user_id)
        if kept.again:
            await _count_again(node, room, kept, judge)
        while kept.counted_to < upto:
            after = kept.counted_to
            fresh = await _after(node, room, after, upto)
            threads = await threads_of(node, room, fresh)
            if kept.counted_to == after:  # nobody else went on meanwhile
                judge.go_on(kept.counts, kept.read, fresh, threads)
                kept.counted_to = fresh[-1].pos if len(fresh) == CHUNK else upto
                kept.judged += len(fresh)
    if kept.judged > WORTH_KEEPING:
        kept.judged = 0
        counts = orjson.dumps(kept.counts)
        await node.write(receipts.keep_count, user_nid, room.nid, kept.newest, kept.counted_to, counts)
    each = kept.counts.values()
    return Count(sum(found[0] for found in each), sum(found[1] for found in each), kept.counts)


async def _count_again(node: Node, room: Room, kept: _Kept, judge: _Judge) -> None:
    """Count those threads anew in which the user has read on since the count was kept."""
    again, upto = kept.again, kept.counted_to
    counts: dict[str, tuple[int, int]] = {}
    after = min(again.values())
    while after < upto:
        events = await _after(node, room, after, upto)
        threads = await threads_of(node, room, events)
        judge.go_on(counts, {**kept.read, **again}, events, threads, only=again)
        after = events[-1].pos if len(events) == CHUNK else upto
    if kept.again is again:  # else somebody else has done it
        kept.again = {}
        for thread in again:
            kept.counts.pop(thread, None)
        kept.counts.update(counts)


async def _after(node: Node, room: Room, after: int, upto: int) -> Sequence[Timed]:
    if after >= room.recent_floor:
        return [event for event in room.recent if after < event.pos <= upto][:CHUNK]
    return [timed(row) for row in await node.read(events.timeline_forwards, room.nid, after, upto, CHUNK)]


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says what events are to a resident."""

    node: Node
    room: Room
    user_id: str
    evaluator: Evaluator
    ignored: frozenset[str]

    def go_on(
        self,
        counts: dict[str, tuple[int, int]],
        read: Mapping[str, int],
        events: Sequence[Timed],
        threads: Mapping[str, str],
        only: Collection[str] | None = None,
    ) -> None:
        """Go on counting with these events; with ``only``, in these threads.

        Whoever sends an event has read what came before it, in whatever thread.
        """
        for event in events:
            if event.sender == self.user_id:
                counts.clear()
                continue
            thread = threads.get(event.event_id, MAIN)
            if event.sender in self.ignored or event.pos <= read.get(thread, event.pos - 1):
                continue
            if only is not None and thread not in only:
                continue
            outcome = self._outcome(event)
            if outcome.notify or outcome.highlight:
                before = counts.get(thread, (0, 0))
                counts[thread] = (before[0] + outcome.notify, before[1] + outcome.highlight)

    def _outcome(self, event: Timed) -> Outcome:
        narrowed = self.node.memory(Counts).narrowed
        found = narrowed.get((event.event_nid, self.evaluator))
        if found is None:
            found = self.evaluator.narrow(_subject(self.room, event))
            narrowed[event.event_nid, self.evaluator] = found
        return found.settled or found.outcome(self.user_id, _display_name(self.room, self.user_id))


async def _judge_of(node: Node, room: Room, user_nid: int, user_id: str) -> _Judge:
    await state.require(node, room, [CREATE, POWER_LEVELS, (MEMBER, user_id)])
    evaluator = node.memory(push_rules.Compiled).find(user_nid)
    if evaluator is None:
        evaluator = (await node.read(push_rules.evaluators, node, [user_nid]))[user_nid]
    return _Judge(node, room, user_id, evaluator, await ignored.of_user(node, user_nid))


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
