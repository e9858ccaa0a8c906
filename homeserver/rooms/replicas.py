"""Shipping: what was made true on one node reaches the others once, in order, whoever is killed.

One task per pair of nodes reads the source's outbox and has each parcel applied to the destination; the position up to
which that is done is written in the destination's own transaction. A destination that is down costs a timer.

The one service that reads one node and writes another. Each parcel is asked of the policy here once more, as the
second lock behind the gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from config.residency import DataClass
from homeserver.context import outbox_key
from homeserver.protocol.errors import NodeUnavailable, NotFound
from homeserver.protocol.events import from_stored
from homeserver.protocol.versions import rules_of
from homeserver.residency import authors
from homeserver.rooms import invitations, seeding
from homeserver.rooms import state as room_state
from homeserver.rooms.lanes import Lanes
from homeserver.rooms.persist import submit
from homeserver.rooms.receive import receive
from homeserver.storage import auth_links, events, outbox, rooms, state

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from config.policy import Verdict
    from homeserver.context import Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.seeding import Mark
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Parcel

log = structlog.get_logger("rooms.replicas")

AT_ONCE = 200
"""Parcels that are read together."""

RETRY_AFTER = 1.0
"""Seconds until a node that is down is tried again, and until a new policy is asked about what is held back."""

CATCH_UP = 10.0
"""Seconds that a request waits for its own effect to reach its node, at most."""


@dataclass(frozen=True, slots=True)
class ParcelKind:
    """How a kind of parcel is applied, as which class of data it travels, and whether it may be dropped.

    ``apply(server, source, destination, parcel, mark)`` calls ``mark(tx)`` in the destination's transaction; it returns
    the future of that transaction's commit if it did not wait for it. A parcel that the policy no longer allows is
    dropped if it is ``fleeting``; otherwise it waits, and all of its room with it (see lanes.py). All wait for the end
    of an isolation.
    """

    data_class: DataClass
    apply: Callable[[Server, Node, Node, Parcel, Mark], Awaitable[asyncio.Future[None] | None]]
    fleeting: bool = False


async def _apply_room(server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark) -> None:
    assert parcel.room_nid is not None
    assert parcel.event_nid is not None
    await seeding.plant(server, source, destination, parcel.room_nid, parcel.event_nid, mark)
    server.jobs.poke(HISTORY_JOB)


async def _apply_member(server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark) -> None:
    assert parcel.room_nid is not None
    assert parcel.event_nid is not None
    room = await source.read(rooms.by_nid, parcel.room_nid)
    (event,) = await source.read(events.by_nids, [parcel.event_nid])
    home = await server.nodes.of_user(event.state_key or "")
    if home is not None and home is not destination:  # they have moved while it was on its way
        await invitations.take(server, home, room, event, parcel.body, lambda tx: None)
        await destination.write(_mark_only, mark)
    else:
        await invitations.take(server, destination, room, event, parcel.body, mark)


async def _mark_only(tx: Transaction, mark: Mark) -> None:
    mark(tx)


@dataclass(frozen=True, slots=True)
class Ordered:
    """The node from which an event comes, as `receive` asks it (`receive.Source`); ``group``: the state after it."""

    node: Node
    group: int | None

    async def state_after(self) -> Mapping[StateKey, StoredEvent]:
        """See `receive.Source.state_after`."""
        return await self.node.read(_state_at, self.group)

    async def events(self, event_ids: Collection[str]) -> Sequence[StoredEvent]:
        """See `receive.Source.events`."""
        return await self.node.read(auth_links.near, event_ids, AT_ONCE)


async def _state_at(tx: Transaction, group: int | None) -> dict[StateKey, StoredEvent]:
    nids = {} if group is None else await state.group_state(tx, await state.load_group(tx, group))
    rows = {row.event_nid: row for row in await events.by_nids(tx, set(nids.values()))}
    return {key: rows[nid] for key, nid in nids.items()}


async def _apply_event(
    server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark
) -> asyncio.Future[None] | None:
    """Have an event received. The mark goes through the same queue as the events, so that it overtakes none."""
    assert parcel.event_nid is not None
    assert parcel.room_nid is not None
    room = await source.read(rooms.by_nid, parcel.room_nid)
    (row,) = await source.read(events.by_nids, [parcel.event_nid])
    event = from_stored(rules_of(room.version), room.room_id, row.client, row.rest)
    try:
        done = await receive(
            server,
            destination,
            room.room_id,
            event,
            orderer=source.name,
            txn_key=parcel.body,
            also=mark,
            source=Ordered(source, row.state_group),
        )
    except NotFound:  # the destination gave the room up meanwhile
        done = None
    return submit(server, destination, [], mark) if done is None else done


ROOM_PARCELS: Mapping[str, ParcelKind] = {
    "room": ParcelKind(DataClass.EVENTS, _apply_room),
    "member": ParcelKind(DataClass.EVENTS, _apply_member),
    "event": ParcelKind(DataClass.EVENTS, _apply_event),
}

HISTORY_JOB = "copy history"


class Progress:
    """How far the outbox of each other node has been applied here (``node.memory(Progress)``), as a position there."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}


