"""Receiving: an event that was ordered elsewhere is checked, placed in the room's graph, and submitted to be committed.

Usually its ``prev_events`` are the room's tips, and it follows on them. Otherwise the room has forked: the state
before it, and the room's current state, are resolved from the branches (rooms/branches.py). What comes from another
server is believed nothing: `take_in` checks it as the specification says, and keeps no content that should have been
encrypted.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from homeserver.protocol import auth_rules, encryption_rules
from homeserver.protocol.errors import PlaintextRefused
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS, StateKey
from homeserver.protocol.rejection import Rejected
from homeserver.rooms import branches, effects, outliers, placing, references, state, transactions
from homeserver.rooms.branches import Lacking, UnderWay
from homeserver.rooms.checks import ENCRYPTION, authorise
from homeserver.rooms.ordering import Echoes
from homeserver.rooms.persist import Persister, commit, submit
from homeserver.rooms.placing import Found
from homeserver.rooms.state import Rooms
from homeserver.rooms.stripped import stripped_keys
from homeserver.storage import events as stored
from homeserver.storage import graph
from homeserver.storage.events import Verdict
from homeserver.storage.outbox import NewParcel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.branches import State
    from homeserver.rooms.state import Room, Snapshot
    from homeserver.rooms.steps import Step
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node
    from homeserver.storage.state import Group


class Source(Protocol):
    """The node that ordered an event, as the one that receives it asks it for more."""

    async def state_after(self) -> Mapping[StateKey, StoredEvent]:
        """The state of the room after the event."""
        ...

    async def events(self, event_ids: Collection[str]) -> Sequence[StoredEvent]:
        """Events of the room, and as much of their auth chains as they are good for."""
        ...


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where an event comes from. ``node``: the one of this deployment that ordered it; None: another server.

    ``given``: the state before the event by event ids, as another server claims it. ``settled``: ``given`` is what a
    node of ours has found it to be, and that the event is allowed.
    """

    node: str | None = None
    given: Mapping[StateKey, str] | None = None
    settled: bool = False


async def receive(
    server: Server,
    node: Node,
    room_id: str,
    event: Event,
    *,
    orderer: str,
    txn_key: bytes | None = None,
    also: Callable[[Transaction], None] | None = None,
    source: Source | None = None,
) -> asyncio.Future[None] | None:
    """Place an event that the node ``orderer`` of this deployment has placed, and submit it; the future is that of
    `persist.submit`.

    It is not soft-failed for what nobody there could know, so that all nodes show the same. The room's home node
    passes it on to the others: while it was away, the orderer may not have known of all of them. ``source`` is asked
    for what this node lacks to place it.

    ``handed_in``: another server gave it to this one to put into the room, which passes it on to the others.

    None when the timeline has the event already, or the node holds another of the same id, which can be where servers
    choose ids: the first one stays. Raises NotFound without the room.
    """
    if txn_key is not None:
        await transactions.load(node)
    origin = _Origin(orderer)

    def finish(step: Step, found: Found) -> None:
        room = step.room
        step.txn_key = txn_key
        if room.home == node.name and step.verdict is Verdict.ACCEPTED:
            others = {*found.head.nodes, *step.after.nodes} - {node.name, orderer}
            step.parcels = [NewParcel(name, "event", body=txn_key) for name in sorted(others)]
        if txn_key is not None:
            node.memory(transactions.Seen).add(txn_key)
            step.echo = node.memory(Echoes).sent.pop(txn_key)

    asked = False
    while True:
        try:
            placed = await _place(server, node, room_id, event, origin, finish, also)
        except Lacking as lacking:
            if asked or source is None:
                raise
            asked = True
            await outliers.copy(server, node, room_id, await source.events(lacking.auth | lacking.prev))
            if lacking.prev:
                whole = dict(await source.state_after())
                whole.pop((event.type, event.state_key or ""), None)
                await outliers.copy(server, node, room_id, list(whole.values()))
                given = {key: row.event_id for key, row in whole.items()}
                origin = _Origin(orderer, given, settled=True)
        else:
            return None if placed is None else placed[1]


async def take_in(
    server: Server,
    node: Node,
    room_id: str,
    event: Event,
    *,
    given: Mapping[StateKey, str] | None = None,
    resident: bool = False,
) -> Verdict | None:
    """Place an event of another server on the room's home node, and wait for its commit.

    Format, signatures and hash have been checked (`federation.pdu_checks`). ``given``: the state before it, by ids of
    events that are here, where events that it follows are not. ``resident``: it came into the room through us, so that
    we tell the other servers.

    Returns what the checks came to; None when the event is here already. Raises Lacking when others have to come
    first, `branches.TooMuch`, NotFound without the room, NodeUnavailable.
    """
    origin = _Origin(None, given)

    def finish(step: Step, found: Found) -> None:
        if step.verdict is Verdict.ACCEPTED:
            step.parcels = placing.shipments(node, found.head, step, found.places)
            step.to_peers = resident

    placed = await _place(server, node, room_id, event, origin, finish, lambda tx: _await_no_more(tx, event))
    if placed is None:
        return None
    verdict, done = placed
    await done
    counter = server.telemetry.counter(
        "domicile_federation_events", "Events of other servers, by what the checks came to.", ["verdict"]
    )
    counter.inc(verdict.name.lower())
    return verdict


def _await_no_more(tx: Transaction, event: Event) -> None:
    stored.await_no_more(tx, [event.event_id])


