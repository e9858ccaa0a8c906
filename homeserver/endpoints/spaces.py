"""Spaces, and what is said of one room. spec: client-server-api/#spaces"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.identifiers import domain_of, is_room_alias, is_room_id, is_server_name
from homeserver.rooms import aliases, spaces
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

MOST_SERVERS: Final = 20


@route(
    "GET",
    "/_matrix/client/v1/rooms/{roomId}/hierarchy",
    auth=Auth.GUEST,
    limit=Limit.DIRECTORY,
    spec="client-server-api/#get_matrixclientv1roomsroomidhierarchy",
)
async def hierarchy(server: Server, request: Request) -> dict[str, Any]:
    """A page of the rooms of a space."""
    query = request.query
    wish = spaces.Wish(
        query.boolean("suggested_only"),
        query.integer("limit", None, low=1),
        query.integer("max_depth", None, low=0),
        query.get("from"),
    )
    return await spaces.hierarchy(server, request.caller, request.args["roomId"], wish)


@route(
    "GET",
    "/_matrix/client/v1/room_summary/{roomIdOrAlias}",
    auth=Auth.GUEST,
    limit=Limit.DIRECTORY,
    spec="client-server-api/#get_matrixclientv1room_summaryroomidoralias",
)
async def room_summary(server: Server, request: Request) -> dict[str, Any]:
    """What a room is, for who may come in or look into it."""
    named, caller = request.args["roomIdOrAlias"], request.caller
    via = [name for name in request.query.all("via") if is_server_name(name)][:MOST_SERVERS]
    if is_room_alias(named):
        if domain_of(named) == server.name:
            found = await aliases.found(server, named, caller.node.jurisdiction)
        else:
            found = await server.remote.resolve_alias(server, caller.node, named)
        return await spaces.summary(server, caller, found.room_id, [*via, *found.servers])
    if not is_room_id(named):
        raise InvalidParam("That is neither a room ID nor an alias")
    return await spaces.summary(server, caller, named, via)
