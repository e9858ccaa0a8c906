"""What other servers may ask of the profiles of our users. spec: server-server-api/#querying-for-information"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import profile
from homeserver.protocol.errors import InvalidParam, MissingParam, NotFound, Unrecognized
from homeserver.protocol.identifiers import is_user_id
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/query/profile",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1queryprofile",
)
async def query_profile(server: Server, request: Request) -> dict[str, Any]:
    """The profile of one of our users, or one field of it."""
    user_id, name = request.query.get("user_id"), request.query.get("field")
    if user_id is None:
        raise MissingParam("'user_id' is missing")
    if not is_user_id(user_id):
        raise InvalidParam("'user_id' must be a user ID")
    if not server.nodes.is_local(user_id):
        raise NotFound("That is no user of this server")
    found = await profile.of_local(server, user_id, server.policy.now.jurisdiction_of_server(request.origin))
    return found if name is None else {key: value for key, value in found.items() if key == name}


@route(
    "GET",
    "/_matrix/federation/v1/query/{queryType}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1queryquerytype",
)
async def query(server: Server, request: Request) -> dict[str, Any]:
    """Nothing: there are no other queries."""
    raise Unrecognized("There is no such query")
