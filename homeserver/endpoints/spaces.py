"""Spaces, and what is said of one room. spec: client-server-api/#spaces"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol.errors import InvalidParam, NotFound
from homeserver.protocol.identifiers import domain_of, is_room_alias, is_room_id, is_server_name
from homeserver.rooms import aliases, public, spaces
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
    auth=Auth.OPTIONAL,
    limit=Limit.DIRECTORY,
    spec="client-server-api/#get_matrixclientv1room_summaryroomidoralias",
)
async def room_summary(server: Server, request: Request) -> dict[str, Any]:
    """What a room is, for who may come in or look into it."""
    return await _summary(server, request)


@route(
    "GET",
    "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}",
    auth=Auth.OPTIONAL,
    limit=Limit.DIRECTORY,
    also=["/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary"],
    spec="client-server-api/#get_matrixclientv1room_summaryroomidoralias",
)
async def early_room_summary(server: Server, request: Request) -> dict[str, Any]:
    """The same, as clients ask for it that are older than its specification."""
    found = await _summary(server, request)
    for early, name in _EARLY_NAMES.items():
        if name in found:
            found[early] = found[name]
    return found


_EARLY_NAMES: Final = {
    "im.nheko.summary.room_version": "room_version",
    "im.nheko.summary.version": "room_version",
    "im.nheko.summary.encryption": "encryption",
}


async def _summary(server: Server, request: Request) -> dict[str, Any]:
    named, caller = request.args["roomIdOrAlias"], request.caller_or_none
    via = [name for name in request.query.all("via") if is_server_name(name)][:MOST_SERVERS]
    if is_room_alias(named):
        if domain_of(named) == server.name:
            found = await aliases.found(server, named, public.jurisdiction_of(None if caller is None else caller.node))
        elif caller is None:
            raise NotFound("Log in to ask other servers for their rooms")
        else:
            found = await server.remote.resolve_alias(server, caller.node, named)
        named, via = found.room_id, [*via, *found.servers]
    if not is_room_id(named):
        raise InvalidParam("That is neither a room ID, which begins with !, nor an alias, which begins with #")
    if caller is None:
        return await spaces.summary_for_anybody(server, named)
    return await spaces.summary(server, caller, named, via)
