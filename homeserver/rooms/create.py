"""Creating a room: its first events, from the create event to the creator's wishes, encryption always among them.

spec: client-server-api/#creation
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Final

import structlog
from immutables import Map

from homeserver.application_services import exclusive
from homeserver.protocol import auth_rules, events, identifiers
from homeserver.protocol.encryption_rules import ENCRYPTION, MEGOLM
from homeserver.protocol.errors import CommitUnknown, Forbidden, InvalidParam, InvalidRoomState, Refusal
from homeserver.protocol.event_view import CREATE, MEMBER
from homeserver.protocol.rejection import Rejected
from homeserver.residency import consents
from homeserver.rooms import aliases, blocking, doors, inviting_by_address, membership, public, references, state
from homeserver.rooms.persist import commit
from homeserver.rooms.send import Draft, build
from homeserver.rooms.state import Room, Snapshot
from homeserver.rooms.steps import GroupStep, Step
from homeserver.storage import rooms
from homeserver.storage.directory import Kind
from homeserver.storage.state import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.rooms.inviting_by_address import Invited
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.create")

PRESETS: Final = ("private_chat", "trusted_private_chat", "public_chat")

_SET_BY_SERVER: Final = ("creator", "room_version")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks of a new room; `initial_state` as (type, state key, content)."""

    rules: RoomRules
    preset: str
    visibility: str = "private"
    alias: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: Sequence[str] = ()
    is_direct: bool = False
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    power_levels: Mapping[str, Any] = field(default_factory=dict)
    initial_state: Sequence[tuple[str, str, dict[str, Any]]] = ()
    invite_3pid: Sequence[Invited] = ()


async def create_room(server: Server, caller: Caller, wish: Wish) -> str:
    """Make a room on the caller's node and return its id. It is committed whole, before anybody is invited. Whoever
    cannot be invited then, for a reason that nobody could know before, is left out.

    Raises FlowDenied before anything is made, when somebody invited is in a jurisdiction that the room may not
    span, ConsentNotGiven when the caller has not agreed to where it leads, and InviteBlocked when they take no
    invitations; Forbidden when the room is to be published by somebody who may not; RoomInUse for an alias that is
    taken; PlaintextRefused for wishes that weaken encryption; InvalidRoomState, InvalidParam and BadJson for wishes
    that the rules of the room version do not allow; what `inviting_by_address.resolve` does.
    """
    if wish.visibility == "public":
        public.check_publisher(server, caller)
    named, unknown = await inviting_by_address.resolve(server, caller, wish.invite_3pid)
    named = [user_id for user_id in named if user_id != caller.user_id]
    wish = replace(wish, invite=list(dict.fromkeys([*wish.invite, *named])))
    await _check_guests(server, caller, wish.invite)
    if wish.alias is None:
        room = await found(server, caller, wish.rules, _creation(wish), _drafts(server, caller, wish, None))
    else:
        alias = aliases.local_alias(server, wish.alias)
        exclusive.check_alias(server, alias, caller.service)
        async with aliases.reserved(server, caller.node, alias):
            room = await found(server, caller, wish.rules, _creation(wish), _drafts(server, caller, wish, alias))
            await aliases.point(server, caller.node, alias, room.room_id, caller.user_id)
    if wish.visibility == "public":
        await caller.node.write(rooms.publish, room.nid, True)
    content = {"is_direct": True} if wish.is_direct else {}
    for user_id in wish.invite:
        await _tried(caller, membership.invite(server, caller, room.room_id, user_id, dict(content)))
    for invited in unknown:
        await _tried(caller, inviting_by_address.leave(server, caller, room.room_id, invited, dict(content)))
    return room.room_id


async def _tried(caller: Caller, inviting: Coroutine[Any, Any, None]) -> None:
    """Invite somebody, or not: the room is there, and that has to be said."""
    try:
        await inviting
    except Refusal as refusal:
        log.info("somebody was not invited to a new room", node=caller.node.name, reason=refusal.message)


