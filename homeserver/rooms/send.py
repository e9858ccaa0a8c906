"""Building: a draft becomes an event at the tip of a room, allowed by its state, signed, and submitted to be committed.

Between reading the tip and submitting nothing waits, so a room does not fork under concurrent senders. On which node
that happens is said in rooms/ordering.py.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from homeserver.protocol import auth_rules, events
from homeserver.protocol.errors import InvalidParam, NotFound
from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS, StateKey
from homeserver.protocol.policy_server import POLICY
from homeserver.rooms import effects, recommendations, references, state
from homeserver.rooms.checks import ENCRYPTION, authorise, check_encryption, check_redaction, redacted
from homeserver.rooms.invitations import OUTSIDE
from homeserver.rooms.persist import submit
from homeserver.rooms.state import Rooms
from homeserver.rooms.steps import GroupStep, Step, relation_of, replaced
from homeserver.rooms.stripped import stripped_keys, stripped_state
from homeserver.runtime.deadlines import within
from homeserver.storage import events as stored
from homeserver.storage.outbox import NewParcel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room, Snapshot
    from homeserver.storage.client_transactions import Echo
    from homeserver.storage.nodes import Node
    from homeserver.storage.state import Group

MAX_PREV_EVENTS = 20


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has a place in a room. ``txn_key`` tells a repeated request from a second one, ``echo`` is
    the device that made it; both or none.

    ``origin_server_ts``: milliseconds since 1970; the server's clock when None. ``sticky_ms``: for how many
    milliseconds it is sticky (protocol/stickiness.py); None: not at all.
    """

    type: str
    sender: str
    content: dict[str, Any]
    state_key: str | None = None
    redacts: str | None = None
    origin_server_ts: int | None = None
    sticky_ms: int | None = None
    txn_key: bytes | None = None
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What had to be looked up before a draft can be ordered without waiting."""

    places: Mapping[str, effects.Place]
    target: Event | None = None
    keys: Sequence[StateKey] = field(default_factory=tuple)


async def place(server: Server, node: Node, room_id: str, draft: Draft) -> tuple[Event, asyncio.Future[None]]:
    """Build a draft at the room's tip and submit it; the future is that of `persist.submit`.

    Raises Forbidden when the room's rules, or its policy server, do not allow it, PlaintextRefused, NotFound without
    the room, BadJson and TooLarge for what is no event, InvalidParam, NodeUnavailable; and ServerUnreachable or
    LimitExceeded where the policy server gives no answer.
    """
    _refuse_nul(draft)
    placed = await _place(server, node, room_id, draft, None)
    return placed or await _place_in_turn(server, node, room_id, draft)


async def try_out(server: Server, node: Node, room_id: str, draft: Draft) -> None:
    """Raise what `place` would for what the room's rules, or what is sent in the clear, do not allow; nothing is sent,
    and no policy server is asked."""
    _refuse_nul(draft)
    while True:
        room = await state.get(node, room_id)
        around = await _look_around(server, node, room, draft)
        if not state.lacking(room.head, around.keys) and not references.lacking(node, room, _cited(room, draft)):
            _build(server, node, room, draft, around)
            return


async def _place_in_turn(server: Server, node: Node, room_id: str, draft: Draft) -> tuple[Event, asyncio.Future[None]]:
    """`place` where a policy server has to be asked; that and waiting for one's turn take no longer than patience."""
    patience = recommendations.Patience(server)
    async with AsyncExitStack() as turn:
        try:
            async with within(server.clock, patience.seconds):
                await turn.enter_async_context(node.memory(recommendations.Asking).alone(room_id))
        except TimeoutError:
            raise patience.over() from None
        placed = await _place(server, node, room_id, draft, patience)
    assert placed is not None
    return placed


async def _place(
    server: Server, node: Node, room_id: str, draft: Draft, patience: recommendations.Patience | None
) -> tuple[Event, asyncio.Future[None]] | None:
    """`place`; None for an event about which another server would have to be asked, unless there is ``patience``."""
    while True:
        room = await state.get(node, room_id)
        around = await _look_around(server, node, room, draft)
        if (
            node.memory(Rooms).get(room_id) is room
            and not state.lacking(room.head, around.keys)
            and not references.lacking(node, room, _cited(room, draft))
        ):
            step = _build(server, node, room, draft, around)
            head, policy = room.head, recommendations.missing(server, step.event, room.head)
            if policy is not None:
                if patience is None and policy.name != server.name:
                    return None
                _take_recommended(step, await recommendations.given(server, node, step.event, policy, patience))
            if room.head is head and node.memory(Rooms).get(room_id) is room:  # else: another server was faster
                return step.event, submit(server, node, [step])


