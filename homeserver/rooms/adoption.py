"""Adopting: a room that other servers hold becomes a room of this deployment, on the node of the member who joined it.

The events are written in chunks, outside the timeline, and mean nothing until the last transaction makes the room
visible as a whole: a node that is killed before that has no room, and the next attempt writes it anew. What a node held
of the room from an earlier stay is brought up to date.

spec: server-server-api/#joining-rooms
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol import identifiers
from homeserver.protocol.errors import Forbidden
from homeserver.protocol.event_view import MEMBER, StateKey
from homeserver.rooms import application_services, encounters
from homeserver.rooms.state import Rooms, entry_of
from homeserver.rooms.steps import replaced
from homeserver.runtime.breath import unhurried
from homeserver.runtime.parts import in_parts
from homeserver.storage import events, outbox, peers, rooms, state, streams, timeline_gaps, users
from homeserver.storage.directory import Kind
from homeserver.storage.events import NewEvent, Verdict
from homeserver.storage.outbox import NewParcel
from homeserver.storage.state import Group, NewGroup
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

CHUNK = 500
"""Events written in one transaction."""

HOLE = 1_000_000
"""Positions that are left free for what happened since an earlier stay: events of it get places when somebody reads
that far."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A room as it was when somebody came: its state before the join, the join, and the other events that prove them.

    All have been checked.
    """

    room_id: str
    rules: RoomRules
    state: Mapping[StateKey, Event]
    others: Sequence[Event]
    join: Event


async def adopt(server: Server, node: Node, arrival: Arrival) -> None:
    """Write a room that nobody here is in, and the join; from then on ``node`` is its home.

    Whoever calls keeps others from adopting the same room meanwhile. Raises NodeUnavailable, and Forbidden for events
    with ids that events of other rooms have, which can be where servers choose ids.
    """
    room_nid = await node.write(rooms.create, arrival.room_id, arrival.rules.version, node.name)
    whole = iter({event.event_id: event for event in (*arrival.others, *arrival.state.values())}.values())
    while part := list(islice(whole, CHUNK)):
        await node.advance(_write_part, node, room_nid, part)
        await asyncio.sleep(0)
    await server.nodes.directory.reroute(Kind.ROOM, arrival.room_id, node.name)
    people = await _people(server, arrival)
    places = await server.nodes.of_users(people.joined)
    counts: dict[str, int] = {}
    for name in places.values():
        counts[name] = counts.get(name, 0) + 1
    await node.advance(_open, server, node, room_nid, arrival, people, counts)


@dataclass(frozen=True, slots=True)
class _People:
    """Who is in a room. ``joined``: the local users who are once the join has happened; ``of_ours``: the member events
    of those who were before; ``servers``: the other servers with members; ``memberships``: of everybody but the one who
    joins, by user id."""

    joined: set[str]
    of_ours: list[Event]
    servers: set[str]
    memberships: dict[str, str]


async def _people(server: Server, arrival: Arrival) -> _People:
    """Go through the members once: there may be a hundred thousand."""
    joiner = arrival.join.sender
    people = _People({joiner}, [], set(), {})
    async for event in unhurried(arrival.state.values()):
        if not _names(event):
            continue
        user_id, membership = event.state_key or "", _membership(event)
        is_local = server.nodes.is_local(user_id)
        if user_id != joiner:
            people.memberships[user_id] = membership
        if membership != "join":
            continue
        if not is_local:
            people.servers.add(identifiers.domain_of(user_id))
        elif user_id != joiner:
            people.joined.add(user_id)
            people.of_ours.append(event)
    return people


def _membership(event: Event) -> str:
    membership = event.content.get("membership")
    return membership if isinstance(membership, str) else "leave"


async def _write_part(tx: Transaction, node: Node, room_nid: int, part: Sequence[Event]) -> None:
    """Write events that are known as state or authority only. Raises Forbidden for ids that are taken."""
    known = await events.known(tx, [event.event_id for event in part])
    if not all(event.rules.event_id_is_hash for event in part):
        held = {row.event_id for row in await events.of_room(tx, room_nid, list(known))}
        if known.keys() - held:  # servers choose the ids: one of them chose that of an event of another room
            raise Forbidden("That room has an event with an ID that an event of another room has here")
    fresh = [event for event in part if event.event_id not in known]
    if not fresh:
        return
    users.intern(tx, {event.sender for event in fresh} | {event.state_key or "" for event in fresh if _names(event)})
    first = await streams.allocate(tx, len(fresh))
    events.insert(tx, [_row(event, first + offset, room_nid, None, None) for offset, event in enumerate(fresh)])
    last = first + len(fresh) - 1
    tx.after_commit(lambda: node.announce(last, []))


def _names(event: Event) -> bool:
    return event.type == MEMBER and identifiers.is_user_id(event.state_key)


def _row(
    event: Event, nid: int, room_nid: int, pos: int | None, group_nid: int | None, unsigned: bytes | None = None
) -> NewEvent:
    return NewEvent(
        nid,
        event.event_id,
        room_nid,
        pos,
        event.depth,
        event.origin_server_ts,
        event.type,
        event.state_key,
        event.sender,
        group_nid,
        Verdict.ACCEPTED,
        event.client,
        event.rest,
        unsigned,
    )


async def _open(
    tx: Transaction,
    server: Server,
    node: Node,
    room_nid: int,
    arrival: Arrival,
    people: _People,
    counts: Mapping[str, int],
) -> None:
    """Make the room visible: its state, then the join as the first event of the timeline.

    Before it stand the joins of others of ours, if this deployment was killed when it had entered the room for them.
    """
    join = arrival.join
    own: StateKey = (MEMBER, join.sender)
    wanted = [event.event_id for event in arrival.state.values()]
    known = await _known(tx, [*wanted, join.event_id])
    parcels = [NewParcel(name, "room") for name in sorted(counts) if name != node.name]
    here = [event for event in people.of_ours if known[event.event_id][1] is None]
    places = await _places(tx, room_nid, len(here), len(parcels))
    before_pos, pos = places.before, places.join
    nid = known.get(join.event_id, (pos, None))[0]
    users.intern(tx, [join.sender])
    before = arrival.state.get(own)
    unsigned = None if before is None else replaced(entry_of(before))
    events.insert(
        tx,
        [
            *(_row(each, known[each.event_id][0], room_nid, before_pos + 1 + at, None) for at, each in enumerate(here)),
            _row(join, nid, room_nid, pos, places.after.nid, unsigned),
        ],
    )
    state_nids = {key: known[event.event_id][0] for key, event in arrival.state.items()}
    await _write_state(tx, room_nid, places, state_nids, own, nid)
    _write_members(tx, room_nid, arrival, people, state_nids, (before_pos, pos, nid))
    await asyncio.sleep(0)
    rooms.clear_nodes(tx, room_nid)
    rooms.set_nodes(tx, [(room_nid, name, count) for name, count in counts.items()])
    peers.replace(tx, room_nid, before_pos, people.servers)
    rooms.set_home(tx, room_nid, node.name)
    rooms.advance(tx, room_nid, [join.event_id], places.after.nid)
    outbox.put(tx, pos + 1, [parcel._replace(room_nid=room_nid, event_nid=nid) for parcel in parcels])
    application_services.mark_event(tx, server, node, arrival.room_id, pos, nid, [join.sender], people.joined)
    residents = await users.residents_among(tx, people.joined)
    if people.servers:
        encounters.ask(tx, server, node, room_nid, residents)
    last = pos + len(parcels)
    tx.after_commit(lambda: _announce(server, node, arrival.room_id, room_nid, last, residents))


class _Places(NamedTuple):
    """Where a room begins on this node: the positions before the joins of others of ours and of the join, and the
    groups of its state there."""

    before: int
    join: int
    root: Group
    after: Group


async def _places(tx: Transaction, room_nid: int, others: int, parcels: int) -> _Places:
    """Allocate them, with room for ``others`` events between, and for so many parcels behind."""
    hole = 0 if await timeline_gaps.lowest_place(tx, room_nid) is None else HOLE
    first = hole + await streams.allocate(tx, hole + 4 + others + parcels)
    root = Group(first, 0, None)
    after = root.successor()
    after.nid = first + 2 + others
    return _Places(first + 1, first + 3 + others, root, after)


async def _write_state(
    tx: Transaction, room_nid: int, places: _Places, state_nids: Mapping[StateKey, int], own: StateKey, join_nid: int
) -> None:
    """The state before the join, in place of what there was, and the one after it."""
    await asyncio.sleep(0)  # between what takes milliseconds in a large room
    state.insert_groups(
        tx,
        [
            NewGroup(room_nid, places.root, None, [(*key, event_nid) for key, event_nid in state_nids.items()]),
            NewGroup(room_nid, places.after, places.root, [(*own, join_nid)]),
        ],
    )
    await asyncio.sleep(0)
    gone = [(kind, key) for kind, key, _, _ in await state.current(tx, room_nid) if (kind, key) not in state_nids]
    state.clear_current(tx, room_nid)
    changes: list[tuple[int, int, str, str, int | None]] = [(room_nid, places.before, *key, None) for key in gone]
    changes += [(room_nid, places.before, *key, event_nid) for key, event_nid in state_nids.items()]
    changes.append((room_nid, places.join, *own, join_nid))
    state.change_current(tx, changes, {places.before: places.root.nid, places.join: places.after.nid})
    await asyncio.sleep(0)


async def _known(tx: Transaction, event_ids: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    found: dict[str, tuple[int, int | None]] = {}
    for part in in_parts(event_ids, CHUNK):
        found |= await events.known(tx, part)
    return found


def _write_members(
    tx: Transaction,
    room_nid: int,
    arrival: Arrival,
    people: _People,
    state_nids: Mapping[StateKey, int],
    places: tuple[int, int, int],
) -> None:
    """Queue who is in the room. Who was, when it was left here last, is not any more unless the state says so."""
    before_pos, pos, nid = places
    rooms.all_left(tx, room_nid, before_pos)
    rows = [
        (user_id, room_nid, membership, state_nids[MEMBER, user_id], before_pos)
        for user_id, membership in people.memberships.items()
    ]
    rooms.set_membership(tx, [*rows, (arrival.join.sender, room_nid, "join", nid, pos)])


def _announce(server: Server, node: Node, room_id: str, room_nid: int, pos: int, residents: Iterable[int]) -> None:
    people = list(residents)
    node.memory(Rooms).drop(room_id)
    node.announce(pos, [(Stream.TIMELINE, [room_nid]), (Stream.MEMBERSHIP, people), (Stream.MEMBERS, [room_nid])])
    server.wake_residents(node, people)
    server.wake_outbox(node)