async def _check_guests(server: Server, caller: Caller, invited: Sequence[str]) -> None:
    """Refuse who cannot be invited, alone or beside each other, and ask the caller about all places at once.

    Raises FlowDenied, InviteBlocked, NotFound, ConsentNotGiven.
    """
    nodes, peers, places = {caller.node.name}, set[str](), set[str]()
    for user_id in invited:
        places |= await doors.check_relation(server, caller.node, nodes, user_id, peers)
        await blocking.check(server, user_id, caller.user_id)
        home = await server.nodes.of_user(user_id)
        if home is None:
            peers.add(identifiers.domain_of(user_id))
        else:
            nodes.add(home.name)
    await consents.check(server, caller.node, caller.user_id, places)


async def found(
    server: Server,
    caller: Caller,
    rules: RoomRules,
    creation: Mapping[str, Any],
    drafts: Iterable[Draft],
    also: Callable[[Transaction, str], None] | None = None,
) -> Room:
    """Make a room on the caller's node, committed whole: its m.room.create with this content, to which the server adds
    the version and the creator, the caller's join, and then ``drafts``. ``also``, given the room id, queues what
    belongs into the same transaction.

    Raises InvalidParam for a content that the rules of the version do not allow, InvalidRoomState for such a draft,
    PlaintextRefused, BadJson, NodeUnavailable.
    """
    return await _furnish(server, caller, await _begun(server, caller, rules, creation), drafts, also)


async def _begun(server: Server, caller: Caller, rules: RoomRules, creation: Mapping[str, Any]) -> Step:
    """The create event, of a room in memory that nobody else knows yet."""
    moments = caller.node.memory(Founded)
    event = _create_event(server, caller, rules, creation, moments.next(server.clock.now_ms()))
    while await caller.node.read(rooms.find, event.room_id) is not None:  # the clock was put back
        event = _create_event(server, caller, rules, creation, moments.next(server.clock.now_ms()))
    references.remember(caller.node, event)
    empty = Snapshot(Map(), {}, 0, Group(None, 0, None), 0, 0, {})
    room = Room(0, event.room_id, rules, caller.node.name, empty, empty, deque(), 0, {})
    entry = state.entry_of(event)
    root = Group(None, 0, None)
    room.head = Snapshot(Map({CREATE: entry}), {event.event_id: root}, 1, root, 0, 0, {})
    return Step(
        room,
        event,
        room.head,
        root,
        entry=entry,
        changes={CREATE: entry},
        groups=[GroupStep(root, None, {CREATE: entry})],
    )


