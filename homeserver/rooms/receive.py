"""Receiving: an event that was ordered elsewhere is checked, placed in the room's graph, and submitted to be committed.

Usually its ``prev_events`` are the room's tips, and it follows on them. Otherwise the room has forked: the state
before it, and the room's current state, are resolved from the branches (rooms/branches.py). What comes from another
server is believed nothing: `take_in` checks it as the specification says, and keeps no content that should have been
encrypted.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from homeserver.protocol import auth_chain, auth_rules
from homeserver.protocol.errors import Forbidden
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS, StateKey
from homeserver.protocol.policy_server import POLICY
from homeserver.rooms import (
    branches,
    clear_text,
    effects,
    outliers,
    placing,
    recommendations,
    references,
    state,
    transactions,
)
from homeserver.rooms.branches import Before, Lacking, TooMuch, UnderWay
from homeserver.rooms.checks import ENCRYPTION, authorise
from homeserver.rooms.clear_text import without_text
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
    node of ours has found it to be, and that the event is allowed. ``alone``: its state cannot be resolved with
    those of other tips, which it takes the place of.
    """

    node: str | None = None
    given: Mapping[StateKey, str] | None = None
    settled: bool = False
    alone: bool = False


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

    asked: set[str] = set()
    while True:
        try:
            placed = await _place(server, node, room_id, event, origin, finish, also)
        except (Lacking, TooMuch) as fault:
            if source is None or origin.alone:
                raise
            auth = fault.auth - asked if isinstance(fault, Lacking) else frozenset()
            if auth:
                asked |= auth
                await outliers.copy(node, room_id, await source.events(auth))
            elif not origin.settled:
                origin = _Origin(orderer, await _given(node, room_id, event, source), settled=True)
            else:  # better a state that is mended by the next event than no event after this one
                origin = replace(origin, alone=True)
        else:
            return None if placed is None else placed.done


async def _given(node: Node, room_id: str, event: Event, source: Source) -> dict[StateKey, str]:
    """The state before an event of which this node lacks what it follows, as its source has it."""
    whole = dict(await source.state_after())
    if event.state_key is not None:
        whole.pop((event.type, event.state_key), None)
    await outliers.copy(node, room_id, list(whole.values()))
    return {key: row.event_id for key, row in whole.items()}


@dataclass(frozen=True, slots=True)
class Taken:
    """What the checks on an event came to; ``done`` is the future of `persist.submit`."""

    verdict: Verdict
    done: asyncio.Future[None]


async def take_in(
    server: Server,
    node: Node,
    room_id: str,
    event: Event,
    *,
    given: Mapping[StateKey, str] | None = None,
    resident: bool = False,
) -> Verdict | None:
    """`submit_foreign`, and wait for the commit; returns what the checks came to, None when the event was here."""
    taken = await submit_foreign(server, node, room_id, event, given=given, resident=resident)
    if taken is None:
        return None
    await asyncio.shield(taken.done)
    return taken.verdict


async def submit_foreign(
    server: Server,
    node: Node,
    room_id: str,
    event: Event,
    *,
    given: Mapping[StateKey, str] | None = None,
    resident: bool = False,
) -> Taken | None:
    """Place an event of another server on the room's home node, and submit it: the next can be placed on top of it.

    Format, signatures and hash have been checked (`federation.pdu_checks`). ``given``: the state before it, by ids of
    events that are here, where events that it follows are not. ``resident``: it came into the room through us, so that
    we tell the other servers.

    None when the event is here already. Raises Lacking when others have to come first, `branches.TooMuch`, NotFound
    without the room, NodeUnavailable.
    """

    def finish(step: Step, found: Found) -> None:
        if step.verdict is Verdict.ACCEPTED:
            step.parcels = placing.shipments(node, found.head, step, found.places)
            step.to_peers = resident

    taken = await _place(server, node, room_id, event, _Origin(None, given), finish, None)
    if taken is not None:
        server.telemetry.counter(
            "domicile_federation_events", "Events of other servers, by what the checks came to.", ["verdict"]
        ).inc(taken.verdict.name.lower())
    return taken


async def _place(
    server: Server,
    node: Node,
    room_id: str,
    event: Event,
    origin: _Origin,
    finish: Callable[[Step, Found], None],
    also: Callable[[Transaction], None] | None,
) -> Taken | None:
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
            return Taken(step.verdict, submit(server, node, [step], _with(also, found, event)))


def _with(
    also: Callable[[Transaction], None] | None, found: Found, event: Event
) -> Callable[[Transaction], None] | None:
    """What is written besides the event: that its redaction, which came before it, waits no more."""
    if found.redaction is None:
        return also

    def both(tx: Transaction) -> None:
        stored.await_no_more(tx, [event.event_id])
        if also is not None:
            also(tx)

    return both


# looking things up --------------------------------------------------------------------------------


async def _prepare(server: Server, node: Node, room: Room, event: Event, origin: _Origin) -> tuple[Event, Found] | None:
    """The event as it is kept, and what had to be looked up. None when it is here already."""
    known, redaction_nid = await node.read(graph.known, room.nid, event.event_id)
    if event.event_id in room.head.tips or (known is not None and known[1] is not None):
        return None
    if known is not None:
        held = await _held(node, room, event)
        if held is None:
            return None
        event = held
    head = room.head
    verdict = await _verdict(node, room, event, origin)
    before = await _before(node, room, head, event, origin)
    snapshot = head if before.state is head.state else replace(head, state=before.state, group=before.group)
    keys = _keys(room, event, head)
    while missing := [*state.lacking(snapshot, keys), *state.lacking(head, keys)]:
        await state.load_entries(node, room, missing)
    if origin.node is None:
        event, verdict = _readable(server, event, snapshot, head, verdict)
    follows = head.tips if origin.alone else event.prev_events
    tips = {tip: group for tip, group in head.tips.items() if tip not in follows}
    current = None
    if tips and verdict in (None, Verdict.ACCEPTED):
        current = await _current(node, room, head, snapshot, event, tips, origin)
    places = await effects.look_up(server, node, _moved(event, head, current))
    target = None if event.redacts is None else await _load(node, room, event.redacts)
    redaction = None if redaction_nid is None or known is not None else await _parsed(node, room, redaction_nid)
    return event, Found(
        head,
        snapshot,
        before.group,
        before.resolved,
        known,
        target,
        places,
        current,
        tips,
        keys,
        verdict,
        ours=origin.node is not None,
        redaction=redaction,
    )


