"""Refusing invitations to rooms of ours, and taking back knocks, from other servers.

spec: server-server-api/#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation import resident
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/make_leave/{roomId}/{userId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1make_leaveroomiduserid",
)
async def make_leave(server: Server, request: Request) -> dict[str, Any]:
    """A template of the leaving of a user of the asking server."""
    return await resident.template(
        server, request.origin, request.args["roomId"], request.args["userId"], "leave", None
    )


@route(
    "PUT",
    "/_matrix/federation/v2/send_leave/{roomId}/{eventId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#put_matrixfederationv2send_leaveroomideventid",
)
async def send_leave(server: Server, request: Request) -> dict[str, Any]:
    """Take in the leaving of a user of the asking server."""
    room_id, event_id = request.args["roomId"], request.args["eventId"]
    await resident.take(server, request.origin, room_id, event_id, request.json(), "leave")
    return {}
