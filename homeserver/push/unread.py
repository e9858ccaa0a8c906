"""Unread counts, lazily: nothing is written for a member when an event arrives.

A count is brought up to date when its owner syncs, by judging the events since it was last looked at. It starts at
what the user has read, in each thread for itself, and at what they have sent themselves.

spec: client-server-api/#receiving-notifications
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from homeserver.accounts import ignored, push_rules
from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.push_evaluation import Evaluator, Narrowed, Subject
from homeserver.push.threads import of_events as threads_of
from homeserver.rooms import state, thread_subscriptions
from homeserver.rooms.onlookers import Onlookers
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


CALLS: Final = frozenset(("m.call.invite", "m.rtc.notification", "org.matrix.msc4075.rtc.notification"))
"""The types of events that call somebody. Who answers sends events of their own, by which the call is not missed."""


class Count(NamedTuple):
    """Unread notifications of a room, and how many of them highlight; ``threads``: the same by thread, where there are
    any, the main timeline's under `MAIN`. ``calls``: how many of them are calls.
    """

    notifications: int
    highlights: int
    threads: Mapping[str, tuple[int, int]]
    calls: int = 0


class Read(NamedTuple):
    """How far a resident has read a room: up to the place ``whole`` in whatever thread, in some ``threads`` farther."""

    whole: int
    threads: Mapping[str, int]

    def covers(self, thread: str, pos: int) -> bool:
        """Whether an event of a thread has been read."""
        return pos <= max(self.whole, self.threads.get(thread, self.whole))


class Notable(NamedTuple):
    """An event of which the rules of a resident notify them."""

    event: Timed
    thread: str
    outcome: Outcome


@dataclass(slots=True)
class _Kept:
    """A count on its way: `UnreadStart` as it is now. ``again``: by outdated thread, the place it is read up to."""

    newest: int
    read_to: int
    read: Mapping[str, int]
    counted_to: int
    counts: dict[str, tuple[int, int]]
    calls: dict[str, int]
    again: Mapping[str, int]
    judged: int = 0

    def encoded(self) -> bytes:
        """The counts as they are kept in the database."""
        calls = self.calls
        return orjson.dumps({thread: (*found, calls.get(thread, 0)) for thread, found in self.counts.items()})


def _kept(start: UnreadStart) -> _Kept:
    stored = orjson.loads(start.counts)
    counts = {thread: (found[0], found[1]) for thread, found in stored.items()}
    calls = {thread: found[2] for thread, found in stored.items() if found[2:] > [0]}
    again = {thread: start.read.get(thread, start.read_to) for thread in start.again}
    return _Kept(start.newest, start.read_to, start.read, start.counted_to, counts, calls, again)


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
    """The user has read on: the next count starts anew from what they have read, and who tells them is told."""
    memory = node.memory(Counts)
    memory.kept.pop((user_nid, room_nid))
    memory.reading.pop((user_nid, room_nid), None)
    node.memory(Onlookers).read_on(user_nid, room_nid)


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
                judge.go_on(kept.counts, kept.calls, kept.read, fresh, threads)
                kept.counted_to = fresh[-1].pos if len(fresh) == CHUNK else upto
                kept.judged += len(fresh)
    if kept.judged > WORTH_KEEPING:
        kept.judged = 0
        await node.write(receipts.keep_count, user_nid, room.nid, kept.newest, kept.counted_to, kept.encoded())
    each, calls = kept.counts.values(), sum(kept.calls.values())
    return Count(sum(found[0] for found in each), sum(found[1] for found in each), kept.counts, calls)


async def _kept_of(node: Node, user_nid: int, room_nid: int) -> _Kept:
    kept = node.memory(Counts).kept.get((user_nid, room_nid))
    return (await _start(node, user_nid, [room_nid]))[room_nid] if kept is None else kept


async def read_of(node: Node, user_nid: int, room_nid: int) -> Read:
    """How far a resident has read a room. Usually no trip."""
    kept = await _kept_of(node, user_nid, room_nid)
    return Read(kept.read_to, kept.read)


async def notable(node: Node, room: Room, user_nid: int, user_id: str, events: Sequence[Timed]) -> list[Notable]:
    """Those events of a room's timeline of which a resident is to be notified, read or not. Usually no trip."""
    judge = await _judge_of(node, room, user_nid, user_id)
    threads = await threads_of(node, room, events)
    found = []
    for event in events:
        if event.sender != user_id and event.sender not in judge.ignored:
            outcome = judge.outcome(event)
            if outcome.notify:
                found.append(Notable(event, threads.get(event.event_id, MAIN), outcome))
    return found


async def _count_again(node: Node, room: Room, kept: _Kept, judge: _Judge) -> None:
    """Count those threads anew in which the user has read on since the count was kept."""
    again, upto = kept.again, kept.counted_to
    counts: dict[str, tuple[int, int]] = {}
    calls: dict[str, int] = {}
    after = min(again.values())
    while after < upto:
        events = await _after(node, room, after, upto)
        threads = await threads_of(node, room, events)
        judge.go_on(counts, calls, {**kept.read, **again}, events, threads, only=again)
        after = events[-1].pos if len(events) == CHUNK else upto
    if kept.again is again:  # else somebody else has done it
        kept.again = {}
        for thread in again:
            kept.counts.pop(thread, None)
            kept.calls.pop(thread, None)
        kept.counts.update(counts)
        kept.calls.update(calls)


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
    followed: frozenset[str]

    def go_on(
        self,
        counts: dict[str, tuple[int, int]],
        calls: dict[str, int],
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
                calls.clear()
                continue
            thread = threads.get(event.event_id, MAIN)
            if event.sender in self.ignored or event.pos <= read.get(thread, event.pos - 1):
                continue
            if only is not None and thread not in only:
                continue
            outcome = self.outcome(event)
            if outcome.notify or outcome.highlight:
                before = counts.get(thread, (0, 0))
                counts[thread] = (before[0] + outcome.notify, before[1] + outcome.highlight)
                if event.type in CALLS:
                    calls[thread] = calls.get(thread, 0) + 1

    def outcome(self, event: Timed) -> Outcome:
        """What their rules say of an event of somebody else."""
        narrowed = self.node.memory(Counts).narrowed
        found = narrowed.get((event.event_nid, self.evaluator))
        if found is None:
            found = self.evaluator.narrow(_subject(self.room, event))
            narrowed[event.event_nid, self.evaluator] = found
        return found.settled or found.outcome(self.user_id, _display_name(self.room, self.user_id), self.followed)


async def _judge_of(node: Node, room: Room, user_nid: int, user_id: str) -> _Judge:
    await state.require(node, room, [CREATE, POWER_LEVELS, (MEMBER, user_id)])
    evaluator = node.memory(push_rules.Compiled).find(user_nid)
    if evaluator is None:
        evaluator = (await node.read(push_rules.evaluators, node, [user_nid]))[user_nid]
    followed: frozenset[str] = frozenset()
    if evaluator.asks_threads:
        followed = await thread_subscriptions.followed(node, user_nid, room.nid)
    return _Judge(node, room, user_id, evaluator, await ignored.of_user(node, user_nid), followed)


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
