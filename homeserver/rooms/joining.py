"""Coming into a room: joins and knocks, through this deployment or another server, and who vouches for them.

spec: client-server-api/#room-membership
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.protocol import identifiers
from homeserver.protocol.errors import Forbidden, NotFound, UnableToAuthoriseJoin
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS
from homeserver.protocol.membership_rules import AUTHORISED_VIA
from homeserver.protocol.power_levels import Levels
from homeserver.rooms import doors, following, invitations, membership, nearby, state
from homeserver.rooms.replicas import caught_up
from homeserver.rooms.state import Room
from homeserver.runtime.turns import Turns
from homeserver.storage import events, rooms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredMembership

MOST_WAYS = 10
"""Servers through which a room is tried to be entered."""

RESTRICTED = ("restricted", "knock_restricted")


async def join(
    server: Server, caller: Caller, room_id: str, reason: str | None = None, via: Sequence[str] = ()
) -> None:
    """Join a room. Who is in it already stays so. ``via``: servers that may be in it, if nobody here is.

    What they had set for a room that this one replaces holds for it too. Raises Forbidden, FlowDenied, ConsentNotGiven,
    NotFound, NodeUnavailable, PlaintextRefused for a room of others that is not encrypted, ServerUnreachable.
    """
    if await _enter(server, caller, room_id, reason, via):
        await following.follow(server, caller, room_id)


async def _enter(server: Server, caller: Caller, room_id: str, reason: str | None, via: Sequence[str]) -> bool:
    """`join`; False when the caller was in the room."""
    found = await nearby.present(server, caller.node, room_id)
    if found is None:
        async with server.nodes.directory.memory(Entering).alone(room_id):
            found = await nearby.present(server, caller.node, room_id)
            if found is None:
                await _join_elsewhere(server, caller, room_id, reason, via)
                return True
    room = found[1]
    if room.head.membership(caller.user_id) == "join":
        return False
    await doors.check_door(server, caller, doors.spanned(room.head, room), caller.user_id, room.head.servers)
    content = await membership.own_content(caller.node, caller.user_nid, "join")
    try:
        content = await vouched_for(server, caller, room_id, content)
    except UnableToAuthoriseJoin:
        if not room.head.servers:
            raise
        ways = list(room.head.servers)[:MOST_WAYS]
        await server.remote.join(
            server, caller.node, room_id, caller.user_id, membership.with_reason(content, reason), ways
        )
        await caught_up(server, found[0], caller.node)
        return True
    await membership.change(server, caller, room_id, caller.user_id, content, reason)
    return True


class Entering(Turns):
    """Rooms of others that somebody here is about to enter (``directory.memory(Entering)``): one at a time."""


async def _join_elsewhere(server: Server, caller: Caller, room_id: str, reason: str | None, via: Sequence[str]) -> None:
    ways = await ways_into(server, caller, room_id, via)
    content = membership.with_reason(await membership.own_content(caller.node, caller.user_nid, "join"), reason)
    await server.remote.join(server, caller.node, room_id, caller.user_id, content, ways)


async def ways_into(server: Server, caller: Caller, room_id: str, via: Sequence[str] = ()) -> list[str]:
    """Servers through which a room may be entered that nobody here is in, the likeliest first.

    Those that the client names, those whose users the caller was shown by an invitation or for a knock, those that were
    in the room when somebody here last was, and the one that is named in its id. Raises NotFound for none.
    """
    if not identifiers.is_room_id(room_id):
        raise NotFound("There is no such room")
    named = [name for name in via if identifiers.is_server_name(name)]
    held = await membership.held_by(caller, room_id)
    if held is not None:
        named += await _shown_by(caller, held)
    room = await state.find(caller.node, room_id)
    named += [] if room is None else list(room.head.servers)[:MOST_WAYS]
    named.append(identifiers.domain_of(room_id))
    ways = [name for name in dict.fromkeys(named) if name and name != server.name]
    if not ways:
        raise NotFound("There is no such room here, and no server is known that is in it")
    return ways[:MOST_WAYS]


async def _shown_by(caller: Caller, held: StoredMembership) -> list[str]:
    """The servers of who sent the caller's member event, and what they were shown of the room, last things first."""
    senders = [row.sender for row in await caller.node.read(events.by_nids, [held.event_nid])]
    shown = (await caller.node.read(rooms.invitations, caller.user_nid, [held.room_nid])).get(held.room_nid, b"[]")
    senders += [event["sender"] for event in reversed(orjson.loads(shown))]
    return [identifiers.domain_of(sender) for sender in senders]


