"""Room aliases and the directory of published rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.application_services import third_party
from homeserver.protocol import identifiers
from homeserver.protocol.errors import InvalidParam, MissingToken, NotFound
from homeserver.rooms import aliases, public
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

MOST_NETWORKS = 100
"""Networks of which the directories are shown together."""

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/client/v3/directory/room/{roomAlias}",
    auth=Auth.OPTIONAL,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3directoryroomroomalias",
)
async def resolve_alias(server: Server, request: Request) -> dict[str, Any]:
    """The room to which an alias leads."""
    alias = request.args["roomAlias"]
    _, domain = identifiers.parse_room_alias(alias)
    caller = request.caller_or_none
    if domain == server.name:
        asking = public.jurisdiction_of(None if caller is None else caller.node)
        return (await aliases.found(server, alias, asking))._asdict()
    if caller is None:
        raise NotFound("Log in to ask other servers for their room aliases")
    return (await server.remote.resolve_alias(server, caller.node, alias))._asdict()


@route(
    "PUT",
    "/_matrix/client/v3/directory/room/{roomAlias}",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#put_matrixclientv3directoryroomroomalias",
    unless_suspended=True,
)
async def set_alias(server: Server, request: Request) -> dict[str, Any]:
    """Let an alias lead to a room."""
    room_id = reading.text(request.json(), "room_id", required=True)
    await aliases.create(server, request.caller, request.args["roomAlias"], room_id)
    return {}


@route(
    "DELETE",
    "/_matrix/client/v3/directory/room/{roomAlias}",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#delete_matrixclientv3directoryroomroomalias",
    unless_suspended=True,
)
async def delete_alias(server: Server, request: Request) -> dict[str, Any]:
    """Remove an alias."""
    await aliases.delete(server, request.caller, request.args["roomAlias"])
    return {}


@route(
    "GET",
    "/_matrix/client/v3/rooms/{roomId}/aliases",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3roomsroomidaliases",
)
async def room_aliases(server: Server, request: Request) -> dict[str, Any]:
    """The local aliases of a room."""
    return {"aliases": await aliases.of_room(server, request.caller, request.args["roomId"])}


@route(
    "GET",
    "/_matrix/client/v3/directory/list/room/{roomId}",
    auth=Auth.NONE,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3directorylistroomroomid",
)
async def visibility(server: Server, request: Request) -> dict[str, Any]:
    """Whether a room is in the directory."""
    return {"visibility": "public" if await public.is_public(server, request.args["roomId"]) else "private"}


@route(
    "PUT",
    "/_matrix/client/v3/directory/list/room/{roomId}",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#put_matrixclientv3directorylistroomroomid",
    unless_suspended=True,
)
async def set_visibility(server: Server, request: Request) -> dict[str, Any]:
    """Publish a room, or take it out of the directory."""
    wanted = reading.choice(request.json(required=False), "visibility", ("public", "private"), "public")
    await public.set_visibility(server, request.caller, request.args["roomId"], wanted == "public")
    return {}


@route(
    "GET",
    "/_matrix/client/v3/publicRooms",
    auth=Auth.OPTIONAL,
    limit=Limit.DIRECTORY,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3publicrooms",
)
async def public_rooms(server: Server, request: Request) -> dict[str, Any]:
    """The directory."""
    query = request.query
    search = public.Search(limit=query.integer("limit", None, low=0), since=query.get("since"))
    return await _listing(server, request, search)


@route(
    "POST",
    "/_matrix/client/v3/publicRooms",
    auth=Auth.USER,
    limit=Limit.DIRECTORY,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3publicrooms",
)
async def search_public_rooms(server: Server, request: Request) -> dict[str, Any]:
    """The directory, searched."""
    body = request.json(required=False)
    chosen = reading.mapping(body, "filter") or {}
    types = reading.strings_and_null(chosen, "room_types")
    network, everywhere = reading.text(body, "third_party_instance_id"), reading.boolean(body, "include_all_networks")
    if everywhere and network is not None:
        raise InvalidParam("'third_party_instance_id' names a network, 'include_all_networks' asks for all")
    networks = [network] if network else None
    if everywhere and server.services:
        networks = ["", *sorted(await third_party.networks(server))[:MOST_NETWORKS]]
    search = public.Search(
        reading.text(chosen, "generic_search_term"),
        types,
        reading.integer(body, "limit", low=0),
        reading.text(body, "since"),
        networks,
    )
    return await _listing(server, request, search)


async def _listing(server: Server, request: Request, search: public.Search) -> dict[str, Any]:
    elsewhere, caller = request.query.get("server"), request.caller_or_none
    if elsewhere is None or elsewhere == server.name:
        return await public.listing(server, public.jurisdiction_of(None if caller is None else caller.node), search)
    if not identifiers.is_server_name(elsewhere):
        raise InvalidParam("'server' must be a server name")
    if caller is None:
        raise MissingToken("Log in to look at the directories of other servers")
    most = server.settings.limits.page_size
    limit = most if search.limit is None else min(search.limit, most)
    chosen = {"generic_search_term": search.term, "room_types": search.types}
    question = {name: value for name, value in chosen.items() if value is not None}
    return await server.remote.public_rooms(server, caller.node, elsewhere, question, limit, search.since)
