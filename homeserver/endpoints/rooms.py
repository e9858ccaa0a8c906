"""Rooms: creating, joining, leaving, and what members do with each other's membership."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol import identifiers, versions
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.threepids import identifier
from homeserver.rooms import aliases, create, guests, inviting_by_address, joining, leaving, membership, third_party
from homeserver.rooms.identity_servers import IdentityServer
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.web.messages import Request

MAX_INVITES = 100
"""Users that may be invited as a room is created."""
MAX_ADDRESSES = 20
"""Addresses, to each of which a letter may go."""


@route(
    "POST",
    "/_matrix/client/v3/createRoom",
    auth=Auth.USER,
    limit=Limit.ROOM_CREATION,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3createroom",
    unless_suspended=True,
)
async def create_room(server: Server, request: Request) -> dict[str, Any]:
    """Create a room."""
    wish = _wish(request.json(), server.settings.rooms.default_version)
    return {"room_id": await create.create_room(server, request.caller, wish)}


def _wish(body: dict[str, Any], default_version: str) -> create.Wish:
    visibility = reading.choice(body, "visibility", ("public", "private"), "private") or "private"
    preset = reading.choice(body, "preset", create.PRESETS)
    invite = list(dict.fromkeys(reading.strings(body, "invite")))
    if len(invite) > MAX_INVITES:
        raise InvalidParam(f"At most {MAX_INVITES} users can be invited while a room is created")
    if any(not identifiers.is_user_id(user_id) for user_id in invite):
        raise InvalidParam("'invite' must be an array of user IDs")
    invite_3pid = [by_address(invited) for invited in reading.mappings(body, "invite_3pid")]
    if len(invite_3pid) > MAX_ADDRESSES:
        raise InvalidParam(f"At most {MAX_ADDRESSES} addresses can be invited while a room is created")
    version = reading.text(body, "room_version")
    return create.Wish(
        versions.rules_of(default_version if version is None else version),
        preset or ("public_chat" if visibility == "public" else "private_chat"),
        visibility,
        reading.text(body, "room_alias_name"),
        reading.text(body, "name"),
        reading.text(body, "topic"),
        invite,
        reading.boolean(body, "is_direct"),
        reading.mapping(body, "creation_content") or {},
        reading.mapping(body, "power_level_content_override") or {},
        [_initial(event, at) for at, event in enumerate(reading.mappings(body, "initial_state"))],
        invite_3pid,
    )


def by_address(body: dict[str, Any]) -> inviting_by_address.Invited:
    """Whom a body names by an address. Raises MissingParam, BadJson, InvalidParam."""
    values = [reading.text(body, name, required=True) for name in ("id_server", "id_access_token", "medium", "address")]
    id_server, token, medium, address = values
    return inviting_by_address.Invited(IdentityServer(id_server, token), identifier(medium, address))


def _initial(event: dict[str, Any], at: int) -> tuple[str, str, dict[str, Any]]:
    """One event of the initial state, the one at that place of the array."""
    where = f"initial_state[{at}]."
    kind = reading.text(event, "type", required=True, within=where)
    if kind in ("m.room.create", "m.room.member"):
        raise InvalidParam(f"'initial_state' must not hold {kind}")
    state_key = reading.text(event, "state_key", within=where) or ""
    return kind, state_key, reading.mapping(event, "content", required=True, within=where)


@route(
    "GET",
    "/_matrix/client/v3/joined_rooms",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3joined_rooms",
)
async def joined_rooms(_: Server, request: Request) -> dict[str, Any]:
    """The rooms that the caller is in."""
    return {"joined_rooms": await membership.joined_rooms(request.caller)}


async def _room_and_ways(server: Server, request: Request) -> tuple[str, list[str]]:
    """The room that a path names by its id or by an alias, and servers that may be in it."""
    given = request.args["roomIdOrAlias"]
    via = [*request.query.all("via"), *request.query.all("server_name")]  # the second is what older clients say
    if given.startswith("#"):
        _, domain = identifiers.parse_room_alias(given)
        if domain != server.name:
            found = await server.remote.resolve_alias(server, request.caller.node, given)
            return found.room_id, [*via, domain, *found.servers]
        return await aliases.resolve(server, given), via
    if not identifiers.is_room_id(given):
        raise InvalidParam("That is neither a room ID, which begins with !, nor a room alias, which begins with #")
    return given, via


def _reason(request: Request) -> str | None:
    return reading.text(request.json(required=False), "reason")


async def _join(server: Server, request: Request, room_id: str, via: Sequence[str] = ()) -> dict[str, Any]:
    """Join, by an invitation for an address if the request proves that the address is the caller's."""
    body, caller = request.json(required=False), request.caller
    reason, signed = reading.text(body, "reason"), reading.mapping(body, "third_party_signed")
    await guests.check(server, caller, room_id)
    if signed is not None:
        for name in ("mxid", "token"):
            reading.text(signed, name, required=True)
        reading.mapping(signed, "signatures", required=True)
        sender = reading.text(signed, "sender", required=True)
        if not identifiers.is_user_id(sender):
            raise InvalidParam("'sender' is no user ID")
        await third_party.accept(server, caller, room_id, sender, signed)
    await joining.join(server, caller, room_id, reason, via)
    return {"room_id": room_id}


