"""Presence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import MissingParam
from homeserver.rooms import presence
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

PATH = "/_matrix/client/v3/presence/{userId}/status"


@route("GET", PATH, auth=Auth.USER, also=["r0"], spec="client-server-api/#get_matrixclientv3presenceuseridstatus")
async def status(server: Server, request: Request) -> dict[str, Any]:
    """The presence of a user."""
    return await presence.status(server, request.caller, request.args["userId"])


@route(
    "PUT",
    PATH,
    auth=Auth.USER,
    limit=Limit.EPHEMERAL,
    also=["r0"],
    spec="client-server-api/#put_matrixclientv3presenceuseridstatus",
    unless_suspended=True,
)
async def set_status(server: Server, request: Request) -> dict[str, Any]:
    """Set the caller's presence."""
    caller, body = request.caller, request.json()
    caller.must_be(request.args["userId"])
    state = reading.choice(body, "presence", presence.STATES)
    if state is None:
        raise MissingParam("'presence' is missing")
    await presence.set_status(server, caller, state, reading.text(body, "status_msg"))
    return {}