class Founded:
    """When the last room of a node was founded (``node.memory(Founded)``).

    Where a room's id is the hash of its create event, two that somebody makes at the same moment would be one.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self, now_ms: int) -> int:
        """A moment, in milliseconds since 1970, at which no other room is founded."""
        self._last = max(now_ms, self._last + 1)
        return self._last


def _creation(wish: Wish) -> dict[str, Any]:
    """What the client wants the m.room.create to hold."""
    content = dict(wish.creation_content)
    if wish.preset == "trusted_private_chat" and wish.rules.creators_unlimited and wish.invite:
        others = content.get("additional_creators", [])
        content["additional_creators"] = list(
            dict.fromkeys([*(others if isinstance(others, list) else []), *wish.invite])
        )
    return content


def _create_event(server: Server, caller: Caller, rules: RoomRules, creation: Mapping[str, Any], ts: int) -> Event:
    content = {key: value for key, value in creation.items() if key not in _SET_BY_SERVER}
    content["room_version"] = rules.version
    if rules.create_has_creator:
        content["creator"] = caller.user_id
    event = events.build(
        rules,
        type="m.room.create",
        sender=caller.user_id,
        room_id=None if rules.room_id_is_create_hash else f"!{token_urlsafe(18)}:{server.name}",
        content=content,
        state_key="",
        prev_events=[],
        auth_events=[],
        depth=1,
        origin_server_ts=ts,
        event_id=references.new_event_id(rules, server.name),
        server_name=server.name,
        key=server.identity.key,
    )
    try:
        auth_rules.check(rules, event, {})
    except Rejected as error:
        raise InvalidParam(error.reason) from None
    return event


async def _furnish(
    server: Server,
    caller: Caller,
    first: Step,
    drafts: Iterable[Draft],
    also: Callable[[Transaction, str], None] | None,
) -> Room:
    """Build the other first events on top of the create event, and commit them all in one transaction."""
    room = first.room
    steps = [first]
    member = await membership.own_content(caller.node, caller.user_nid, "join")
    for draft in (Draft(MEMBER, caller.user_id, member, caller.user_id), *drafts):
        try:
            step = await build(server, caller.node, room, draft)
        except Forbidden as error:
            raise InvalidRoomState(f"{draft.type}: {error.message}") from None
        room.head = step.after
        steps.append(step)
    await _establish(server, caller.node, room, steps, also)
    return room


async def _establish(
    server: Server, node: Node, room: Room, steps: Sequence[Step], also: Callable[[Transaction, str], None] | None
) -> None:
    """Give the room a route and a row, and commit its events; take both back when that fails."""

    def with_it(tx: Transaction) -> None:
        if also is not None:
            also(tx, room.room_id)

    await server.nodes.directory.claim(Kind.ROOM, room.room_id, node.name)
    try:
        room.nid = await node.write(rooms.create, room.room_id, room.rules.version, node.name)
        await commit(server, node, steps, with_it)
    except CommitUnknown:
        raise  # it may be there
    except Exception:
        await server.nodes.directory.release(Kind.ROOM, room.room_id)
        if room.nid and node.engine.health().up:
            await node.write(rooms.drop_empty, room.nid)
        raise


def _drafts(server: Server, caller: Caller, wish: Wish, alias: str | None) -> Iterator[Draft]:
    """The events behind the creator's join, in the order of the specification."""

    def state_event(kind: str, content: dict[str, Any], state_key: str = "") -> Draft:
        return Draft(kind, caller.user_id, content, state_key)

    yield state_event("m.room.power_levels", _power_levels(caller, wish))
    if alias is not None:
        yield state_event("m.room.canonical_alias", {"alias": alias})
    given = {(kind, key) for kind, key, _ in wish.initial_state}
    for kind, content in _preset(wish.preset).items():
        if (kind, "") not in given:
            yield state_event(kind, content)
    if (ENCRYPTION, "") not in given and not server.settings.conformance_mode:
        yield state_event(ENCRYPTION, {"algorithm": MEGOLM})
    for kind, key, content in wish.initial_state:
        yield state_event(kind, content, key)
    if wish.name is not None:
        yield state_event("m.room.name", {"name": wish.name})
    if wish.topic is not None:
        yield state_event("m.room.topic", {"topic": wish.topic, "m.topic": {"m.text": [{"body": wish.topic}]}})


def _preset(preset: str) -> dict[str, dict[str, Any]]:
    """spec: client-server-api/#post_matrixclientv3createroom"""
    return {
        "m.room.join_rules": {"join_rule": "public" if preset == "public_chat" else "invite"},
        "m.room.history_visibility": {"history_visibility": "shared"},
        "m.room.guest_access": {"guest_access": "forbidden" if preset == "public_chat" else "can_join"},
    }


def _power_levels(caller: Caller, wish: Wish) -> dict[str, Any]:
    users: dict[str, int] = {}
    if not wish.rules.creators_unlimited:
        users[caller.user_id] = 100
        if wish.preset == "trusted_private_chat":
            users.update(dict.fromkeys(wish.invite, 100))
    return {
        "ban": 50,
        "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": 150 if wish.rules.creators_unlimited else 100,
        },
        "events_default": 0,
        "invite": 0 if wish.preset != "public_chat" else 50,
        "kick": 50,
        "redact": 50,
        "state_default": 50,
        "users": users,
        "users_default": 0,
        **wish.power_levels,
    }
