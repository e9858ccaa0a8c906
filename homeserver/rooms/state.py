"""Rooms in memory: what a node's replica of a room is now, and what it will be once what is under way is committed.

Invariants: `Room.now` and `Room.recent` show committed events only, and change in one step after the commit;
`Room.head` runs ahead of them with events that wait for their commit, so that the next event can be built without
waiting. Both are immutable snapshots that share their structure. Only rooms/persist.py replaces them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
from immutables import Map

from homeserver.protocol import identifiers, versions
from homeserver.protocol.errors import NotFound
from homeserver.protocol.event_view import CREATE, MEMBER, StateKey
from homeserver.protocol.events import Event, from_stored
from homeserver.runtime.lru import Lru
from homeserver.storage import events, peers, rooms, state
from homeserver.storage.events import StoredEvent
from homeserver.storage.nodes import Mirror
from homeserver.storage.state import Group

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from homeserver.protocol.versions import RoomRules
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

RECENT = 50
"""Events of a timeline that stay in memory."""

ROOMS_BYTES = 192 * 1024 * 1024
"""Memory that the rooms of a node may take, as it is estimated."""

# What CPython 3.11 needs for each, as measured; the texts of recent events, and events of entries, come on top.
ROOM_BYTES = 3000
ENTRY_BYTES = 380
RESIDENT_BYTES = 150
RECENT_BYTES = 350
EVENT_BYTES = 1500


@dataclass(eq=False, slots=True)
class Entry:
    """One entry of a room's state. ``nid`` is None until its transaction has begun; ``event`` until it is needed."""

    event_id: str
    nid: int | None = None
    membership: str | None = None
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A room after certain events.

    ``tips``: the forward extremities and, for each, the snapshot of the state after it.
    ``nodes``: joined members per node of this deployment; ``servers``: joined members per other server.
    """

    state: Map[StateKey, Entry]
    tips: Mapping[str, Group]
    depth: int
    group: Group
    joined: int
    invited: int
    nodes: Mapping[str, int]
    servers: Map[str, int] = field(default_factory=Map)

    def membership(self, user_id: str) -> str | None:
        """The membership of a user; None when they never had one."""
        entry = self.state.get((MEMBER, user_id))
        return None if entry is None else entry.membership

    def event(self, key: StateKey) -> Event | None:
        """A state event that has been loaded (see `require`); None when the state has no such entry."""
        entry = self.state.get(key)
        if entry is None:
            return None
        if entry.event is None:
            raise LookupError(f"{key} has not been loaded")
        return entry.event


@dataclass(eq=False, slots=True)
class Timed:
    """An event in the timeline of a room in memory; the columns of `StoredEvent` that readers need."""

    pos: int
    event_nid: int
    event_id: str
    type: str
    state_key: str | None
    sender: str
    ts: int
    client: bytes
    unsigned: bytes | None
    # (device_nid, transaction id) of the device that sent it; None when that is not known in memory.
    echo: tuple[int, str] | None = None
    # The bytes last given to a reader, and when (milliseconds): a fan-out formats an event once.
    shown: tuple[int, bytes] | None = field(default=None)
    # Nothing relates to it, as was found when somebody looked; see `Room.relates`.
    bare: bool = False


def timed(row: StoredEvent) -> Timed:
    """A stored event of the timeline, as it stands in memory."""
    assert row.pos is not None
    return Timed(
        row.pos, row.event_nid, row.event_id, row.type, row.state_key, row.sender, row.ts, row.client, row.unsigned
    )


@dataclass(eq=False, slots=True)
class Room:
    """A node's replica of a room, in memory.

    ``recent`` holds every timeline event with ``pos > recent_floor``, oldest first. ``residents`` are the row ids
    of joined residents of the node by user id. ``state_pos`` is the last position at which the current state changed,
    ``merged_at`` the last at which it may have changed otherwise than by an event of the timeline. ``loaded``: bytes of
    the events that entries of its state hold.
    """

    nid: int
    room_id: str
    rules: RoomRules
    home: str | None
    now: Snapshot
    head: Snapshot
    recent: deque[Timed]
    recent_floor: int
    residents: dict[str, int]
    state_pos: int = 0
    merged_at: int = 0
    loaded: int = 0
    # How often something came that relates to an event, or may.
    relations: int = 0

    def relates(self, parent_id: str | None = None) -> None:
        """Something that relates to an event has been committed; None: to whichever events."""
        self.relations += 1
        for event in self.recent:
            if parent_id is None or event.event_id == parent_id:
                event.bare = False

    @property
    def last_pos(self) -> int:
        """The position of the newest timeline event that is in memory, or the floor."""
        return self.recent[-1].pos if self.recent else self.recent_floor

    def weight(self) -> int:
        """The bytes of memory that the room takes, as an estimate."""
        recent = sum(RECENT_BYTES + len(each.client) * (2 if each.shown else 1) for each in self.recent)
        people = RESIDENT_BYTES * len(self.residents)
        return ROOM_BYTES + ENTRY_BYTES * len(self.now.state) + self.loaded + people + recent

    def reset(self) -> None:
        """Forget what was under way."""
        self.head = self.now


class Rooms(Mirror):
    """The rooms of one node that are in memory (``node.memory(Rooms)``)."""

    def __init__(self) -> None:
        self.held: Lru[str, Room] = Lru(ROOMS_BYTES, Room.weight, "rooms")
        self.loading: dict[str, asyncio.Future[Room | None]] = {}
        # Rooms with events under way are never forgotten: a second copy would have another head.
        self.busy: dict[str, tuple[Room, int]] = {}

    def get(self, room_id: str) -> Room | None:
        """The room if it is in memory."""
        busy = self.busy.get(room_id)
        return busy[0] if busy is not None else self.held.get(room_id)

    def hold(self, room: Room) -> None:
        """Keep a room, or weigh it anew."""
        self.held[room.room_id] = room

    def clear(self) -> None:
        """See `Mirror.clear`. Rooms with events under way are dropped when these have failed."""
        self.held.clear()
        self.loading.clear()

    def drop(self, room_id: str) -> None:
        """Forget a room whose rows were written past it, and what is being read of it at this moment."""
        self.held.pop(room_id)
        self.loading.pop(room_id, None)

    def begin(self, room: Room) -> None:
        """An event of the room is under way."""
        count = self.busy.get(room.room_id, (room, 0))[1]
        self.busy[room.room_id] = (room, count + 1)

    def end(self, room: Room) -> None:
        """An event of the room is under way no more."""
        count = self.busy[room.room_id][1]
        if count == 1:
            del self.busy[room.room_id]
            self.hold(room)
        else:
            self.busy[room.room_id] = (room, count - 1)


async def find(node: Node, room_id: str) -> Room | None:
    """A room of which the node holds a replica; None when it holds none."""
    memory = node.memory(Rooms)
    room = memory.get(room_id)
    if room is not None:
        return room
    loading = memory.loading.get(room_id)
    if loading is None:
        loading = memory.loading[room_id] = asyncio.ensure_future(_load_once(node, memory, room_id))
        loading.add_done_callback(_seen)
    return await asyncio.shield(loading)


def arrivals(node: Node, room: Room) -> tuple[str, str, int]:
    """The key that is woken when an event joins the timeline of a room on a node (see wakeups.py)."""
    return ("room", node.name, room.nid)


def _seen(loading: asyncio.Task[Room | None]) -> None:
    """Whoever waits is told of an error; nobody may wait any more."""
    if not loading.cancelled():
        loading.exception()


async def _load_once(node: Node, memory: Rooms, room_id: str) -> Room | None:
    mine = asyncio.current_task()
    try:
        await node.start()
        room = await node.read(_load, room_id)
        if room is not None and memory.loading.get(room_id) is mine:
            memory.hold(room)
        return room
    finally:
        if memory.loading.get(room_id) is mine:
            del memory.loading[room_id]


async def get(node: Node, room_id: str) -> Room:
    """A room of which the node holds a replica. Raises NotFound."""
    room = await find(node, room_id)
    if room is None:
        raise NotFound("There is no such room here")
    return room


async def _load(tx: Transaction, room_id: str) -> Room | None:
    row = await rooms.find(tx, room_id)
    if row is None or row.state_group is None:
        return None
    group = await state.load_group(tx, row.state_group)
    tips = await _tips(tx, row.tips, group)
    people = await rooms.members(tx, row.room_nid)
    memberships = {user_id: membership for user_id, _, membership, _ in people}
    entries: Map[StateKey, Entry] = Map(
        {
            (kind, key): Entry(event_id, nid, memberships.get(key) if kind == MEMBER else None)
            for kind, key, nid, event_id in await state.current(tx, row.room_nid)
        }
    )
    newest = await events.timeline_backwards(tx, row.room_nid, 2**62, None, RECENT)
    recent = deque(timed(event) for event in reversed(newest))
    changed_at = await state.last_change(tx, row.room_nid)
    now = Snapshot(
        entries,
        {event_id: tip_group for event_id, (tip_group, _) in tips.items()},
        max((depth for _, depth in tips.values()), default=0),
        group,
        sum(membership == "join" for membership in memberships.values()),
        sum(entry.membership == "invite" for entry in entries.values()),
        await rooms.nodes(tx, row.room_nid),
        await _servers(tx, row.room_nid, memberships),
    )
    return Room(
        row.room_nid,
        room_id,
        versions.rules_of(row.version),
        row.home,
        now,
        now,
        recent,
        recent[0].pos - 1 if len(newest) == RECENT else -(2**62),
        {user_id: nid for user_id, nid, membership, resident in people if resident and membership == "join"},
        state_pos=changed_at,
        merged_at=changed_at,
    )


async def _servers(tx: Transaction, room_nid: int, memberships: Mapping[str, str]) -> Map[str, int]:
    """Joined members per other server."""
    present = await peers.present(tx, room_nid)
    joined = [user_id for user_id, membership in memberships.items() if membership == "join"] if present else []
    domains = Counter(map(identifiers.domain_of, joined))
    return Map({server: count for server, count in domains.items() if server in present})


async def _tips(tx: Transaction, tips: Collection[str], group: Group) -> dict[str, tuple[Group, int]]:
    found = {}
    for event in await events.by_ids(tx, tips):
        assert event.state_group is not None
        mine = group if event.state_group == group.nid else await state.load_group(tx, event.state_group)
        found[event.event_id] = (mine, event.depth)
    return found


def lacking(snapshot: Snapshot, keys: Iterable[StateKey]) -> list[Entry]:
    """The entries among ``keys`` whose events have to be loaded before `Snapshot.event` can give them."""
    found = (snapshot.state.get(key) for key in keys)
    return [entry for entry in found if entry is not None and entry.event is None]


async def require(node: Node, room: Room, keys: Collection[StateKey]) -> None:
    """Load the events of ``keys`` of the room's head, as far as they are not in memory. Usually no trip at all."""
    while missing := lacking(room.head, keys):
        await load_entries(node, room, missing)