async def _place(
    server: Server,
    node: Node,
    room_id: str,
    event: Event,
    origin: _Origin,
    finish: Callable[[Step, Found], None],
    also: Callable[[Transaction], None] | None,
) -> tuple[Verdict, asyncio.Future[None]] | None:
    """Check an event and submit it; ``finish`` adds to its step what is not about the room's graph."""
    persister = node.memory(Persister)
    while True:
        room = await state.get(node, room_id)
        if event.event_id in persister.under_way:  # from elsewhere, at the same time
            await commit(server, node, [])
            continue
        try:
            prepared = await _prepare(server, node, room, event, origin)
        except UnderWay:
            await commit(server, node, [])  # done when all that was submitted before it is
            continue
        if prepared is None:
            return None
        kept, found = prepared
        if (
            node.memory(Rooms).get(room_id) is room
            and event.event_id not in persister.under_way
            and room.head is found.head
            and not state.lacking(found.before, found.keys)
            and not state.lacking(found.head, found.keys)
        ):
            step = placing.build(room, kept, found)
            references.remember(node, event)
            finish(step, found)
            return step.verdict, submit(server, node, [step], also)


async def _prepare(
    server: Server, node: Node, room: Room, event: Event, origin: _Origin
) -> tuple[Event, Found] | None:
    """The event as it is kept, and what had to be looked up. None when it is here already."""
    known = (await node.read(stored.known, [event.event_id])).get(event.event_id)
    if event.event_id in room.head.tips or (known is not None and known[1] is not None):
        return None
    if known is not None:
        held = await _held(node, room, event)
        if held is None:
            return None
        event = held
    verdict = await _verdict(node, room, event, origin)
    head = room.head
    before = await _before(node, room, head, event, origin)
    snapshot = head if before is None else _snapshot(head, before)
    keys = _keys(room, event, head)
    while missing := [*state.lacking(snapshot, keys), *state.lacking(head, keys)]:
        await state.load_entries(node, room, missing)
    if origin.node is None and verdict is None:
        verdict = _unreadable(server, event, snapshot)
        if verdict is not None:
            event = _without_text(server, event)
    tips = {tip: group for tip, group in head.tips.items() if tip not in event.prev_events}
    current = await _current(node, room, head, snapshot, event, tips, verdict)
    places = await effects.look_up(server, node, _moved(event, head, current))
    base = head.group if before is None else before.group
    resolved = before is not None and before.resolved
    target, redaction = await _target(node, room, event), await _redaction(node, room, event, known)
    ours = origin.node is not None
    return event, Found(
        head, snapshot, base, resolved, known, target, places, current, tips, keys, verdict, ours, redaction
    )


async def _held(node: Node, room: Room, event: Event) -> Event | None:
    """The event as the node holds it outside the timeline, perhaps redacted; None when that is another."""
    row = await node.read(stored.by_id, room.nid, event.event_id)
    if row is None:
        return None
    held = state.parse(room, row)
    if not room.rules.event_id_is_hash and held.reference_hash != event.reference_hash:
        return None
    return held


def _keys(room: Room, event: Event, head: Snapshot) -> list[StateKey]:
    keys = [CREATE, POWER_LEVELS, *auth_rules.auth_types_for(room.rules, event)]
    if event.state_key is not None:
        keys.append((event.type, event.state_key))
    if event.type == MEMBER:
        keys += stripped_keys(head, event.sender)
    return keys


def _moved(event: Event, head: Snapshot, current: State | None) -> list[str]:
    """The users whose membership may change."""
    changed = [] if event.type != MEMBER or event.state_key is None else [event.state_key]
    if current is not None:
        changed += [key[1] for key in branches.difference(head.state, current) if key[0] == MEMBER]
    return changed


async def _target(node: Node, room: Room, event: Event) -> Event | None:
    """What the event redacts, if it is here."""
    if event.redacts is None:
        return None
    row = await node.read(stored.by_id, room.nid, event.redacts)
    return None if row is None else state.parse(room, row)


async def _redaction(node: Node, room: Room, event: Event, known: object) -> Event | None:
    """The redaction of an event that came before it. One that was known had its effect when it came."""
    if known is not None:
        return None
    rows = await node.read(graph.redactions_of, room.nid, event.event_id)
    return state.parse(room, rows[0]) if rows else None


# branches -----------------------------------------------------------------------------------------


def _snapshot(head: Snapshot, before: branches.Before) -> Snapshot:
    return head if before.state is head.state else _replaced(head, before)


def _replaced(head: Snapshot, before: branches.Before) -> Snapshot:
    from dataclasses import replace

    return replace(head, state=before.state, group=before.group)


async def _before(
    node: Node, room: Room, head: Snapshot, event: Event, origin: _Origin
) -> branches.Before | None:
    """The room before the event. None: its current state has to do, since nothing that it follows is known."""
    if set(event.prev_events) == set(head.tips):
        return branches.Before(head.state, head.group, False)
    found = await branches.groups_after(node, room, head, event.prev_events)
    missing = set(event.prev_events) - found.keys()
    if missing and origin.given is None:
        if origin.node is None or event.prev_events:
            raise Lacking(prev=missing)
    return await branches.before(node, room, head, event, origin.given)


async def _current(
    node: Node,
    room: Room,
    head: Snapshot,
    before: Snapshot,
    event: Event,
    tips: Mapping[str, Group],
    verdict: Verdict | None,
) -> State | None:
    """The current state once the event is one of several tips; None where it is the only one, or will be none."""
    if not tips or verdict in (Verdict.REJECTED, Verdict.SOFT_FAILED):
        return None
    mine = before.state
    if event.state_key is not None:
        mine = mine.set((event.type, event.state_key), state.entry_of(event))
    return await branches.current(node, room, head, mine, tips)
