"""Receiving: an event that was ordered elsewhere is checked, placed in the room's graph, and submitted to be committed.

Usually its ``prev_events`` are the room's tips, and it follows on them. Otherwise the room has forked: the state
before it, and the room's current state, are resolved from the branches.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from immutables import Map

from homeserver.protocol import auth_rules, resolution
from homeserver.protocol.errors import Forbidden
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS, StateKey
from homeserver.rooms import effects, references, state, transactions
from homeserver.rooms.checks import authorise, redacted
from homeserver.rooms.invitations import OUTSIDE
from homeserver.rooms.ordering import Echoes
from homeserver.rooms.persist import Persister, commit, submit
from homeserver.rooms.state import Entry, Rooms, Snapshot
from homeserver.rooms.steps import GroupStep, MemberChange, Step, relation_of, replaced
from homeserver.rooms.stripped import stripped_keys, stripped_state
from homeserver.storage import events as stored
from homeserver.storage import state as stored_state
from homeserver.storage.events import Verdict
from homeserver.storage.outbox import NewParcel
from homeserver.storage.state import Group

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


class _UnderWay(Exception):
    """A branch of the room ends in an event that is not committed yet, so that its state cannot be read."""


@dataclass(frozen=True, slots=True)
class _Branch:
    """The room after one event: a snapshot of its state."""

    group: Group
    state: Map[StateKey, Entry]


@dataclass(frozen=True, slots=True)
class _Found:
    """What `_prepare` looked up for an event, valid as long as the room's head is ``head``."""

    head: Snapshot
    before: Snapshot
    base: Group
    resolved: bool
    known: tuple[int, int | None] | None
    target: Event | None
    places: Mapping[str, effects.Place]
    current: Map[StateKey, Entry] | None
    tips: Mapping[str, Group]
    keys: Sequence[StateKey]


async def receive(
    server: Server,
    node: Node,
    room_id: str,
    event: Event,
    *,
    txn_key: bytes | None = None,
    also: Callable[[Transaction], None] | None = None,
    orderer: str | None = None,
) -> asyncio.Future[None] | None:
    """Place an event whose ``prev_events`` this node has, and submit it; the future is that of `persist.submit`.

    ``orderer``: the node of this deployment that ordered it, and showed it to its users. It is not soft-failed for what
    nobody there could know, so that all nodes show the same. The room's home node passes it on to the others: while
    it was away, the orderer may not have known of all of them.

    None when the timeline has the event already, or the node holds another of the same id, which can be where servers
    choose ids: the first one stays. Raises NotFound without the room.
    """
    if txn_key is not None:
        await transactions.load(node)
    persister = node.memory(Persister)
    while True:
        room = await state.get(node, room_id)
        if event.event_id in persister.under_way:  # from another node, at the same time
            await commit(server, node, [])
            continue
        try:
            found = await _prepare(server, node, room, event)
        except _UnderWay:
            await commit(server, node, [])  # done when all that was submitted before it is
            continue
        if found is None:
            return None
        if (
            node.memory(Rooms).get(room_id) is room
            and event.event_id not in persister.under_way
            and room.head is found.head
            and not state.lacking(found.before, found.keys)
            and not state.lacking(found.head, found.keys)
        ):
            step = _build(room, event, found, txn_key, ours=orderer is not None)
            references.remember(node, event)
            if orderer is not None and room.home == node.name and step.verdict is Verdict.ACCEPTED:
                others = {*found.head.nodes, *step.after.nodes} - {node.name, orderer}
                step.parcels = [NewParcel(name, "event", body=txn_key) for name in sorted(others)]
            if txn_key is not None:
                node.memory(transactions.Seen).add(txn_key)
            step.echo = None if txn_key is None else node.memory(Echoes).sent.pop(txn_key)
            return submit(server, node, [step], also)


async def _prepare(server: Server, node: Node, room: Room, event: Event) -> _Found | None:
    known = (await node.read(stored.known, [event.event_id])).get(event.event_id)
    if event.event_id in room.head.tips or (known is not None and known[1] is not None):
        return None
    if known is not None and not await _is_the_one_held(node, room, event):
        return None
    head = room.head
    linear = set(event.prev_events) == set(head.tips)
    if linear:
        before, base, resolved = head, head.group, False
    else:
        before, base, resolved = await _before(node, room, head, event)
    keys = [CREATE, POWER_LEVELS, *auth_rules.auth_types_for(room.rules, event)]
    if event.state_key is not None:
        keys.append((event.type, event.state_key))
    if event.type == MEMBER:
        keys += stripped_keys(head, event.sender)
    while missing := [*state.lacking(before, keys), *state.lacking(head, keys)]:
        await state.load_entries(node, room, missing)
    tips = {tip: group for tip, group in head.tips.items() if tip not in event.prev_events}
    current = None
    if tips:
        current = await _current(node, room, head, before, event, tips)
    changed = [] if event.type != MEMBER or event.state_key is None else [event.state_key]
    if current is not None:
        changed += [key[1] for key in _difference(head.state, current) if key[0] == MEMBER]
    target = None
    if event.redacts is not None:
        row = await node.read(stored.by_id, room.nid, event.redacts)
        target = None if row is None else state.parse(room, row)
    places = await effects.look_up(server, node, changed)
    return _Found(head, before, base, resolved, known, target, places, current, tips, keys)


