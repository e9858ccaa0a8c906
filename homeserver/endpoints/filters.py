"""Filters. spec: client-server-api/#filtering"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import filters
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "POST",
    "/_matrix/client/v3/user/{userId}/filter",
    auth=Auth.GUEST,
    spec="client-server-api/#post_matrixclientv3useruseridfilter",
    also=("r0",),
)
async def add(server: Server, request: Request) -> dict[str, Any]:
    """Upload a filter."""
    request.caller.must_be(request.args["userId"])
    return {"filter_id": await filters.add(request.caller, request.json())}


@route(
    "GET",
    "/_matrix/client/v3/user/{userId}/filter/{filterId}",
    auth=Auth.GUEST,
    spec="client-server-api/#get_matrixclientv3useruseridfilterfilterid",
    also=("r0",),
)
async def find(server: Server, request: Request) -> Response:
    """A filter that was uploaded."""
    request.caller.must_be(request.args["userId"])
    return Response(200, await filters.find(request.caller, request.args["filterId"]))