async def load_entries(node: Node, room: Room, entries: Collection[Entry]) -> None:
    """Load the events of state entries that have been committed."""
    by_nid = {entry.nid: entry for entry in entries if entry.event is None and entry.nid is not None}
    for row in await node.read(events.by_nids, list(by_nid)):
        event = by_nid[row.event_nid].event = parse(room, row)
        room.loaded += bytes_of(event)
    memory = node.memory(Rooms)
    if room.room_id in memory.held and memory.held.get(room.room_id) is room:
        memory.hold(room)


def bytes_of(event: Event | None) -> int:
    """The bytes of memory that an event takes which an entry of the state holds, as an estimate."""
    return 0 if event is None else EVENT_BYTES + 2 * (len(event.client) + len(event.rest))


def parse(room: Room, row: StoredEvent) -> Event:
    """A stored event as the rules see it."""
    return from_stored(room.rules, room.room_id, row.client, row.rest)


def creation(room: Room) -> Entry:
    """The entry of the room's m.room.create."""
    return room.head.state[CREATE]


def entry_of(event: Event) -> Entry:
    """The entry that a new state event makes."""
    membership = event.content.get("membership") if event.type == MEMBER else None
    return Entry(event.event_id, None, membership if isinstance(membership, str) else None, event)


def membership_in(client: bytes) -> str:
    """The membership in a stored member event; ``leave`` when it is none."""
    membership = orjson.loads(client + b"}")["content"].get("membership")
    return membership if isinstance(membership, str) else "leave"
