"""Replacing a room by one of another version: the new room is made as the old one is, then the old one points to it.

What can be refused is refused before anything is made. The new room is encrypted, whatever the old one was. What is
left to be done when it is there is a chore, written with it: it is done even after a crash, or when a node was down.

spec: client-server-api/#room-upgrades
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
import structlog

from homeserver.protocol import identifiers, room_upgrades
from homeserver.protocol.encryption_rules import ENCRYPTION
from homeserver.protocol.errors import Forbidden, InvalidParam, NodeUnavailable, NotFound, Refusal, TooLarge
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS
from homeserver.residency import consents, gate
from homeserver.rooms import aliases, create, doors, following, nearby, state
from homeserver.rooms.following import TOMBSTONE, predecessor_of
from homeserver.rooms.ordering import in_order
from homeserver.rooms.replicas import caught_up
from homeserver.rooms.send import Draft
from homeserver.runtime.turns import Turns
from homeserver.storage import chores, rooms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.protocol.versions import RoomRules
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.upgrade")

AS_IT_IS: Final = (
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.server_acl",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.policy",
)
"""State that the new room gets unchanged."""

CHILD: Final = "m.space.child"
REPLACED: Final = "This room has been replaced"
UPGRADED: Final = "upgraded"
"""The kind of chore: its resident has replaced the room ``old`` of its body by ``new``; ``aliases`` led to it."""


class Upgrading(Turns):
    """Rooms that are being replaced (``directory.memory(Upgrading)``): each once at a time."""


async def upgrade(server: Server, caller: Caller, room_id: str, rules: RoomRules, creators: Sequence[str] = ()) -> str:
    """Replace a room; returns the id of the new one, which only the caller is in. ``creators`` are named beside them,
    where the version has such.

    A request that is repeated finds the room that was made. Raises Forbidden, FlowDenied when the new room may not span
    what the old one does, ConsentNotGiven, InvalidParam, NotFound, NodeUnavailable when the home of the old room is
    down.
    """
    if any(not identifiers.is_user_id(user_id) for user_id in creators):
        raise InvalidParam("'additional_creators' must be an array of user IDs")
    async with server.nodes.directory.memory(Upgrading).alone(room_id):
        home, old = await nearby.at_home(server, room_id)
        named = list(dict.fromkeys(creators)) if rules.creators_unlimited else []
        await _check(server, caller, home, old, named)
        left = await _left_over(caller, old, rules)
        if left is not None:
            return await _completed(server, caller, left)
        made = await _made_before(caller, home, old, rules)
        return await _replace(server, caller, home, old, rules, named) if made is None else made


async def _check(server: Server, caller: Caller, home: Node, old: Room, creators: Sequence[str]) -> None:
    """Raise Forbidden, FlowDenied, ConsentNotGiven, or NotFound for a creator who does not exist."""
    if old.head.membership(caller.user_id) != "join":
        raise Forbidden("You are not in that room")
    if not await aliases.has_power_for(home, old, caller.user_id, TOMBSTONE[0]):
        raise Forbidden("You may not replace this room")
    spanned = {caller.node.name, *doors.spanned(old.head, old)}
    places = doors.reached(server, caller.node, spanned, old.head.servers)
    gate.check_room(server, places)
    for user_id in creators:
        places |= await doors.check_relation(server, caller.node, spanned, user_id, old.head.servers)
    await consents.check(server, caller.node, caller.user_id, places)


async def _made_before(caller: Caller, home: Node, old: Room, rules: RoomRules) -> str | None:
    """The room of this version by which the caller has replaced the old one already, if they are in it."""
    await state.require(home, old, [TOMBSTONE])
    tombstone = old.head.event(TOMBSTONE)
    heir = None if tombstone is None else tombstone.content.get("replacement_room")
    if tombstone is None or tombstone.sender != caller.user_id or not isinstance(heir, str):
        return None
    room = await state.find(caller.node, heir)
    if room is None or room.rules is not rules or room.now.membership(caller.user_id) != "join":
        return None
    return heir if await predecessor_of(caller.node, room) == old.room_id else None


async def _replace(
    server: Server, caller: Caller, home: Node, old: Room, rules: RoomRules, creators: Sequence[str]
) -> str:
    keys = [CREATE, POWER_LEVELS, JOIN_RULES, aliases.CANONICAL, (ENCRYPTION, ""), *((kind, "") for kind in AS_IT_IS)]
    keys += [key for key in old.head.state if key[0] == CHILD or _is_banned(old, key)]
    await state.require(home, old, keys)
    moved = await home.read(rooms.aliases, old.nid)
    creation = _creation(old)
    if creators:
        creation["additional_creators"] = list(creators)
    await state.require(home, old, keys)  # it may have changed while the aliases were read
    drafts = list(_drafts(server, caller, old, rules, creators, moved))
    made: list[Left] = []

    def ask(tx: Transaction, room_id: str) -> None:
        left = Left(old.room_id, room_id, moved)
        made[:] = [left]
        chores.ask(tx, UPGRADED, caller.user_nid, left.encoded())

    await create.found(server, caller, rules, creation, drafts, ask)
    return await _completed(server, caller, made[0])


# what is left when the new room is there ----------------------------------------------------


class Left(NamedTuple):
    """A room that has been replaced, and of which not all is done that belongs to that."""

    old: str
    new: str
    aliases: Sequence[str]

    def encoded(self) -> bytes:
        """The body of the chore."""
        return orjson.dumps(self._asdict())


async def _left_over(caller: Caller, old: Room, rules: RoomRules) -> Left | None:
    """What is left of an earlier attempt of the caller to replace the room by one of this version."""
    for chore in await caller.node.read(chores.of, UPGRADED, caller.user_nid):
        left = Left(**orjson.loads(chore.body))
        made = await state.find(caller.node, left.new) if left.old == old.room_id else None
        if made is not None and made.rules is rules:
            return left
    return None


async def _completed(server: Server, caller: Caller, left: Left) -> str:
    """Do what is left, as far as that can be done now; the id of the new room.

    Raises NodeUnavailable when not even the old room says that it was replaced, Forbidden when it cannot.
    """
    try:
        await _say_so(server, caller, left)
    except Forbidden:
        await _forget(caller, left)
        raise
    except NodeUnavailable:
        server.wakeups.wake(chores.key(caller.node.name, UPGRADED))
        raise
    try:
        await _complete(server, caller, left)
    except NodeUnavailable as down:
        log.info("what belongs to replacing a room is left for later", node=caller.node.name, reason=down.message)
        server.wakeups.wake(chores.key(caller.node.name, UPGRADED))
    return left.new


async def finish(server: Server, caller: Caller, body: bytes) -> None:
    """Do what is left to be done for a room that the caller has replaced: the work of the chore. What has been done is
    not done again. Raises NodeUnavailable."""
    left = Left(**orjson.loads(body))
    async with server.nodes.directory.memory(Upgrading).alone(left.old):
        waiting = await caller.node.read(chores.of, UPGRADED, caller.user_nid)
        if not any(chore.body == body for chore in waiting):
            return  # done meanwhile
        try:
            await _say_so(server, caller, left)
            await _complete(server, caller, left)
        except (Forbidden, NotFound) as refusal:
            log.info("a room could not be replaced after all", node=caller.node.name, reason=refusal.message)


async def _complete(server: Server, caller: Caller, left: Left) -> None:
    home, old = await nearby.at_home(server, left.old)
    await _move(server, caller, home, old, await state.get(caller.node, left.new))
    await _close(server, caller, home, old, left.aliases)
    await caught_up(server, home, caller.node)
    try:
        await following.carry_over(server, caller, left.new)
    except TooLarge as refusal:
        log.info("push rules did not follow to a new room", node=caller.node.name, reason=refusal.message)
    await _forget(caller, left)


async def _say_so(server: Server, caller: Caller, left: Left) -> None:
    """Let the old room point to the new one. First this, then the aliases: whoever follows one that was not moved,
    since a node fell out, is led on. Raises Forbidden, NodeUnavailable."""
    home, old = await nearby.at_home(server, left.old)
    await state.require(home, old, [TOMBSTONE])
    tombstone = old.head.event(TOMBSTONE)
    if tombstone is None or tombstone.content.get("replacement_room") != left.new:
        content = {"body": REPLACED, "replacement_room": left.new}
        await in_order(server, caller.node, left.old, Draft(TOMBSTONE[0], caller.user_id, content, ""))


async def _forget(caller: Caller, left: Left) -> None:
    waiting = await caller.node.read(chores.of, UPGRADED, caller.user_nid)
    await caller.node.write(chores.done, [chore.chore_nid for chore in waiting if chore.body == left.encoded()])


def _is_banned(room: Room, key: StateKey) -> bool:
    return key[0] == MEMBER and room.head.membership(key[1]) == "ban"


def _creation(old: Room) -> dict[str, Any]:
    """What the new m.room.create says: the type of the room, whether other servers may join, and where it comes from.

    The last event of the old room is named as it is now: which will be its last cannot be known yet.
    """
    before = old.head.event(CREATE)
    assert before is not None
    content: dict[str, Any] = {key: before.content[key] for key in ("type", "m.federate") if key in before.content}
    last = old.recent[-1].event_id if old.recent else next(iter(old.now.tips))
    return {**content, "predecessor": {"room_id": old.room_id, "event_id": last}}


def _drafts(
    server: Server, caller: Caller, old: Room, rules: RoomRules, creators: Sequence[str], moved: Sequence[str]
) -> Iterator[Draft]:
    """The state of the new room behind the upgrader's join. The last event takes back what they had for it only."""

    def state_event(kind: str, content: Mapping[str, Any], state_key: str = "") -> Draft:
        return Draft(kind, caller.user_id, dict(content), state_key)

    def content_of(key: StateKey) -> Mapping[str, Any] | None:
        event = old.head.event(key)
        return None if event is None else event.content

    head = old.head
    levels = room_upgrades.power_levels(
        old.rules, head.event(CREATE), head.event(POWER_LEVELS), rules, caller.user_id, creators
    )
    first = room_upgrades.while_furnishing(levels, rules, caller.user_id)
    yield state_event(POWER_LEVELS[0], first)
    yield state_event(JOIN_RULES[0], room_upgrades.join_rules(content_of(JOIN_RULES), rules))
    encryption = content_of((ENCRYPTION, ""))
    if encryption is not None or not server.settings.conformance_mode:
        yield state_event(ENCRYPTION, room_upgrades.encryption(encryption))
    canonical = aliases.divided(content_of(aliases.CANONICAL) or {}, moved)[0]
    if canonical:
        yield state_event(aliases.CANONICAL[0], canonical)
    for kind in AS_IT_IS:
        if content := content_of((kind, "")):
            yield state_event(kind, content)
    for kind, state_key in head.state:
        content = content_of((kind, state_key)) if kind == CHILD or _is_banned(old, (kind, state_key)) else None
        if content:
            reason = {"reason": content["reason"]} if "reason" in content else {}
            yield state_event(kind, content if kind == CHILD else {"membership": "ban", **reason}, state_key)
    if first != levels:
        yield state_event(POWER_LEVELS[0], levels)


