"""Planting: a node whose first user joins a room is given a replica of it.

The state and the newest events come at once; the older history follows in the background (`copy_history`), and how far
that has come stands in the room's row. A node that was in the room before is first given what it missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homeserver.protocol import versions
from homeserver.protocol.event_view import MEMBER, StateKey
from homeserver.protocol.events import from_stored
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms import application_services, encounters, sticky_copies
from homeserver.rooms.state import Rooms, membership_in
from homeserver.rooms.state_rows import StateRows
from homeserver.storage import erasures, events, peers, rooms, state, sticky_events, streams, users
from homeserver.storage.erasures import Erased
from homeserver.storage.events import NewEvent, StoredEvent, Verdict
from homeserver.storage.state import Group, NewGroup
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredRoom

AT_ONCE = 30
"""Timeline events that come with the state."""

REDACTION = "m.room.redaction"

CHUNK = 500
"""Events copied in one transaction."""

Mark = Callable[["Transaction"], None]
"""Queues the note that a parcel has been applied."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A room after one event, which is the last of ``newest``, as its source has it. ``erased``: users of it who asked
    to be forgotten.
    """

    room: StoredRoom
    nodes: Mapping[str, int]
    state: Mapping[StateKey, StoredEvent]
    newest: Sequence[StoredEvent]
    erased: Sequence[str]


async def gather(tx: Transaction, room_nid: int, event_nid: int) -> Seed:
    """Read a seed from the source."""
    (event,) = await events.by_nids(tx, [event_nid])
    assert event.state_group is not None
    assert event.pos is not None
    nids = await state.group_state(tx, await state.load_group(tx, event.state_group))
    rows = {row.event_nid: row for row in await events.by_nids(tx, set(nids.values()))}
    room = await rooms.by_nid(tx, room_nid)
    newest = await events.timeline_backwards(tx, room_nid, event.pos, None, AT_ONCE)
    erased = await erasures.of_room(tx, room_nid)
    whole = {key: rows[nid] for key, nid in nids.items()}
    return Seed(room, await rooms.nodes(tx, room_nid), whole, newest[::-1], erased)


async def plant(server: Server, source: Node, destination: Node, room_nid: int, event_nid: int, mark: Mark) -> None:
    """Give ``destination`` a replica of a room as it was after an event of ``source``."""
    seed = await source.read(gather, room_nid, event_nid)
    await _fill_gap(server, source, destination, seed)
    await destination.advance(_plant, server, destination, seed, mark)


async def _plant(tx: Transaction, server: Server, node: Node, seed: Seed, mark: Mark) -> None:
    room_id = seed.room.room_id
    room_nid = await rooms.create(tx, room_id, seed.room.version, seed.room.home)
    users.intern(tx, {row.sender for row in [*seed.state.values(), *seed.newest]} | _members(seed))
    known = await events.known(tx, {row.event_id for row in [*seed.state.values(), *seed.newest]})
    outside = [row for row in seed.state.values() if row.event_id not in known]
    newest = [row for row in seed.newest if known.get(row.event_id, (0, None))[1] is None]
    last = seed.newest[-1]
    first = await streams.allocate(tx, len(outside) + len(newest) + 2)
    nids = {event_id: nid for event_id, (nid, _) in known.items()}
    for offset, event_id in enumerate(dict.fromkeys(row.event_id for row in [*outside, *newest])):
        nids.setdefault(event_id, first + offset)
    root = Group(first + len(outside) + len(newest), 0, None)
    pos = root.nid + 1 if root.nid is not None else 0
    places = await _places(tx, room_nid, newest, last, pos)
    group_nid = root.nid
    copies = [
        _copy(row, nids[row.event_id], room_nid, places.get(row.event_id), group_nid if row is last else None)
        for row in {row.event_id: row for row in [*outside, *newest]}.values()
    ]
    events.insert(tx, copies)
    sticky_events.keep(tx, server.clock.now_ms(), copies, pos)
    _write_state(tx, room_nid, pos, root, {key: nids[row.event_id] for key, row in seed.state.items()})
    users.intern(tx, seed.erased)
    erasures.put(tx, seed.erased, pos - 1)  # before anybody here came to be in the room
    await _write_members(tx, room_nid, pos, seed, nids)
    servers = _servers(server, seed)
    peers.replace(tx, room_nid, pos, servers)
    rooms.advance(tx, room_nid, [last.event_id], root.nid)
    if seed.room.home is not None:  # it may have moved since this node was in the room
        rooms.set_home(tx, room_nid, seed.room.home)
    if newest and len(newest) == len(seed.newest) == AT_ONCE:
        rooms.set_history_before(tx, room_nid, seed.newest[0].pos)
    about = [last.sender, last.state_key or ""]
    application_services.mark_event(tx, server, node, room_id, pos, nids[last.event_id], about, _joined(seed))
    mark(tx)
    residents = await users.residents_among(tx, _members(seed))
    if servers:
        encounters.ask(tx, server, node, room_nid, await users.residents_among(tx, _joined(seed)))
    tx.after_commit(lambda: _announce(server, node, room_id, room_nid, pos, residents))


def _servers(server: Server, seed: Seed) -> set[str]:
    """The other servers with joined members."""
    return {
        domain_of(key)
        for (kind, key), row in seed.state.items()
        if kind == MEMBER and not server.nodes.is_local(key) and membership_in(row.client) == "join"
    }


def _members(seed: Seed) -> set[str]:
    return {key for kind, key in seed.state if kind == MEMBER}


def _joined(seed: Seed) -> set[str]:
    return {key for (kind, key), row in seed.state.items() if kind == MEMBER and membership_in(row.client) == "join"}


async def _places(
    tx: Transaction, room_nid: int, newest: Sequence[StoredEvent], last: StoredEvent, pos: int
) -> dict[str, int]:
    """Places in the timeline: the last event now, those before it in the history unless the node was here before."""
    earlier = [row.event_id for row in newest if row is not last]
    if not earlier:
        return {last.event_id: pos}
    top = await streams.allocate_history(tx, len(earlier))
    places = {event_id: top - offset for offset, event_id in enumerate(reversed(earlier))}
    return {**places, last.event_id: pos}


def _copy(row: StoredEvent, nid: int, room_nid: int, pos: int | None, group_nid: int | None) -> NewEvent:
    return NewEvent(
        nid,
        row.event_id,
        room_nid,
        pos,
        row.depth,
        row.ts,
        row.type,
        row.state_key,
        row.sender,
        group_nid,
        Verdict(row.verdict),
        row.client,
        row.rest,
        row.unsigned,
    )


def _write_state(tx: Transaction, room_nid: int, pos: int, root: Group, whole: Mapping[StateKey, int]) -> None:
    state.insert_groups(tx, [NewGroup(room_nid, root, None, [(*key, nid) for key, nid in whole.items()])])
    state.clear_current(tx, room_nid)
    state.change_current(tx, [(room_nid, pos, *key, nid) for key, nid in whole.items()], {pos: root.nid})


async def _write_members(tx: Transaction, room_nid: int, pos: int, seed: Seed, nids: Mapping[str, int]) -> None:
    rooms.set_membership(
        tx,
        [
            (key[1], room_nid, membership_in(row.client), nids[row.event_id], pos)
            for key, row in seed.state.items()
            if key[0] == MEMBER
        ],
    )
    rooms.clear_nodes(tx, room_nid)
    rooms.set_nodes(tx, [(room_nid, name, count) for name, count in seed.nodes.items()])


def _announce(server: Server, node: Node, room_id: str, room_nid: int, pos: int, residents: Sequence[int]) -> None:
    node.memory(Rooms).drop(room_id)
    node.memory(Erased).clear()
    node.announce(pos, [(Stream.TIMELINE, [room_nid]), (Stream.MEMBERSHIP, residents), (Stream.MEMBERS, [room_nid])])
    server.wake_residents(node, residents)


# what a node missed, and what is older ------------------------------------------------------


async def _fill_gap(server: Server, source: Node, destination: Node, seed: Seed) -> None:
    """Copy what happened in a room while the destination had no member in it, as timeline events, oldest first."""
    held = await destination.read(rooms.find, seed.room.room_id)
    if held is None or held.state_group is None:
        return
    after = await source.read(events.newest_place_of, held.tips)
    while after is not None:
        rows = await source.read(
            events.timeline_forwards, seed.room.room_nid, after, (seed.newest[-1].pos or 0) - 1, CHUNK
        )
        if not rows:
            return
        redacted = await _redacted(source, seed.room, rows)
        await destination.advance(_append, held.room_nid, rows, redacted, server.clock.now_ms())
        destination.memory(StateRows).clear()  # what came may have redacted what was there
        after = rows[-1].pos


async def _redacted(source: Node, room: StoredRoom, rows: Sequence[StoredEvent]) -> list[StoredEvent]:
    """What the redactions among some events have left of their targets."""
    rules = versions.rules_of(room.version)
    redactions = [from_stored(rules, room.room_id, row.client, row.rest) for row in rows if row.type == REDACTION]
    return await source.read(events.by_ids, {event.redacts for event in redactions if event.redacts is not None})


async def _append(
    tx: Transaction, room_nid: int, rows: Sequence[StoredEvent], redacted: Sequence[StoredEvent], now_ms: int
) -> None:
    events.replace_bytes(tx, [(row.client, row.rest, row.unsigned, row.event_id) for row in redacted])
    known = await events.known(tx, [row.event_id for row in rows])
    fresh = [row for row in rows if known.get(row.event_id, (0, None))[1] is None]
    if fresh:
        users.intern(tx, {row.sender for row in fresh})
        first = await streams.allocate(tx, len(fresh))
        places = [first + offset for offset in range(len(fresh))]
        copies = _insert_copies(tx, room_nid, fresh, known, places, first)
        sticky_events.keep(tx, now_ms, copies)
        state.note_changes(
            tx,
            [
                (room_nid, place, copy.type, copy.state_key, copy.event_nid)
                for copy, place in zip(copies, places, strict=True)
                if copy.state_key is not None
            ],
        )


async def copy_history(server: Server, source: Node, destination: Node, room: StoredRoom) -> bool:
    """Copy one chunk of history that is older than the replica; False when there is no more."""
    assert room.history_before is not None
    theirs = await source.read(rooms.find, room.room_id)
    rows: Sequence[StoredEvent] = []
    for attempt in range(2):
        if theirs is not None:
            rows = await source.read(events.timeline_backwards, theirs.room_nid, room.history_before - 1, None, CHUNK)
        if await destination.advance(_prepend, server, destination, room, rows, last_attempt=attempt == 1):
            break
    return len(rows) == CHUNK


async def _prepend(
    tx: Transaction, server: Server, node: Node, room: StoredRoom, rows: Sequence[StoredEvent], *, last_attempt: bool
) -> bool:
    """``rows``: newest first. False, and nothing done, when a redaction of one has overtaken it: read them again."""
    known = await events.known(tx, [row.event_id for row in rows])
    fresh = [row for row in rows if known.get(row.event_id, (0, None))[1] is None]
    awaited = await events.awaited(tx, [row.event_id for row in fresh])
    if not last_attempt and any(row.event_id in awaited and not _is_redacted(row) for row in fresh):
        return False
    events.await_no_more(tx, awaited)
    if fresh:
        users.intern(tx, {row.sender for row in fresh})
        top = await streams.allocate_history(tx, len(fresh))
        first = await streams.allocate(tx, len(fresh))
        places = [top - offset for offset in range(len(fresh))]
        copies = _insert_copies(tx, room.room_nid, fresh, known, places, first)
        sticky_copies.keep(tx, server, node, room.room_id, copies, first + len(fresh) - 1)
        tx.after_commit(lambda: _relate(node, room.room_id))
    rooms.set_history_before(tx, room.room_nid, rows[-1].pos if len(rows) == CHUNK else None)
    return True


def _relate(node: Node, room_id: str) -> None:
    """What has come may relate to what is in memory."""
    held = node.memory(Rooms).get(room_id)
    if held is not None:
        held.relates()


def _is_redacted(row: StoredEvent) -> bool:
    return row.unsigned is not None and b'"redacted_because":' in row.unsigned


def _insert_copies(
    tx: Transaction,
    room_nid: int,
    rows: Sequence[StoredEvent],
    known: Mapping[str, tuple[int, int | None]],
    places: Sequence[int],
    first: int,
) -> list[NewEvent]:
    """Queue copies of events at these places; returns them."""
    nids = [known.get(row.event_id, (first + offset,))[0] for offset, row in enumerate(rows)]
    copies = [_copy(row, nid, room_nid, place, None) for row, nid, place in zip(rows, nids, places, strict=True)]
    events.insert(tx, copies)
    return copies
