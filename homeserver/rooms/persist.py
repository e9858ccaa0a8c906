"""The only way that an event enters a database.

Events of all rooms of a node that are ready at the same time are committed together, in the order in which they were
submitted: one transaction of two trips, however many they are (group commit). Readers see them, sleepers are woken and
the senders are answered after the commit.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from homeserver.protocol import relations
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms import application_services, encounters, guests, rows
from homeserver.rooms.onlookers import Arrival, Onlookers
from homeserver.rooms.outgoing import feed_event, point_to
from homeserver.rooms.state import RECENT, Rooms, Timed, arrivals, bytes_of
from homeserver.rooms.state_rows import StateRows
from homeserver.storage import outbox, peers, sticky_events, streams
from homeserver.storage.events import Verdict
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.rooms.state import Room
    from homeserver.rooms.steps import Redacted, Step
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.persist")

BATCH = 256
"""Events in one transaction at most."""


@dataclass(eq=False, slots=True)
class Submission:
    """Steps that are committed together or not at all. ``also`` queues what belongs into the same transaction;
    ``first`` does what has to be done before the steps that were submitted after it."""

    steps: Sequence[Step]
    done: asyncio.Future[None]
    also: Callable[[Transaction], None] | None = None
    first: Callable[[Transaction], Awaitable[None]] | None = None


class Persister:
    """What waits to be committed on one node (``node.memory(Persister)``). One task at a time empties it.

    ``one_by_one``: so many submissions at the front were refused together and are tried alone. ``under_way``: the ids
    of all events that have been submitted and are not committed.
    """

    def __init__(self) -> None:
        self.waiting: list[Submission] = []
        self.one_by_one = 0
        self.under_way: set[str] = set()
        self.task: asyncio.Task[None] | None = None


def submit(
    server: Server,
    node: Node,
    steps: Sequence[Step],
    also: Callable[[Transaction], None] | None = None,
    first: Callable[[Transaction], Awaitable[None]] | None = None,
) -> asyncio.Future[None]:
    """Put steps in the queue and move the heads of their rooms; the result comes after the commit.

    Does not wait, so that whoever built a step from a head can submit it before anyone else sees that head.
    The future fails with NodeUnavailable, or with what the database had against an event.
    """
    persister = node.memory(Persister)
    memory = node.memory(Rooms)
    for step in steps:
        memory.begin(step.room)
        persister.under_way.add(step.event.event_id)
        step.room.head = step.after
    submission = Submission(steps, asyncio.get_running_loop().create_future(), also, first)
    persister.waiting.append(submission)
    if persister.task is None:
        persister.task = asyncio.get_running_loop().create_task(_empty(server, node, persister))
    return submission.done


async def commit(
    server: Server, node: Node, steps: Sequence[Step], also: Callable[[Transaction], None] | None = None
) -> None:
    """Submit and wait; the commit goes on when the caller is cancelled."""
    await asyncio.shield(submit(server, node, steps, also))


async def _empty(server: Server, node: Node, persister: Persister) -> None:
    try:
        while persister.waiting:
            batch = _take(persister)
            try:
                await node.advance(_write, server, node, batch)
            except NodeUnavailable as error:
                failed = [*batch, *persister.waiting]
                persister.waiting.clear()
                _fail(node, failed, error)
                for room in {step.room for submission in failed for step in submission.steps}:
                    node.memory(Rooms).drop(room.room_id)  # it may have been committed all the same
            except Exception as error:
                _retreat(node, persister, batch, error)
    finally:
        persister.task = None


def _take(persister: Persister) -> list[Submission]:
    """The next submissions to commit together; at least one."""
    count, size = 0, 0
    limit = 1 if persister.one_by_one else BATCH
    for submission in persister.waiting:
        size += len(submission.steps)
        if count and size > limit:
            break
        count += 1
    batch, persister.waiting = persister.waiting[:count], persister.waiting[count:]
    persister.one_by_one = max(0, persister.one_by_one - count)
    return batch


def _retreat(node: Node, persister: Persister, batch: list[Submission], error: Exception) -> None:
    """The database refused a batch: try its submissions one by one, so that one event does not take others with it."""
    if len(batch) > 1:
        persister.waiting[:0] = batch
        persister.one_by_one = len(batch)
        return
    log.error("event refused by the database", node=node.name, exc_info=error)
    _fail(node, _dependent(batch[0], persister), error)


def _dependent(failed: Submission, persister: Persister) -> list[Submission]:
    """A failed submission and those in the queue that were built on top of it; they leave the queue."""
    broken = {step.room for step in failed.steps}
    gone = [failed]
    for submission in list(persister.waiting):
        if broken & {step.room for step in submission.steps}:
            broken |= {step.room for step in submission.steps}
            gone.append(submission)
            persister.waiting.remove(submission)
    return gone


def _fail(node: Node, submissions: Iterable[Submission], error: Exception) -> None:
    memory, under_way = node.memory(Rooms), node.memory(Persister).under_way
    for submission in submissions:
        for step in submission.steps:
            step.room.reset()
            memory.end(step.room)
            under_way.discard(step.event.event_id)
        if not submission.done.done():
            submission.done.set_exception(error)
            submission.done.exception()  # seen: a sender who went away does not ask for it


# the transaction ----------------------------------------------------------------------------


async def _write(tx: Transaction, server: Server, node: Node, batch: Sequence[Submission]) -> None:
    for submission in batch:
        if submission.first is not None:
            await submission.first(tx)
    steps = [step for submission in batch for step in submission.steps]
    parcels = [parcel for step in steps for parcel in step.parcels]
    positions = sum(1 + len(step.groups) for step in steps) + len(parcels)
    first = await streams.allocate(tx, positions)
    following = rows.number(steps, first)
    sticky = rows.write_events(tx, server.clock.now_ms(), steps)
    rows.write_state(tx, steps)
    rows.write_members(tx, steps)
    encounters.of_steps(tx, server, node, steps)
    application_services.mark_steps(tx, server, node, steps)
    guests.of_steps(tx, server, node, steps)
    outbox.put(
        tx,
        following,
        [
            parcel._replace(room_nid=step.room.nid, event_nid=step.nid) if parcel.event_nid is None else parcel
            for step in steps
            for parcel in step.parcels
        ],
    )
    for submission in batch:
        if submission.also is not None:
            submission.also(tx)
    last = first + positions - 1
    owed = await _owe(tx, server.clock.now_ms(), steps)
    pos = max([last, *(upto for _, upto in owed.values())])
    tx.after_commit(lambda: _publish(server, node, batch, pos, sticky, owed, bool(parcels)))


async def _owe(tx: Transaction, now_ms: int, steps: Sequence[Step]) -> dict[str, tuple[int, int]]:
    """Have servers that come into rooms be sent what residents have said there that is sticky still. Returns at which
    positions it stands for each of them, the first and the last. No trip when nobody comes."""
    owed: dict[str, tuple[int, int]] = {}
    for step in steps:
        if step.entered and step.pos is not None and step.verdict is Verdict.ACCEPTED:
            nids = await sticky_events.of_residents(tx, step.room.nid, step.pos, now_ms)
            for name in step.entered if nids else ():
                first = await streams.allocate(tx, len(nids))
                peers.put_events(tx, first, name, step.room.nid, nids)
                owed[name] = owed.get(name, (first,))[0], first + len(nids) - 1
    return owed


# after the commit ---------------------------------------------------------------------------


def _publish(
    server: Server,
    node: Node,
    batch: Sequence[Submission],
    pos: int,
    sticky: Sequence[int],
    owed: Mapping[str, tuple[int, int]],
    shipped: bool,
) -> None:
    memory, onlookers = node.memory(Rooms), node.memory(Onlookers)
    touched: set[Room] = set()
    people: set[int] = set()
    outgoing: list[tuple[Step, Iterable[str]]] = []
    for submission in batch:
        for step in submission.steps:
            if step.to_peers and step.verdict is Verdict.ACCEPTED:
                outgoing.append((step, (*step.room.now.servers, *step.reached)))
            _show(step)
            if step.redacted is not None and step.redacted.event.state_key is not None:
                node.memory(StateRows).clear()
            if onlookers.wanted and step.timeline and step.verdict is Verdict.ACCEPTED:
                onlookers.add(Arrival(step.room, step.room.room_id, step.room.recent[-1], step.members))
            touched.add(step.room)
            people.update(member.resident for member in step.members if member.resident is not None)
    moved = {step.room.nid for submission in batch for step in submission.steps if step.members}
    node.announce(
        pos,
        [
            (Stream.TIMELINE, [room.nid for room in touched]),
            (Stream.MEMBERSHIP, people),
            (Stream.MEMBERS, moved),
            (Stream.STICKY, sticky),
        ],
    )
    for step, servers in outgoing:
        feed_event(node, step.pos or 0, step.event, servers)
    point_to(node, owed)
    server.wake_residents(node, people.union(*(room.residents.values() for room in touched)))
    for room in touched:
        server.wakeups.wake(arrivals(node, room))
    if shipped:
        server.wake_outbox(node)
    under_way = node.memory(Persister).under_way
    for submission in batch:
        for step in submission.steps:
            memory.end(step.room)
            under_way.discard(step.event.event_id)
        if not submission.done.done():
            submission.done.set_result(None)


def _show(step: Step) -> None:
    """Let readers see a committed event."""
    room, event = step.room, step.event
    for key, entry in step.changes.items():
        before = room.now.state.get(key)
        room.loaded += bytes_of(None if entry is None else entry.event)
        room.loaded -= bytes_of(None if before is None else before.event)
    room.now = step.after
    if step.timeline and step.verdict is Verdict.ACCEPTED:
        assert step.pos is not None
        if len(room.recent) >= RECENT:
            room.recent_floor = room.recent.popleft().pos
        room.recent.append(
            Timed(
                step.pos,
                step.nid,
                event.event_id,
                event.type,
                event.state_key,
                event.sender,
                event.origin_server_ts,
                event.client,
                step.unsigned,
                None if step.echo is None else step.echo[1:],
            )
        )
    if step.changes:
        room.state_pos = step.pos or room.state_pos
        if set(step.changes) != {(event.type, event.state_key)}:
            room.merged_at = room.state_pos
    for member in step.members:
        if member.resident is not None and member.membership == "join":
            room.residents[member.user_id] = member.resident
        else:
            room.residents.pop(member.user_id, None)
    if step.redacted is not None:
        _blank(room, step.redacted)
    if relations.may_relate(event.client) and (relation := relations.relation_in(event.client)) is not None:
        room.relates(relation[1])


def _blank(room: Room, redacted: Redacted) -> None:
    """Replace what is in memory of a redacted event."""
    event = redacted.event
    for entry in room.recent:
        if entry.event_id == event.event_id:
            entry.client, entry.unsigned, entry.shown = event.client, redacted.unsigned, None
    if event.state_key is not None:
        for snapshot in (room.now, room.head):
            entry_ = snapshot.state.get((event.type, event.state_key))
            if entry_ is not None and entry_.event_id == event.event_id:
                entry_.event = event