async def ship(server: Server, source: Node, destination: Node, kinds: Mapping[str, ParcelKind]) -> None:
    """Ship parcels from ``source`` to ``destination`` until the server stops."""
    after: int | None = None
    lanes = Lanes(server, source, destination)
    while not server.wakeups.stopping:
        with server.wakeups.listen([outbox_key(source)]) as listener:
            try:
                if after is None:
                    after = await destination.read(outbox.applied, source.name)
                    await lanes.load()
                reached, after = await _round(server, source, destination, kinds, lanes, after)
            except NodeUnavailable:
                reached, after = False, None
                await server.clock.sleep(RETRY_AFTER)
            except Exception:
                log.exception("shipping failed", source=source.name, destination=destination.name)
                reached, after = False, None
                await server.clock.sleep(RETRY_AFTER)
            if reached:
                await listener.wait(RETRY_AFTER if lanes.closed else None)  # nobody tells of a new policy


async def _round(
    server: Server, source: Node, destination: Node, kinds: Mapping[str, ParcelKind], lanes: Lanes, after: int
) -> tuple[bool, int]:
    """Ship what waits now; True when nothing is left, and the position reached.

    Nothing is under way any more when it ends, however it does: the next round begins at what has been applied.
    """
    under_way: list[asyncio.Future[None]] = []
    try:
        return await _ship_waiting(server, source, destination, kinds, lanes, after, under_way)
    except Exception:
        if under_way:
            await asyncio.wait(under_way)
        raise


async def _ship_waiting(
    server: Server,
    source: Node,
    destination: Node,
    kinds: Mapping[str, ParcelKind],
    lanes: Lanes,
    after: int,
    under_way: list[asyncio.Future[None]],
) -> tuple[bool, int]:
    def verdict(kind: str) -> Verdict:
        return server.policy.now.may(kinds[kind].data_class, source.jurisdiction, destination.jurisdiction)

    def waits(kind: str) -> bool:
        found = verdict(kind)
        return not found and (found.held or not kinds[kind].fleeting)

    await source.start()
    await lanes.reopen(after, waits)
    visible = source.position
    parcels = await source.read(outbox.waiting, destination.name, after, AT_ONCE)
    withheld = await _withheld(server, source, destination, parcels)
    kind = None
    for parcel in await lanes.let_through(parcels, lambda each: waits(each.kind) or each.pos in withheld):
        how = kinds[parcel.kind]
        if parcel.kind != kind:
            await asyncio.gather(*under_way)
            under_way.clear()
            kind = parcel.kind
        if waits(parcel.kind):  # since a moment ago
            await asyncio.gather(*under_way)
            return False, after
        if verdict(parcel.kind):
            done = await how.apply(server, source, destination, parcel, _mark(source.name, parcel.pos))
            if done is not None:
                under_way.append(done)
        after = parcel.pos
    await asyncio.gather(*under_way)
    if parcels:
        after = max(after, parcels[-1].pos)  # what was set aside has no place there any more
        await source.write(outbox.clear, destination.name, after)
    complete = len(parcels) < AT_ONCE
    destination.memory(Progress).reached[source.name] = visible if complete else after
    server.wakeups.wake(("inbox", destination.name))
    return complete, after


