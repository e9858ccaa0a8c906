"""Proving to third parties who one is. spec: client-server-api/#openid"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import openid
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "POST",
    "/_matrix/client/v3/user/{userId}/openid/request_token",
    auth=Auth.USER,
    spec="client-server-api/#post_matrixclientv3useruseridopenidrequest_token",
    also=("r0",),
)
async def request_token(server: Server, request: Request) -> dict[str, Any]:
    """A token by which a third party may ask who the caller is."""
    request.caller.must_be(request.args["userId"])
    request.json(required=False)
    return {
        "access_token": openid.issue(server, request.caller),
        "token_type": "Bearer",
        "matrix_server_name": server.name,
        "expires_in": openid.LIFETIME,
    }
