"""Ordering: a draft becomes an event at the tip of a room, allowed by its state, signed, and submitted to be committed.

A room's events are ordered on its home node; when that node is down, on the sender's own, and the branches are merged
when it is back (rooms/receive.py). Between reading the tip and submitting nothing waits, so a room does not fork
under concurrent senders.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.protocol import auth_rules, canonical, encryption_rules, events
from homeserver.protocol.errors import (
    CommitUnknown,
    Forbidden,
    InvalidParam,
    NodeUnavailable,
    NotFound,
    PlaintextRefused,
)
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS, StateKey
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.rejection import Rejected
from homeserver.rooms import effects, references, state, transactions
from homeserver.rooms.invitations import OUTSIDE
from homeserver.rooms.persist import submit
from homeserver.rooms.state import Rooms
from homeserver.rooms.steps import GroupStep, Redacted, Step
from homeserver.rooms.stripped import stripped_keys, stripped_state
from homeserver.runtime.lru import Lru
from homeserver.storage import client_transactions
from homeserver.storage import events as stored
from homeserver.storage.outbox import NewParcel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Entry, Room, Snapshot
    from homeserver.storage.client_transactions import Echo
    from homeserver.storage.nodes import Node

ENCRYPTION: StateKey = ("m.room.encryption", "")
REDACTION = "m.room.redaction"
MAX_PREV_EVENTS = 20


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has a place in a room. ``txn_key`` tells a repeated request from a second one, ``echo`` is
    the device that made it; both or none.

    ``origin_server_ts``: milliseconds since 1970; the server's clock when None.
    """

    type: str
    sender: str
    content: dict[str, Any]
    state_key: str | None = None
    redacts: str | None = None
    origin_server_ts: int | None = None
    txn_key: bytes | None = None
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What had to be looked up before a draft can be ordered without waiting."""

    places: Mapping[str, effects.Place]
    target: Event | None = None
    keys: Sequence[StateKey] = field(default_factory=tuple)


async def order(server: Server, node: Node, room_id: str, draft: Draft) -> str:
    """Order a draft on ``node``, wait for its commit, and return the event id.

    Raises Forbidden when the room's rules do not allow it, PlaintextRefused, NotFound without the room, BadJson and
    TooLarge for what is no event, NodeUnavailable.
    """
    _refuse_nul(draft)
    if draft.txn_key is None:
        return await _order(server, node, room_id, draft)
    under_way = node.memory(_UnderWay).events
    earlier = under_way.get(draft.txn_key)
    if earlier is None:  # else: the same request, twice at once
        earlier = under_way[draft.txn_key] = asyncio.ensure_future(_order_once(server, node, room_id, draft))
        earlier.add_done_callback(lambda _: under_way.pop(draft.txn_key or b""))
    return await asyncio.shield(earlier)


async def _order_once(server: Server, node: Node, room_id: str, draft: Draft) -> str:
    assert draft.txn_key is not None
    known = await transactions.event_of(node, draft.txn_key)
    if known is not None:
        return known
    node.memory(transactions.Seen).add(draft.txn_key)
    return await _order(server, node, room_id, draft)


async def _order(server: Server, node: Node, room_id: str, draft: Draft) -> str:
    event, committed = await place(server, node, room_id, draft)
    await asyncio.shield(committed)
    return event.event_id


class _UnderWay:
    """Transaction keys whose events wait for their commit on one node."""

    def __init__(self) -> None:
        self.events: dict[bytes, asyncio.Future[str]] = {}


def _refuse_nul(draft: Draft) -> None:
    if "\0" in draft.type or (draft.state_key is not None and "\0" in draft.state_key):
        raise InvalidParam("Event types and state keys must not contain U+0000")


async def place(server: Server, node: Node, room_id: str, draft: Draft) -> tuple[Event, asyncio.Future[None]]:
    """Build a draft at the room's tip and submit it; the future is that of `persist.submit`."""
    while True:
        room = await state.get(node, room_id)
        around = await _look_around(server, node, room, draft)
        if (
            node.memory(Rooms).get(room_id) is room
            and not state.lacking(room.head, around.keys)
            and not references.lacking(node, room, _cited(room, draft))
        ):
            step = _build(server, node, room, draft, around)
            return step.event, submit(server, node, [step])


async def _look_around(server: Server, node: Node, room: Room, draft: Draft) -> _Surroundings:
    """Load what `_build` needs. Usually everything is in memory, and nothing waits."""
    core = _Core(draft)
    keys = [CREATE, *auth_rules.auth_types_for(room.rules, core)]
    if draft.state_key is not None:
        keys.append((draft.type, draft.state_key))
    places: Mapping[str, effects.Place] = {}
    if draft.type == MEMBER and draft.state_key is not None:
        keys += stripped_keys(room.head, draft.sender)
        places = await effects.look_up(server, node, [draft.state_key])
    target = None
    if draft.redacts is not None:
        target = await _load_target(node, room, draft.redacts)
        keys.append(POWER_LEVELS)
    await state.require(node, room, keys)
    await references.load(node, room, _cited(room, draft))
    return _Surroundings(places, target, keys)


