"""Typing notices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.rooms import presence, typing_notices
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "PUT",
    "/_matrix/client/v3/rooms/{roomId}/typing/{userId}",
    auth=Auth.USER,
    limit=Limit.EPHEMERAL,
    also=["r0"],
    spec="client-server-api/#put_matrixclientv3roomsroomidtypinguserid",
    unless_suspended=True,
)
async def set_typing(server: Server, request: Request) -> dict[str, Any]:
    """Say that the caller types, or has stopped."""
    caller, body = request.caller, request.json()
    caller.must_be(request.args["userId"])
    typing = reading.boolean(body, "typing", required=True)
    timeout = reading.integer(body, "timeout", low=0)
    if not typing:
        timeout = 0
    elif timeout is None:
        timeout = typing_notices.DEFAULT_MS
    await typing_notices.set_typing(server, caller, request.args["roomId"], timeout)
    if typing:
        presence.active(server, caller)
    return {}
