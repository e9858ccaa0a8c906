"""Our room directory for other servers. spec: server-server-api/#published-room-directory"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.rooms import public
from homeserver.web import reading
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/publicRooms",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1publicrooms",
)
async def public_rooms(server: Server, request: Request) -> dict[str, Any]:
    """The directory."""
    query = request.query
    network = query.get("third_party_instance_id")
    limit = query.integer("limit", None, low=0) or None
    search = public.Search(limit=limit, since=query.get("since"), networks=[network] if network else None)
    return await public.listing(server, server.policy.now.jurisdiction_of_server(request.origin), search)


@route(
    "POST",
    "/_matrix/federation/v1/publicRooms",
    auth=Auth.SIGNED,
    spec="server-server-api/#post_matrixfederationv1publicrooms",
)
async def search_public_rooms(server: Server, request: Request) -> dict[str, Any]:
    """The directory, searched."""
    body = request.json()
    chosen = reading.mapping(body, "filter") or {}
    types = reading.strings_and_null(chosen, "room_types")
    limit = reading.integer(body, "limit", low=0) or None
    network = reading.text(body, "third_party_instance_id")
    term, since = reading.text(chosen, "generic_search_term"), reading.text(body, "since")
    search = public.Search(term, types, limit, since, [network] if network else None)
    return await public.listing(server, server.policy.now.jurisdiction_of_server(request.origin), search)
