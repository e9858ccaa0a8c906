"""Room aliases: reserved in the directory first, then kept on the room's home node.

spec: client-server-api/#room-aliases
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from config.residency import DataClass
from homeserver.application_services import exclusive, queries
from homeserver.context import FoundRoom
from homeserver.protocol import identifiers
from homeserver.protocol.errors import AliasInUse, BadAlias, BadJson, Forbidden, InvalidParam, NotFound, RoomInUse
from homeserver.protocol.event_view import CREATE, POWER_LEVELS
from homeserver.protocol.power_levels import Levels
from homeserver.residency import gate, traffic
from homeserver.rooms import application_services, nearby, state
from homeserver.storage import rooms, users
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from homeserver.context import Caller, Server
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

CANONICAL = ("m.room.canonical_alias", "")

MOST_SERVERS = 100
"""Servers that are named as being in a room."""


def local_alias(server: Server, localpart: str) -> str:
    """The alias of this deployment with a localpart. Raises InvalidParam."""
    alias = f"#{localpart}:{server.name}"
    if not localpart or any(c in localpart for c in ": \0") or not identifiers.is_room_alias(alias):
        raise InvalidParam(
            "The name of a room alias is what stands between # and the server's name; both have at most 255 bytes,"
            " and the name has no colon and no space"
        )
    return alias


class _Reserved:
    """Aliases for which a room is being made (``directory.memory(_Reserved)``)."""

    def __init__(self) -> None:
        self.aliases: set[str] = set()


@asynccontextmanager
async def reserved(server: Server, node: Node, alias: str) -> AsyncIterator[None]:
    """Take a new alias for a room of ``node``: nobody else has it while its room is made and `point` called.

    Given back when that fails. Raises RoomInUse.
    """
    held = server.nodes.directory.memory(_Reserved).aliases
    if alias in held:
        raise RoomInUse("That room alias is taken")
    held.add(alias)
    try:
        if await _taken(server, node, alias):
            raise RoomInUse("That room alias is taken")
        try:
            yield
        except BaseException:
            await server.nodes.directory.release(Kind.ALIAS, alias)
            raise
    finally:
        held.discard(alias)


async def _taken(server: Server, node: Node, alias: str) -> bool:
    """Claim an alias for a node; True if it leads to a room. One that was claimed and never pointed may be taken."""
    holder = server.nodes[await server.nodes.directory.claim(Kind.ALIAS, alias, node.name)]
    if await holder.read(rooms.find_alias, alias) is not None:
        return True
    if holder is not node:
        await server.nodes.directory.release(Kind.ALIAS, alias)
        return await server.nodes.directory.claim(Kind.ALIAS, alias, node.name) != node.name
    return False


async def point(server: Server, node: Node, alias: str, room_id: str, creator: str) -> None:
    """Let a reserved alias lead to a room of ``node``. Raises RoomInUse when somebody else was faster."""
    room = await state.get(node, room_id)
    if not await node.write(rooms.add_alias, alias, room.nid, creator):
        raise RoomInUse("That room alias is taken")
    application_services.named(server, alias, room_id)


async def create(server: Server, caller: Caller, alias: str, room_id: str) -> None:
    """Give a room another alias, which rests where the room is at home. Raises AliasInUse, Forbidden for who is not in
    the room, FlowDenied, InvalidParam, NotFound, Exclusive.

    An application service may name any room, by an alias of its namespace.
    """
    localpart, domain = identifiers.parse_room_alias(alias)
    if domain != server.name:
        raise InvalidParam("Aliases of other servers cannot be made here")
    exclusive.check_alias(server, alias, caller.service)
    home, room = await nearby.at_home(server, room_id)
    if room.now.membership(caller.user_id) != "join" and caller.service is None:
        raise Forbidden("You are not in that room")
    gate.check(server, DataClass.EVENTS, caller.node.jurisdiction, home.jurisdiction)
    try:
        async with reserved(server, home, local_alias(server, localpart)):
            await point(server, home, alias, room_id, caller.user_id)
    except RoomInUse as taken:
        raise AliasInUse(taken.message) from None


async def resolve(server: Server, alias: str, asking: str | None = None) -> str:
    """The room id of a local alias. ``asking``: the jurisdiction of who asks. An application service whose alias it is
    may make it now. Raises NotFound, FlowDenied, QueryTimeout."""
    home, found = await _find(server, alias)
    if found is None and server.services and await queries.alias(server, alias):
        home, found = await _find(server, alias)
    if home is None or found is None:
        raise NotFound("There is no such room alias")
    traffic.concerns(home)
    if asking is not None:
        gate.check(server, DataClass.EVENTS, home.jurisdiction, asking)
    return found[0]


async def _find(server: Server, alias: str) -> tuple[Node | None, tuple[str, str] | None]:
    """The node that holds an alias; its room, and who made it."""
    home = await server.nodes.of_alias(alias)
    return home, None if home is None else await home.read(rooms.find_alias, alias)


async def found(server: Server, alias: str, asking: str) -> FoundRoom:
    """The room of a local alias, and servers that are in it, those with most members first. Raises as `resolve`."""
    room_id = await resolve(server, alias, asking)
    home = await server.nodes.of_room(room_id)
    room = None if home is None else await state.find(home, room_id)
    others = {} if room is None else dict(room.now.servers)
    ours = sum(room.now.nodes.values()) if room is not None else 1
    ranked = sorted(others, key=lambda name: (-others[name], name))[:MOST_SERVERS]
    return FoundRoom(room_id, [server.name, *ranked] if ours else [*ranked, server.name])


async def delete(server: Server, caller: Caller, alias: str) -> None:
    """Remove an alias: its creator may, an administrator, who may change the room's canonical alias, and the
    application service whose alias it is. Raises Forbidden, NotFound, Exclusive."""
    home, found = await _find(server, alias)
    if home is None or found is None:
        raise NotFound("There is no such room alias")
    room_id, creator = found
    exclusive.check_alias(server, alias, caller.service)
    entitled = caller.user_id == creator or caller.admin or caller.service is not None
    if not entitled and not await _governs(home, room_id, caller.user_id):
        raise Forbidden("You may not remove this alias")
    await home.write(rooms.drop_alias, alias)
    await server.nodes.directory.release(Kind.ALIAS, alias)
    application_services.named(server, alias, None)


async def _governs(home: Node, room_id: str, user_id: str) -> bool:
    room = await state.get(home, room_id)
    return room.now.membership(user_id) == "join" and await has_power_for(home, room, user_id, CANONICAL[0])


async def has_power_for(node: Node, room: Room, user_id: str, event_type: str) -> bool:
    """Whether a user has the level for a type of state event, as the room is now."""
    await state.require(node, room, [CREATE, POWER_LEVELS])
    levels = Levels(room.rules, room.head.event(CREATE), room.head.event(POWER_LEVELS))
    return levels.of(user_id) >= levels.to_send(event_type, is_state=True)


async def of_room(server: Server, caller: Caller, room_id: str) -> list[str]:
    """The local aliases of a room that the caller is in, or that everybody may read. Raises Forbidden, NotFound,
    FlowDenied."""
    home, room = await nearby.at_home(server, room_id)
    visibility = ("m.room.history_visibility", "")
    await state.require(home, room, [visibility])
    event = room.now.event(visibility)
    readable = (
        event is not None
        and event.content.get("history_visibility") == "world_readable"
        and gate.may(server, DataClass.EVENTS, home.jurisdiction, caller.node.jurisdiction)
    )
    if room.now.membership(caller.user_id) != "join" and not readable:
        raise Forbidden("You are not in that room")
    gate.check(server, DataClass.EVENTS, home.jurisdiction, caller.node.jurisdiction)
    return await home.read(rooms.aliases, room.nid)


async def check_canonical(server: Server, node: Node, room: Room, content: dict[str, Any]) -> None:
    """Refuse an m.room.canonical_alias with a new alias that is none or leads elsewhere.

    ``room`` as ``node`` has it. Raises BadAlias, BadJson, InvalidParam.
    spec: client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
    """
    if not isinstance(content.get("alt_aliases", []), list):
        raise BadJson("'alt_aliases' must be an array")
    await state.require(node, room, [CANONICAL])
    current = room.head.event(CANONICAL)
    known = set() if current is None else set(_named(current.content))
    for alias in _named(content):
        if alias in known:
            continue
        _, domain = identifiers.parse_room_alias(alias)
        if domain != server.name:
            raise BadAlias("Aliases of other servers cannot be checked here")
        home = await server.nodes.of_alias(alias)
        found = None if home is None else await home.read(rooms.find_alias, alias)
        if found is None or found[0] != room.room_id:
            raise BadAlias(f"{alias} does not lead to this room")


def _named(content: Mapping[str, Any]) -> list[str]:
    """The aliases in the content of an m.room.canonical_alias, in which old rooms may have anything."""
    alias, alternatives = content.get("alias"), content.get("alt_aliases")
    named = [*([] if alias is None else [alias]), *(alternatives if isinstance(alternatives, list) else [])]
    return list(dict.fromkeys(map(str, named)))


async def hand_over(server: Server, caller: Caller, old: Node, room: Room, node: Node, heir: Room) -> None:
    """Point all local aliases of a room, whose home is ``old``, to another one of ``node``: each leads somewhere at
    every moment. Raises NodeUnavailable."""
    if old is node:
        held = await node.read(rooms.aliases, room.nid) if server.services else []
        await node.write(rooms.hand_over_aliases, room.nid, heir.nid)
        for alias in held:
            application_services.named(server, alias, heir.room_id)
        return
    for alias in await old.read(rooms.aliases, room.nid):
        found = await old.read(rooms.find_alias, alias)
        if found is None:
            continue
        creator = found[1] if await node.read(users.nid, found[1]) is not None else caller.user_id
        await node.write(rooms.add_alias, alias, heir.nid, creator)
        await server.nodes.directory.reroute(Kind.ALIAS, alias, node.name)
        await old.write(rooms.drop_alias, alias)
        application_services.named(server, alias, heir.room_id)


def divided(content: Mapping[str, Any], moved: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of an m.room.canonical_alias as two: of the aliases that ``moved``, and of the others."""
    parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    if isinstance(alias := content.get("alias"), str):
        parts[alias not in moved]["alias"] = alias
    alternatives = content.get("alt_aliases")
    for alias in alternatives if isinstance(alternatives, list) else []:
        if isinstance(alias, str):
            parts[alias not in moved].setdefault("alt_aliases", []).append(alias)
    return parts