async def vouched_for(server: Server, caller: Caller, room_id: str, content: dict[str, Any]) -> dict[str, Any]:
    """The content of the caller's join, with who vouches for it where somebody has to; whatever it said about that.

    The server signs all events of its users, and with them what they say there. Raises what `_authoriser` raises.
    """
    node, room = await nearby.nearest(server, caller.node, room_id)
    said = {key: value for key, value in content.items() if key != AUTHORISED_VIA}
    authoriser = await _authoriser(server, node, room, caller)
    return said if authoriser is None else {**said, AUTHORISED_VIA: authoriser}


async def _authoriser(server: Server, node: Node, room: Room, caller: Caller) -> str | None:
    """Who vouches for a join to a restricted room; None where nobody has to.

    Raises Forbidden when the caller meets none of the conditions, UnableToAuthoriseJoin when nobody can vouch.
    spec: client-server-api/#restricted-rooms
    """
    await state.require(node, room, [CREATE, JOIN_RULES, POWER_LEVELS])
    rules = room.head.event(JOIN_RULES)
    if rules is None or rules.content.get("join_rule") not in RESTRICTED:
        return None
    if room.head.membership(caller.user_id) in ("invite", "join"):
        return None
    allow = rules.content.get("allow")
    conditions = allow if isinstance(allow, list) else []
    if not [condition for condition in conditions if await _met(caller, condition)]:
        raise Forbidden("You are in none of the rooms whose members may join this one")
    levels = Levels(room.rules, room.head.event(CREATE), room.head.event(POWER_LEVELS))
    found = inviter_among(server, room, levels)
    if found is None:
        raise UnableToAuthoriseJoin("Nobody on this server can vouch for joining this room")
    return found


def inviter_among(server: Server, room: Room, levels: Levels) -> str | None:
    """A local member of a room who may invite to it."""
    for (kind, user_id), entry in room.head.state.items():
        if (
            kind == MEMBER
            and entry.membership == "join"
            and server.nodes.is_local(user_id)
            and levels.of(user_id) >= levels.invite
        ):
            return user_id
    return None


async def _met(caller: Caller, condition: object) -> bool:
    """Whether the caller meets one condition of a restricted room: as their own node knows it."""
    if not isinstance(condition, dict) or condition.get("type") != "m.room_membership":
        return False
    other = condition.get("room_id")
    if not isinstance(other, str):
        return False
    room = await state.find(caller.node, other)
    return room is not None and room.now.membership(caller.user_id) == "join"


async def knock(
    server: Server, caller: Caller, room_id: str, reason: str | None = None, via: Sequence[str] = ()
) -> None:
    """Ask to be let in; ``via`` as for `join`. Raises Forbidden, FlowDenied, ConsentNotGiven, NotFound,
    ServerUnreachable."""
    found = await nearby.present(server, caller.node, room_id)
    content = await membership.own_content(caller.node, caller.user_nid, "knock")
    if found is None:
        ways = await ways_into(server, caller, room_id, via)
        asked = await server.remote.knock(
            server, caller.node, room_id, caller.user_id, membership.with_reason(content, reason), ways
        )
        await invitations.keep(server, caller.node, asked.event, asked.preview)
        return
    room = found[1]
    await doors.check_door(server, caller, doors.spanned(room.head, room), caller.user_id, room.head.servers)
    await membership.change(server, caller, room_id, caller.user_id, content, reason)