def _take_recommended(step: Step, event: Event) -> None:
    """Let a step be of the event with the signature of a policy server."""
    step.event = event
    if step.entry is not None:
        step.entry.event = event


async def _look_around(server: Server, node: Node, room: Room, draft: Draft) -> _Surroundings:
    """Load what `_build` needs. Usually everything is in memory, and nothing waits."""
    core = _Core(draft)
    keys = [CREATE, POLICY, ENCRYPTION, *auth_rules.auth_types_for(room.rules, core)]
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


def _refuse_nul(draft: Draft) -> None:
    if "\0" in draft.type or (draft.state_key is not None and "\0" in draft.state_key):
        raise InvalidParam("Event types and state keys must not contain U+0000")


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
        sticky_ms=draft.sticky_ms,
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
        step.after = replace(head, tips=_tips_after(room, event, head.group), depth=event.depth)
    if around.target is not None:
        check_redaction(room, draft.sender, around.target)
        step.redacted = redacted(room, event, around.target)
    step.parcels = [*step.parcels, *_shipments(node, room, head, step.after, draft.txn_key)]
    step.to_peers = bool(head.servers or step.reached)
    return step


def _prev_events(room: Room) -> list[str]:
    """The tips that the next event follows on: all, or of very many the oldest and the newest, so that each event makes
    them fewer."""
    tips = list(room.head.tips)
    if len(tips) <= MAX_PREV_EVENTS:
        return tips
    return [*tips[: MAX_PREV_EVENTS // 2], *tips[-(MAX_PREV_EVENTS // 2) :]]


def _tips_after(room: Room, event: Event, group: Group) -> dict[str, Group]:
    """The tips of a room once an event has followed on some of them."""
    follows = set(event.prev_events)
    return {**{tip: held for tip, held in room.head.tips.items() if tip not in follows}, event.event_id: group}


def _auth_events(room: Room, draft: Draft) -> list[str]:
    places = auth_rules.auth_types_for(room.rules, _Core(draft))
    return [entry.event_id for entry in (room.head.state.get(key) for key in places) if entry is not None]


def _cited(room: Room, draft: Draft) -> list[str]:
    """The events whose hashes a draft needs at the tip of the room."""
    return [] if room.rules.event_id_is_hash else [*_prev_events(room), *_auth_events(room, draft)]


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
    step.after = replace(done.after, tips=_tips_after(step.room, event, group), depth=event.depth, group=group)
    step.members, step.nodes, step.entered, step.left = done.members, done.nodes, done.entered, done.left
    if entry.membership in OUTSIDE:
        step.members = [replace(step.members[0], stripped=stripped_state(step.after, event))]
    home, _, theirs = places.get(event.state_key, effects.ELSEWHERE)
    before = head.state.get(key)
    # Nobody is told of a ban or its end who was not even invited: the room has no business on their node.
    concerns = entry.membership in OUTSIDE or (before is not None and before.membership in OUTSIDE)
    if concerns and home is not None and home not in (node.name, step.room.home, *head.nodes, *step.after.nodes):
        step.parcels = [NewParcel(home, "member", body=step.members[0].stripped)]
    # An invitation is brought by itself; what ends it, or a knock, goes the way of all events.
    if theirs is not None and theirs not in head.servers and entry.membership not in OUTSIDE and concerns:
        step.reached = [theirs]


def _shipments(node: Node, room: Room, before: Snapshot, after: Snapshot, txn_key: bytes | None) -> Sequence[NewParcel]:
    """What the other nodes with members, and the home node, are sent: the event, and first the room if it is new."""
    held = {*before.nodes, room.home} - {None}
    parcels = []
    for name in sorted(name for name in {*held, *after.nodes} if name is not None and name != node.name):
        if name not in held:
            parcels.append(NewParcel(name, "room"))
        parcels.append(NewParcel(name, "event", body=txn_key))
    return parcels
