"""Branches of a room's graph: its state before an event, and its current state when there are several tips.

Invariant: what is resolved is bounded: so many branches, so many events. Whoever builds a room that needs more makes
their own events wait, and nothing else.

spec: server-server-api/#room-state-resolution
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from immutables import Map

from homeserver.protocol import resolution
from homeserver.rooms import state
from homeserver.rooms.state import Entry, Rooms
from homeserver.runtime.apart import Apart
from homeserver.runtime.lru import Lru
from homeserver.storage import auth_links, graph
from homeserver.storage import events as stored
from homeserver.storage import state as stored_state
from homeserver.storage.events import Verdict
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from homeserver.protocol.event_view import StateKey
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room, Snapshot
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node
    from homeserver.storage.state import Group

State = Map["StateKey", Entry]

MOST_BRANCHES: Final = 30
"""Different states that are resolved at once: more than an event has ``prev_events``."""
MOST_EVENTS: Final = 30_000
"""Events that one resolution looks at."""
MOST_ROUNDS: Final = 100
"""Times that one resolution is begun anew because events were lacking. An honest room takes under thirty, since ever
more are read ahead; one that is built to be asked for event by event would take as many as it has."""
MOST_LOOKED_AT: Final = 10 * MOST_EVENTS
"""Events that all the rounds of one resolution look at, added up: each round looks at all that is loaded."""
NEAR: Final = 2_000
"""Events of auth chains that are looked up together."""
AHEAD: Final = 32
"""Events that are read ahead at first; four times as many each time."""
LONG: Final = 1_000
"""Events of which a resolution is made apart: so many may take tens of milliseconds, and the most of them seconds."""
REMEMBERED: Final = 400_000
"""Entries of states of branches that stay in memory."""


class UnderWay(Exception):
    """A branch of the room ends in an event that is not committed yet, so that its state cannot be read."""


class Lacking(Exception):
    """An event cannot be placed until others are here: ``prev``, which it follows, and ``auth``, which prove it or
    what it is to be resolved with."""

    def __init__(self, prev: Collection[str] = (), auth: Collection[str] = ()) -> None:
        super().__init__(f"{len(prev)} events before it and {len(auth)} auth events are lacking")
        self.prev = frozenset(prev)
        self.auth = frozenset(auth)


class TooMuch(Exception):
    """A resolution would have to look at more events than is spent on one."""


class States(Mirror):
    """States of branches that were read lately, by the row id of their snapshot (``node.memory(States)``)."""

    def __init__(self) -> None:
        self.held: Lru[int, State] = Lru(REMEMBERED, lambda state: 1 + len(state))

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.held.clear()


@dataclass(frozen=True, slots=True)
class Before:
    """A room before an event. ``group`` is the snapshot of one of the branches; of the state itself, unless that was
    ``resolved``."""

    state: State
    group: Group
    resolved: bool


async def before(
    node: Node,
    room: Room,
    head: Snapshot,
    follows: Collection[str],
    given: Mapping[StateKey, str] | None = None,
    *,
    settled: bool = False,
) -> Before:
    """The state of a room after all of some events that are here, and resolved with ``given``, a state that another
    server claims. One that is ``settled`` is taken as it is.

    Raises UnderWay, Lacking (`given` names what is not here), TooMuch.
    """
    if given is not None and settled:
        return Before(await _state_from(node, room, head, given), head.group, True)
    distinct = _distinct((await groups_after(node, room, head, follows)).values())
    states = [await _state_of(node, room, head, group) for group in distinct]
    if given is not None:
        states.append(await _state_from(node, room, head, given))
    elif len(distinct) == 1:
        return Before(states[0], distinct[0], False)
    return Before(await resolve(node, room, states), distinct[0] if distinct else head.group, True)


async def groups_after(node: Node, room: Room, head: Snapshot, event_ids: Collection[str]) -> dict[str, Group]:
    """The snapshots after events, of those that are here with a state."""
    groups = {event_id: head.tips[event_id] for event_id in event_ids if event_id in head.tips}
    others = [event_id for event_id in event_ids if event_id not in groups]
    if others:
        groups |= await node.read(_groups, room.nid, others)
    return groups


async def _groups(tx: Transaction, room_nid: int, event_ids: Collection[str]) -> dict[str, Group]:
    rows = await graph.of_room(tx, room_nid, event_ids)
    loaded = {nid: await stored_state.load_group(tx, nid) for nid in {row.state_group for row in rows} - {None} if nid}
    return {row.event_id: loaded[row.state_group] for row in rows if row.state_group is not None}


def _distinct(groups: Iterable[Group]) -> list[Group]:
    found: dict[int, Group] = {}
    for group in groups:
        found.setdefault(group.nid if group.nid is not None else -id(group), group)
    return list(found.values())


async def current(node: Node, room: Room, head: Snapshot, mine: State, tips: Mapping[str, Group]) -> State:
    """The current state of a room with several tips: one whose state is ``mine``, and others.

    Of more than MOST_BRANCHES different states the newest are resolved with what the current state is so far. Raises
    UnderWay, Lacking, TooMuch.
    """
    distinct = _distinct(tips.values())
    states = [mine]
    if len(distinct) > MOST_BRANCHES:
        states.append(head.state)
        distinct = distinct[-MOST_BRANCHES:]
    states += [await _state_of(node, room, head, group) for group in distinct]
    return await resolve(node, room, states)


# states -----------------------------------------------------------------------------------------


async def _state_of(node: Node, room: Room, head: Snapshot, group: Group) -> State:
    if group is head.group or (group.nid is not None and group.nid == head.group.nid):
        return head.state
    if group.nid is None or group.nid > node.position:  # row ids are positions, given while a transaction runs
        raise UnderWay
    held = node.memory(States).held
    found = held.get(group.nid)
    if found is None:
        nids = await node.read(stored_state.group_state, group)
        found = await _with_entries(node, room, head, nids)
        held[group.nid] = found
    return found


async def _state_from(node: Node, room: Room, head: Snapshot, given: Mapping[StateKey, str]) -> State:
    """A state that is named by event ids. Raises Lacking."""
    rows = await node.read(_nids, room.nid, set(given.values()))
    missing = set(given.values()) - rows.keys()
    if missing:
        raise Lacking(auth=missing)
    return await _with_entries(node, room, head, {key: rows[event_id] for key, event_id in given.items()})


async def _nids(tx: Transaction, room_nid: int, event_ids: Collection[str]) -> dict[str, int]:
    return {row.event_id: row.event_nid for row in await graph.of_room(tx, room_nid, event_ids)}


async def _with_entries(node: Node, room: Room, head: Snapshot, nids: Mapping[StateKey, int]) -> State:
    """Entries for row ids: those of the head where it has them, so that only what differs is read."""
    held = {entry.nid: entry for entry in head.state.values() if entry.nid is not None}
    missing = {nid for nid in nids.values() if nid not in held}
    if missing:
        for row in await node.read(stored.by_nids, missing):
            held[row.event_nid] = entry_of(room, row)
    return Map({key: held[nid] for key, nid in nids.items()})


def entry_of(room: Room, row: StoredEvent) -> Entry:
    """The entry that a stored state event makes."""
    entry = state.entry_of(state.parse(room, row))
    entry.nid = row.event_nid
    return entry


# resolution -------------------------------------------------------------------------------------


class _Loaded:
    """What a resolution knows so far."""

    def __init__(self, states: Sequence[State]) -> None:
        self.entries = {entry.event_id: entry for one in states for entry in one.values()}
        self.events: dict[str, Event] = {
            event_id: entry.event for event_id, entry in self.entries.items() if entry.event is not None
        }
        self.edges: dict[str, Sequence[str]] = {}
        self.rejected: set[str] = set()
        self.ahead = 0
        """Events read ahead the next time."""

    def add(self, room: Room, rows: Iterable[StoredEvent]) -> None:
        """Events that were read."""
        for row in rows:
            event = self.events[row.event_id] = state.parse(room, row)
            if row.event_id in self.entries:
                self.entries[row.event_id].event = event
            if row.verdict == Verdict.REJECTED:
                self.rejected.add(row.event_id)


async def resolve(node: Node, room: Room, states: Sequence[State]) -> State:
    """State resolution, with the events that it asks for loaded as it asks. Raises UnderWay, Lacking, TooMuch."""
    if all(one is states[0] or one == states[0] for one in states[1:]):
        return states[0]
    loaded = _Loaded(states)
    sets = [{key: entry.event_id for key, entry in one.items()} for one in states]
    looked_at = 0
    for _ in range(MOST_ROUNDS):
        looked_at += len(loaded.events) + len(loaded.edges)
        if looked_at > MOST_LOOKED_AT:
            break
        try:
            resolved = await _resolved(node, room, sets, loaded)
        except resolution.Missing as missing:
            await _load(node, room, loaded, missing)
        else:
            return Map({key: await _chosen(node, room, loaded, event_id) for key, event_id in resolved.items()})
    raise TooMuch


async def _resolved(
    node: Node, room: Room, sets: Sequence[Mapping[StateKey, str]], loaded: _Loaded
) -> Mapping[StateKey, str]:
    """`resolution.resolve` with what is loaded, apart where that may take long. Raises resolution.Missing."""
    resolve = partial(resolution.resolve, room.rules, sets, loaded.events, edges=loaded.edges, rejected=loaded.rejected)
    if len(loaded.events) + len(loaded.edges) < LONG:
        return resolve()
    return await node.memory(Apart).run(resolve)


async def _load(node: Node, room: Room, loaded: _Loaded, missing: resolution.Missing) -> None:
    before = len(loaded.events) + len(loaded.edges)
    busy = room.room_id in node.memory(Rooms).busy  # what is committed while this reads is not seen by it
    if missing.edges:
        for event_id, cites in (await node.read(auth_links.edges, missing.edges, NEAR)).items():
            loaded.edges.setdefault(event_id, cites)
    wanted = missing.events | {event_id for event_id in missing.edges if event_id not in loaded.edges}
    if wanted:
        # The next events that are asked for may be what these cite, one after the other: ever more are read ahead.
        loaded.add(room, await node.read(auth_links.near, wanted, loaded.ahead, room.nid))
        loaded.ahead = min(max(4 * loaded.ahead, AHEAD), NEAR)
    after = len(loaded.events) + len(loaded.edges)
    if after == before:
        if busy:
            raise UnderWay
        raise Lacking(auth=missing.ids)
    if after - len(loaded.entries) > MOST_EVENTS:
        raise TooMuch


async def _chosen(node: Node, room: Room, loaded: _Loaded, event_id: str) -> Entry:
    entry = loaded.entries.get(event_id)
    if entry is None:
        (row,) = await node.read(graph.of_room, room.nid, [event_id])
        entry = loaded.entries[event_id] = entry_of(room, row)
    return entry


def difference(old: State, new: State) -> dict[StateKey, Entry | None]:
    """What has to change in one state to make it another."""
    if old is new:
        return {}
    changes: dict[StateKey, Entry | None] = {
        key: entry for key, entry in new.items() if (held := old.get(key)) is None or held.event_id != entry.event_id
    }
    changes.update({key: None for key in old if key not in new})
    return changes
