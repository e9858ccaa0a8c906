"""What other servers may ask of our room aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import InvalidParam, NotFound
from homeserver.protocol.identifiers import domain_of, is_room_alias
from homeserver.rooms import aliases
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/query/directory",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1querydirectory",
)
async def resolve(server: Server, request: Request) -> dict[str, Any]:
    """The room that an alias of ours stands for, and the servers that are in it."""
    alias = request.query.get("room_alias")
    if alias is None or not is_room_alias(alias):
        raise InvalidParam("'room_alias' must be a room alias")
    if domain_of(alias) != server.name:
        raise NotFound("That is no alias of this server")
    found = await aliases.found(server, alias, server.policy.now.jurisdiction_of_server(request.origin))
    return found._asdict()