async def _load_target(node: Node, room: Room, event_id: str) -> Event:
    row = await node.read(stored.by_id, room.nid, event_id)
    if row is None:
        raise NotFound("There is no such event in the room")
    return state.parse(room, row)


async def build(server: Server, node: Node, room: Room, draft: Draft) -> Step:
    """Build a draft at the tip of a room that nobody else knows yet, without submitting it."""
    _refuse_nul(draft)
    return _build(server, node, room, draft, await _look_around(server, node, room, draft))


class _Core:
    """A draft as the selection of auth events looks at it."""

    __slots__ = ("content", "sender", "state_key", "type")

    def __init__(self, draft: Draft) -> None:
        self.type = draft.type
        self.state_key = draft.state_key
        self.sender = draft.sender
        self.content = draft.content


# nothing below waits ------------------------------------------------------------------------


def _build(server: Server, node: Node, room: Room, draft: Draft, around: _Surroundings) -> Step:
    head = room.head
    check_encryption(server, room, draft, around.target)
    now = server.clock.now_ms()
    event = events.build(
        room.rules,
        type=draft.type,
        sender=draft.sender,
        room_id=room.room_id,
        content=draft.content,
        state_key=draft.state_key,
        prev_events=_prev_events(room),
        auth_events=_auth_events(room, draft),
        depth=head.depth + 1,
        origin_server_ts=now if draft.origin_server_ts is None else draft.origin_server_ts,
        redacts=draft.redacts,
        reference_hashes=references.hashes(node, room, _cited(room, draft)),
        event_id=references.new_event_id(room.rules, server.name),
        server_name=server.name,
        key=server.identity.key,
    )
    references.remember(node, event)
    authorise(room, event, head)
    step = Step(room, event, head, head.group, txn_key=draft.txn_key, relation=relation_of(draft.content))
    step.echo = draft.echo
    if event.state_key is not None:
        _change_state(node, step, event, around.places)
    else:
        step.after = replace(head, tips={event.event_id: head.group}, depth=event.depth)
    if around.target is not None:
        check_redaction(room, draft.sender, around.target)
        step.redacted = redacted(room, event, around.target)
    step.parcels = [*step.parcels, *_shipments(node, room, head, step.after, draft.txn_key)]
    return step


def _prev_events(room: Room) -> list[str]:
    return list(room.head.tips)[:MAX_PREV_EVENTS]


def _auth_events(room: Room, draft: Draft) -> list[str]:
    places = auth_rules.auth_types_for(room.rules, _Core(draft))
    return [entry.event_id for entry in (room.head.state.get(key) for key in places) if entry is not None]


def _cited(room: Room, draft: Draft) -> list[str]:
    """The events whose hashes a draft needs at the tip of the room."""
    return [] if room.rules.event_id_is_hash else [*_prev_events(room), *_auth_events(room, draft)]


def check_encryption(server: Server, room: Room, draft: Draft, target: Event | None) -> None:
    """Close every way by which something readable could enter. Raises PlaintextRefused."""
    if server.settings.conformance_mode:
        return
    encryption_rules.refuse_plaintext(
        draft.type,
        draft.content,
        is_state=draft.state_key is not None,
        allow_in_clear=frozenset(server.settings.encryption.allow_in_clear),
    )
    if draft.state_key is None and ENCRYPTION not in room.head.state:
        raise PlaintextRefused("This room is not encrypted, so nothing can be sent to it")
    if draft.type == encryption_rules.ENCRYPTION:
        current = room.head.event(ENCRYPTION)
        encryption_rules.refuse_weaker_encryption(
            draft.state_key or "", draft.content, None if current is None else current.content
        )
    if target is not None:
        encryption_rules.refuse_redaction(target.type, target.state_key)


def authorise(room: Room, event: Event, snapshot: Snapshot) -> None:
    """Check an event against a snapshot whose entries have been loaded. Raises Forbidden with the rule's reason."""
    places = (CREATE, *auth_rules.auth_types_for(room.rules, event))
    known = {key: found for key in places if (found := snapshot.event(key)) is not None}
    try:
        auth_rules.check(room.rules, event, known)
    except Rejected as error:
        raise Forbidden(error.reason) from None


def check_redaction(room: Room, sender: str, target: Event) -> None:
    """Refuse to redact what others sent without the power to: between servers only the domains of the two count.

    Raises Forbidden. spec: client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid
    """
    levels = Levels(room.rules, room.head.event(CREATE), room.head.event(POWER_LEVELS))
    if sender != target.sender and levels.of(sender) < levels.redact:
        raise Forbidden("You may not redact what others sent to this room")


def redacted(room: Room, redaction: Event, target: Event) -> Redacted | None:
    """What a redaction leaves of its target. Raises Forbidden when its sender may not redact that."""
    known = {key: found for key in (CREATE, POWER_LEVELS) if (found := room.head.event(key)) is not None}
    if target.type == "m.room.create" or not auth_rules.may_redact(room.rules, redaction.sender, target.sender, known):
        raise Forbidden("You may not redact that event")
    return Redacted(
        target.redacted(),
        b'"redacted_because":' + redaction.client + b',"room_id":' + orjson.dumps(room.room_id) + b"}",
    )