async def _withheld(server: Server, source: Node, destination: Node, parcels: Sequence[Parcel]) -> set[int]:
    """The positions of parcels with what somebody has written whose own node may not send it there, though this one,
    which has a copy, may."""
    target = destination.jurisdiction
    if not authors.some_closed(server, target):
        return set()
    rows = await source.read(events.by_nids, {parcel.event_nid for parcel in parcels if parcel.event_nid is not None})
    senders = {row.event_nid: row.sender for row in rows}
    closed = await authors.withheld(server, target, set(senders.values()))
    found = {parcel.pos for parcel in parcels if senders.get(parcel.event_nid or 0) in closed}
    for parcel in parcels:
        if parcel.kind == "room" and parcel.room_nid is not None and parcel.pos not in found:
            room = await source.read(rooms.by_nid, parcel.room_nid)
            if await _is_withheld(server, source, room.room_id, target):
                found.add(parcel.pos)
    return found


async def _is_withheld(server: Server, source: Node, room_id: str, target: str) -> bool:
    """Whether a room has events of somebody whose own node may not send them to a jurisdiction."""
    if not authors.some_closed(server, target):
        return False
    room = await room_state.find(source, room_id)
    return room is not None and bool(await authors.among(server, target, room.now.state))


def _mark(source: str, pos: int) -> Mark:
    return lambda tx: outbox.set_applied(tx, source, pos)


async def caught_up(server: Server, source: Node, destination: Node, seconds: float = CATCH_UP) -> None:
    """Wait until what is true on ``source`` now has been applied to ``destination``, for so long at most.

    So that a user who joined a room that another node orders finds it on their own. Returns early when the
    destination is down: then it will be true later.
    """
    if source is destination:
        return
    target = source.position
    deadline = server.clock.monotonic() + seconds
    # Positions are also taken by what is not shipped: a round has to look before it can say how far it came.
    server.wake_outbox(source)
    while True:
        with server.wakeups.listen([("inbox", destination.name)]) as listener:
            if destination.memory(Progress).reached.get(source.name, 0) >= target:
                return
            if not await source.read(outbox.waiting, destination.name, 0, 1):
                return
            left = deadline - server.clock.monotonic()
            if left <= 0 or not destination.engine.health().up:
                return
            await listener.wait(left)


class BeingCopied:
    """Rooms of which somebody else copies the history to a node (``node.memory(BeingCopied)``)."""

    def __init__(self) -> None:
        self.room_ids: set[str] = set()

    @contextmanager
    def alone(self, room_id: str) -> Iterator[None]:
        """Copy the history of a room oneself, from wherever that is."""
        self.room_ids.add(room_id)
        try:
            yield
        finally:
            self.room_ids.discard(room_id)


async def copy_histories(server: Server) -> None:
    """Copy the older history of all replicas that are not whole yet. A job; it goes on where it was cut off."""
    for destination in server.nodes:
        if not destination.engine.health().up:
            continue
        for room in await destination.read(rooms.unfinished):
            home = None if room.home is None else server.nodes[room.home]
            if room.room_id in destination.memory(BeingCopied).room_ids:
                continue
            if home is None or home is destination or not home.engine.health().up:
                continue
            if await _is_withheld(server, home, room.room_id, destination.jurisdiction):
                continue
            while server.policy.now.may(DataClass.EVENTS, home.jurisdiction, destination.jurisdiction).allowed:
                if not await seeding.copy_history(server, home, destination, room):
                    break
                room = await destination.read(rooms.by_nid, room.room_nid)
