"""Our room directory for other servers. spec: server-server-api/#published-room-directory"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import BadJson
from homeserver.rooms import public
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
    chosen = _field(body, "filter", dict) or {}
    types = _field(chosen, "room_types", list)
    if types is not None and not all(kind is None or isinstance(kind, str) for kind in types):
        raise BadJson("'room_types' must be an array of strings and null")
    limit = _field(body, "limit", int)
    if limit is not None and (isinstance(limit, bool) or limit < 0):
        raise BadJson("'limit' must be a number of rooms")
    network = _field(body, "third_party_instance_id", str)
    term = _field(chosen, "generic_search_term", str)
    networks = [network] if network else None
    search = public.Search(term, types, limit or None, _field(body, "since", str), networks)
    return await public.listing(server, server.policy.now.jurisdiction_of_server(request.origin), search)


def _field(body: dict[str, Any], name: str, kind: type) -> Any:
    """A field that may be missing. Raises BadJson for one of another kind."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadJson(f"'{name}' has the wrong type")
    return value