async def _is_the_one_held(node: Node, room: Room, event: Event) -> bool:
    """Whether the event of this id that the node holds is this one, whole or redacted."""
    if room.rules.event_id_is_hash:
        return True
    row = await node.read(stored.by_id, room.nid, event.event_id)
    return row is not None and state.parse(room, row).reference_hash == event.reference_hash


# branches -----------------------------------------------------------------------------------


async def _before(node: Node, room: Room, head: Snapshot, event: Event) -> tuple[Snapshot, Group, bool]:
    """The room as it was before the event: its snapshot, what that is based on, and whether it had to be resolved."""
    branches = await _branches(node, room, head, event.prev_events)
    if not branches:  # nothing that it follows is known here: the current state has to do
        return head, head.group, False
    if len({id(branch.group) for branch in branches}) == 1:
        return replace(head, state=branches[0].state, group=branches[0].group), branches[0].group, False
    merged = await _resolve(node, room, [branch.state for branch in branches])
    return replace(head, state=merged, group=branches[0].group), branches[0].group, True


async def _branches(node: Node, room: Room, head: Snapshot, event_ids: Collection[str]) -> list[_Branch]:
    """The states after events, of those that this node has."""
    groups: dict[str, Group] = {event_id: head.tips[event_id] for event_id in event_ids if event_id in head.tips}
    for row in await node.read(stored.by_ids, [event_id for event_id in event_ids if event_id not in groups]):
        if row.state_group is not None:
            groups[row.event_id] = await node.read(stored_state.load_group, row.state_group)
    distinct: dict[int, Group] = {}
    for group in groups.values():
        distinct.setdefault(group.nid if group.nid is not None else -id(group), group)
    return [_Branch(group, await _state_of(node, room, head, group)) for group in distinct.values()]


async def _state_of(node: Node, room: Room, head: Snapshot, group: Group) -> Map[StateKey, Entry]:
    if group is head.group or (group.nid is not None and group.nid == head.group.nid):
        return head.state
    if not _is_committed(node, group):
        raise _UnderWay
    nids = await node.read(stored_state.group_state, group)
    rows = {row.event_nid: row for row in await node.read(stored.by_nids, set(nids.values()))}
    return Map({key: _entry(room, head, key, rows[nid]) for key, nid in nids.items()})


def _is_committed(node: Node, group: Group) -> bool:
    """Whether a snapshot can be read: row ids are positions, which are given while a transaction runs."""
    return group.nid is not None and group.nid <= node.position


def _entry(room: Room, head: Snapshot, key: StateKey, row: stored.StoredEvent) -> Entry:
    """The entry of a stored state event; the one in memory where there is one."""
    held = head.state.get(key)
    if held is not None and held.event_id == row.event_id:
        return held
    entry = state.entry_of(state.parse(room, row))
    entry.nid = row.event_nid
    return entry


async def _resolve(node: Node, room: Room, states: Sequence[Map[StateKey, Entry]]) -> Map[StateKey, Entry]:
    """State resolution, with the events that it asks for loaded as it asks."""
    entries = {entry.event_id: entry for one in states for entry in one.values()}
    known: dict[str, Event] = {event_id: entry.event for event_id, entry in entries.items() if entry.event is not None}
    sets = [{key: entry.event_id for key, entry in one.items()} for one in states]
    while True:
        try:
            resolved = resolution.resolve(room.rules, sets, known)
        except resolution.Missing as missing:
            rows = await node.read(stored.by_ids, missing.ids)
            if not rows:
                if room.room_id in node.memory(Rooms).busy:
                    raise _UnderWay from None
                raise
            for row in rows:
                known[row.event_id] = state.parse(room, row)
                if row.event_id in entries:
                    entries[row.event_id].event = known[row.event_id]
        else:
            for event_id in set(resolved.values()) - entries.keys():
                entries[event_id] = await _stored_entry(node, room, event_id)
            return Map({key: entries[event_id] for key, event_id in resolved.items()})


async def _stored_entry(node: Node, room: Room, event_id: str) -> Entry:
    (row,) = await node.read(stored.by_ids, [event_id])
    entry = state.entry_of(state.parse(room, row))
    entry.nid = row.event_nid
    return entry