@route(
    "POST",
    "/_matrix/client/v3/join/{roomIdOrAlias}",
    auth=Auth.GUEST,
    limit=Limit.JOIN,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3joinroomidoralias",
    unless_suspended=True,
)
async def join_by_alias(server: Server, request: Request) -> dict[str, Any]:
    """Join a room by its id or an alias."""
    room_id, via = await _room_and_ways(server, request)
    return await _join(server, request, room_id, via)


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/join",
    auth=Auth.GUEST,
    limit=Limit.JOIN,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidjoin",
    unless_suspended=True,
)
async def join(server: Server, request: Request) -> dict[str, Any]:
    """Join a room by its id."""
    return await _join(server, request, request.args["roomId"])


@route(
    "POST",
    "/_matrix/client/v3/knock/{roomIdOrAlias}",
    auth=Auth.USER,
    limit=Limit.JOIN,
    spec="client-server-api/#post_matrixclientv3knockroomidoralias",
    unless_suspended=True,
)
async def knock(server: Server, request: Request) -> dict[str, Any]:
    """Ask to be let into a room."""
    reason, (room_id, via) = _reason(request), await _room_and_ways(server, request)
    await joining.knock(server, request.caller, room_id, reason, via)
    return {"room_id": room_id}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/leave",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidleave",
)
async def leave(server: Server, request: Request) -> dict[str, Any]:
    """Leave a room or refuse an invitation."""
    await leaving.leave(server, request.caller, request.args["roomId"], _reason(request))
    return {}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/forget",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidforget",
)
async def forget(server: Server, request: Request) -> dict[str, Any]:
    """Take a room that was left out of sight."""
    await leaving.forget(server, request.caller, request.args["roomId"])
    return {}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/invite",
    auth=Auth.USER,
    limit=Limit.INVITE,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidinvite",
    unless_suspended=True,
)
async def invite(server: Server, request: Request) -> dict[str, Any]:
    """Invite a user to a room, or whoever has an address (client-server-api/#third-party-invites)."""
    body, room_id = request.json(), request.args["roomId"]
    reason = reading.text(body, "reason")
    if "user_id" not in body and "medium" in body:
        await inviting_by_address.invite(server, request.caller, room_id, by_address(body), reason)
    else:
        await membership.invite(server, request.caller, room_id, reading.user_id(body), reason=reason)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/kick",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidkick",
    unless_suspended=True,
)
async def kick(server: Server, request: Request) -> dict[str, Any]:
    """Remove a user from a room."""
    body = request.json()
    user_id, reason = reading.user_id(body), reading.text(body, "reason")
    await membership.kick(server, request.caller, request.args["roomId"], user_id, reason)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/ban",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidban",
    unless_suspended=True,
)
async def ban(server: Server, request: Request) -> dict[str, Any]:
    """Ban a user from a room."""
    body = request.json()
    user_id, reason = reading.user_id(body), reading.text(body, "reason")
    await membership.ban(server, request.caller, request.args["roomId"], user_id, reason)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/unban",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidunban",
    unless_suspended=True,
)
async def unban(server: Server, request: Request) -> dict[str, Any]:
    """Lift a ban."""
    body = request.json()
    user_id, reason = reading.user_id(body), reading.text(body, "reason")
    await membership.unban(server, request.caller, request.args["roomId"], user_id, reason)
    return {}
