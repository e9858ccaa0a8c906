"""Telling third parties whose a token is. spec: server-server-api/#openid"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import openid
from homeserver.protocol.errors import MissingToken
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/openid/userinfo",
    auth=Auth.NONE,
    spec="server-server-api/#get_matrixfederationv1openiduserinfo",
)
async def userinfo(server: Server, request: Request) -> dict[str, Any]:
    """The user who gave a token away, so that who has it learns who they are: nobody else could ask."""
    token = request.query.get("access_token")
    if token is None:
        raise MissingToken("'access_token' is missing")
    return {"sub": await openid.owner(server, token)}