async def _current(
    node: Node, room: Room, head: Snapshot, before: Snapshot, event: Event, tips: Mapping[str, Group]
) -> Map[StateKey, Entry]:
    """The current state once the event is one of several tips."""
    mine = before.state
    try:
        authorise(room, event, before)
    except Forbidden:
        return head.state  # it will be rejected and be no tip
    if event.state_key is not None:
        mine = mine.set((event.type, event.state_key), state.entry_of(event))
    others = await _branches(node, room, head, list(tips))
    return await _resolve(node, room, [mine, *(branch.state for branch in others)])


def _difference(old: Map[StateKey, Entry], new: Map[StateKey, Entry]) -> dict[StateKey, Entry | None]:
    changes: dict[StateKey, Entry | None] = {
        key: entry for key, entry in new.items() if (held := old.get(key)) is None or held.event_id != entry.event_id
    }
    changes.update({key: None for key in old if key not in new})
    return changes


# nothing below waits ------------------------------------------------------------------------


def _build(room: Room, event: Event, found: _Found, txn_key: bytes | None, *, ours: bool) -> Step:
    """The step of an event, whatever the checks come to. What is not accepted becomes no tip and no current state."""
    head = found.head
    verdict = _verdict(room, event, found, ours=ours)
    step = Step(room, event, head, found.base, verdict, txn_key=txn_key, relation=relation_of(event.content))
    step.held_as = None if found.known is None else found.known[0]
    groups: list[GroupStep] = []
    step.group = _root(found.before.state, groups) if found.resolved else found.base
    if event.state_key is not None and verdict is not Verdict.REJECTED:
        _add_entry(step, event, found, groups)
    step.groups = groups
    if verdict is Verdict.ACCEPTED:
        _take_effect(room, step, found, groups)
    return step


def _verdict(room: Room, event: Event, found: _Found, *, ours: bool) -> Verdict:
    try:
        authorise(room, event, found.before)
    except Forbidden:
        return Verdict.REJECTED
    if ours:
        return Verdict.ACCEPTED
    try:
        authorise(room, event, found.head)
    except Forbidden:
        return Verdict.SOFT_FAILED
    return Verdict.ACCEPTED


def _add_entry(step: Step, event: Event, found: _Found, groups: list[GroupStep]) -> None:
    """The snapshot after a state event."""
    key = (event.type, event.state_key or "")
    entry = None if found.current is None else found.current.get(key)
    if entry is None or entry.event_id != event.event_id:
        entry = state.entry_of(event)
    step.entry = entry
    step.unsigned = replaced(found.before.state.get(key))
    previous, step.group = step.group, step.group.successor()
    groups.append(GroupStep(step.group, previous, {key: entry}))


def _take_effect(room: Room, step: Step, found: _Found, groups: list[GroupStep]) -> None:
    """What an accepted event does to the room."""
    head, event = found.head, step.event
    current = found.current
    if current is None:
        current = found.before.state
        if step.entry is not None:
            current = current.set((event.type, event.state_key or ""), step.entry)
    step.changes = _difference(head.state, current)
    done = effects.apply(head, step.changes, found.places)
    step.after = replace(
        done.after,
        tips={**found.tips, event.event_id: step.group},
        depth=max(head.depth, event.depth),
        group=_current_group(head, step.changes, current, groups) if found.tips else step.group,
    )
    step.members, step.nodes = [_with_preview(member, event, step.after) for member in done.members], done.nodes
    if found.target is None:
        step.awaits = event.redacts
    else:
        try:
            step.redacted = redacted(room, event, found.target)
        except Forbidden:
            step.redacted = None  # the event stands, and so does its target


def _with_preview(member: MemberChange, event: Event, after: Snapshot) -> MemberChange:
    """A change of membership, with what a resident who is invited or knocks by ``event`` may see of the room."""
    if member.membership not in OUTSIDE or member.entry is None or member.entry.event_id != event.event_id:
        return member
    if state.lacking(after, stripped_keys(after, event.sender)):
        return member  # a branch brought other names along: what an earlier invitation showed has to do
    return replace(member, stripped=stripped_state(after, event))


def _root(whole: Map[StateKey, Entry], groups: list[GroupStep]) -> Group:
    root = Group(None, 0, None)
    groups.append(GroupStep(root, None, dict(whole)))
    return root


def _current_group(
    head: Snapshot, changes: Mapping[StateKey, Entry | None], current: Map[StateKey, Entry], groups: list[GroupStep]
) -> Group:
    """The snapshot of a current state that was resolved from several tips."""
    if not changes:
        return head.group
    if None in changes.values():  # a chain of snapshots only adds
        return _root(current, groups)
    group = head.group.successor()
    groups.append(GroupStep(group, head.group, {key: entry for key, entry in changes.items() if entry is not None}))
    return group