def relation_of(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """(rel_type, parent event id) of an event that relates to another.

    spec: client-server-api/#forming-relationships-between-events
    """
    relates = content.get("m.relates_to")
    if not isinstance(relates, dict):
        return None
    rel_type, parent = relates.get("rel_type"), relates.get("event_id")
    if isinstance(rel_type, str) and isinstance(parent, str) and "\0" not in rel_type + parent:
        return rel_type, parent
    return None


def _change_state(node: Node, step: Step, event: Event, places: Mapping[str, effects.Place]) -> None:
    """Fill a step with what a state event does to the room."""
    assert event.state_key is not None
    head, key = step.after, (event.type, event.state_key)
    entry = state.entry_of(event)
    group = head.group.successor()
    step.entry, step.group = entry, group
    step.groups = [GroupStep(group, head.group, {key: entry})]
    step.changes = {key: entry}
    step.unsigned = replaced(head.state.get(key))
    done = effects.apply(head, step.changes, places)
    step.after = replace(done.after, tips={event.event_id: group}, depth=event.depth, group=group)
    step.members, step.nodes = done.members, done.nodes
    if entry.membership in OUTSIDE:
        step.members = [replace(step.members[0], stripped=stripped_state(step.after, event))]
    home = places.get(event.state_key, effects.ELSEWHERE).home
    before = head.state.get(key)
    # Nobody is told of a ban or its end who was not even invited: the room has no business on their node.
    concerns = entry.membership in OUTSIDE or (before is not None and before.membership in OUTSIDE)
    if concerns and home is not None and home not in (node.name, step.room.home, *head.nodes, *step.after.nodes):
        step.parcels = [NewParcel(home, "member", body=step.members[0].stripped)]


def replaced(before: Entry | None) -> bytes | None:
    """The ``unsigned`` of a state event that takes the place of another, as it is spliced."""
    if before is None or before.event is None:
        return None
    return (
        b'"prev_content":'
        + canonical.encode(before.event.content, strict=False)
        + b',"prev_sender":'
        + orjson.dumps(before.event.sender)
        + b',"replaces_state":'
        + orjson.dumps(before.event_id)
    )


def _shipments(node: Node, room: Room, before: Snapshot, after: Snapshot, txn_key: bytes | None) -> Sequence[NewParcel]:
    """What the other nodes with members, and the home node, are sent: the event, and first the room if it is new."""
    held = {*before.nodes, room.home} - {None}
    parcels = []
    for name in sorted(name for name in {*held, *after.nodes} if name is not None and name != node.name):
        if name not in held:
            parcels.append(NewParcel(name, "room"))
        parcels.append(NewParcel(name, "event", body=txn_key))
    return parcels


async def in_order(server: Server, own: Node, room_id: str, draft: Draft) -> tuple[Node, str]:
    """Order a draft where the room is ordered: on its home node, or on ``own`` while that is down.

    Returns the node on which it was ordered and the event id.
    """
    home = await server.nodes.of_room(room_id)
    if home is None:
        raise NotFound("There is no such room")
    if home is not own:
        earlier = await _ordered_by(own, draft.txn_key)
        if earlier is not None:
            return own, earlier
        if not home.engine.health().up and await _was_sent_there(own, draft.txn_key):
            raise NodeUnavailable(home.name)  # it may have been ordered there
    if home is not own and home.engine.health().up:
        try:
            return home, await order(server, home, room_id, await _leave_echo(server, own, draft))
        except CommitUnknown:
            raise  # only the same request, repeated, may find out
        except NodeUnavailable:
            pass
    return own, await order(server, own, room_id, draft)


async def _ordered_by(node: Node, txn_key: bytes | None) -> str | None:
    """The event that a request made on a node before, also if it is waiting for its commit there."""
    if txn_key is None:
        return None
    earlier = node.memory(_UnderWay).events.get(txn_key)
    return await transactions.event_of(node, txn_key) if earlier is None else await asyncio.shield(earlier)


async def _was_sent_there(own: Node, txn_key: bytes | None) -> bool:
    """Whether an earlier request with this key left the sender's node for the one that orders the room."""
    return txn_key is not None and await own.read(client_transactions.known, txn_key)


async def _leave_echo(server: Server, own: Node, draft: Draft) -> Draft:
    """Remember on the sender's node that the event is theirs, before it is ordered elsewhere."""
    if draft.txn_key is None or draft.echo is None:
        return draft
    own.memory(Echoes).sent[draft.txn_key] = draft.echo
    await own.write(client_transactions.put, draft.txn_key, draft.echo, server.clock.now_ms())
    return replace(draft, echo=None)


class Echoes:
    """Devices that sent events which another node orders, until these arrive (``node.memory(Echoes)``)."""

    def __init__(self) -> None:
        self.sent: Lru[bytes, Echo] = Lru(10_000)