async def _held(node: Node, room: Room, event: Event) -> Event | None:
    """The event as the node holds it outside the timeline, perhaps redacted; None when that is another."""
    held = await _load(node, room, event.event_id)
    if held is None or (not room.rules.event_id_is_hash and held.reference_hash != event.reference_hash):
        return None
    return held


async def _load(node: Node, room: Room, event_id: str) -> Event | None:
    row = await node.read(stored.by_id, room.nid, event_id)
    return None if row is None else state.parse(room, row)


async def _parsed(node: Node, room: Room, event_nid: int) -> Event:
    (row,) = await node.read(stored.by_nids, [event_nid])
    return state.parse(room, row)


def _keys(room: Room, event: Event, head: Snapshot) -> list[StateKey]:
    """The entries of the state that the checks and the effects look at."""
    keys = [CREATE, POWER_LEVELS, POLICY, *auth_rules.auth_types_for(room.rules, event)]
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


# the state before, and now ------------------------------------------------------------------------


async def _before(node: Node, room: Room, head: Snapshot, event: Event, origin: _Origin) -> Before:
    """The room before the event. Raises UnderWay, Lacking."""
    follows = set(event.prev_events)
    if follows == set(head.tips) or not follows:
        return Before(head.state, head.group, False)
    if origin.given is None:
        under_way = follows & node.memory(Persister).under_way  # what is committed while this reads is not seen by it
        missing = follows - (await branches.groups_after(node, room, head, follows)).keys()
        if missing & under_way:
            raise UnderWay
        if missing:
            raise Lacking(prev=missing)
    return await branches.before(node, room, head, follows, origin.given, settled=origin.settled)


async def _current(
    node: Node,
    room: Room,
    head: Snapshot,
    before: Snapshot,
    event: Event,
    tips: Mapping[str, Group],
    origin: _Origin,
) -> State | None:
    """The current state once the event is one of several tips; None when it will be none."""
    if not origin.settled:
        try:
            authorise(room, event, before)
        except Forbidden:
            return None
    mine = before.state
    if event.state_key is not None:
        mine = mine.set((event.type, event.state_key), state.entry_of(event))
    return await branches.current(node, room, head, mine, tips)


# what other servers are not believed --------------------------------------------------------------


async def _verdict(node: Node, room: Room, event: Event, origin: _Origin) -> Verdict | None:
    """What the events come to that the event cites, when it is another server's. Raises UnderWay, Lacking."""
    if origin.settled:
        return Verdict.ACCEPTED
    if origin.node is not None:
        return None
    if not event.prev_events:  # the one event that follows on none began the room, and is here
        return Verdict.REJECTED
    under_way = node.memory(Persister).under_way.intersection(event.auth_events)  # as in `_before`
    known, rejected = await _cited(node, room, event)
    missing = set(event.auth_events) - known.keys()
    if missing & under_way:
        raise UnderWay
    if missing:
        raise Lacking(auth=missing)
    if not await _refers_truly(node, room, event):
        return Verdict.REJECTED
    return None if auth_chain.is_allowed(room.rules, event, known, rejected) else Verdict.REJECTED


async def _cited(node: Node, room: Room, event: Event) -> tuple[dict[str, Event], set[str]]:
    """The events that an event cites, and the m.room.create; and those of them that were rejected. Usually no trip."""
    creation = state.creation(room)
    wanted = {creation.event_id, *event.auth_events}
    head = room.head.state
    entries = [head.get(place) for place in (CREATE, *auth_rules.auth_types_for(room.rules, event))]
    known = {
        entry.event_id: entry.event
        for entry in entries
        if entry is not None and entry.event is not None and entry.event_id in wanted
    }
    rejected: set[str] = set()
    if len(known) < len(wanted):
        for row in await node.read(graph.of_room, room.nid, wanted - known.keys()):
            known[row.event_id] = state.parse(room, row)
            if row.verdict == Verdict.REJECTED:
                rejected.add(row.event_id)
    return known, rejected


async def _refers_truly(node: Node, room: Room, event: Event) -> bool:
    """Whether the events that the event refers to have the hashes that it says they have, as far as they are here."""
    event_ids = {event_id for event_id, _ in references.claims(event)}
    await references.load(node, room, event_ids)
    return references.is_true(event, references.hashes(node, room, event_ids))


def _readable(
    server: Server, event: Event, before: Snapshot, head: Snapshot, verdict: Verdict | None
) -> tuple[Event, Verdict | None]:
    """The event without what should have been encrypted. It is soft-failed for that, for weakening the encryption, and
    where the policy server of the room does not recommend it."""
    kept = without_text(server, event)
    weakens = event.type == ENCRYPTION[0] and clear_text.weakens(server, event, before.event(ENCRYPTION))
    if verdict is None and (kept is not event or weakens or recommendations.missing(server, event, head) is not None):
        verdict = Verdict.SOFT_FAILED
    return kept, verdict