async def _move(server: Server, caller: Caller, home: Node, old: Room, new: Room) -> None:
    """Let the aliases lead to the new room, and have it in the directory in place of the old one.

    Raises NodeUnavailable.
    """
    await aliases.hand_over(server, caller, home, old, caller.node, new)
    if (await home.read(rooms.by_nid, old.nid)).published:
        await caller.node.write(rooms.publish, new.nid, True)
        await home.write(rooms.publish, old.nid, False)


async def _close(server: Server, caller: Caller, home: Node, old: Room, moved: Sequence[str]) -> None:
    """Take the aliases that moved from the old room's state, and the right to speak and invite from most, as far as the
    caller may. Raises NodeUnavailable."""
    await state.require(home, old, [aliases.CANONICAL, POWER_LEVELS])
    canonical, levels = old.head.event(aliases.CANONICAL), old.head.event(POWER_LEVELS)
    changes: list[tuple[str, dict[str, Any] | None]] = [(POWER_LEVELS[0], room_upgrades.closing(old.rules, levels))]
    if canonical is not None:
        leaving, staying = aliases.divided(canonical.content, moved)
        changes.append((aliases.CANONICAL[0], staying if leaving else None))
    for kind, content in changes:
        if content is None:
            continue
        try:
            await in_order(server, caller.node, old.room_id, Draft(kind, caller.user_id, content, ""))
        except NodeUnavailable:
            raise
        except Refusal as refusal:
            log.info("a replaced room was not closed wholly", node=home.name, what=kind, reason=refusal.message)
