"""Knocking at rooms of ours from other servers. spec: server-server-api/#knocking-upon-a-room"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation import resident, rooms_reading
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/make_knock/{roomId}/{userId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1make_knockroomiduserid",
)
async def make_knock(server: Server, request: Request) -> dict[str, Any]:
    """A template of the knock of a user of the asking server."""
    await rooms_reading.check_authors(server, request.origin, request.args["roomId"])
    return await resident.template(
        server, request.origin, request.args["roomId"], request.args["userId"], "knock", request.query.all("ver")
    )


@route(
    "PUT",
    "/_matrix/federation/v1/send_knock/{roomId}/{eventId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#put_matrixfederationv1send_knockroomideventid",
)
async def send_knock(server: Server, request: Request) -> Response:
    """Take in the knock of a user of the asking server; the answer is what they may see of the room."""
    room_id, event_id = request.args["roomId"], request.args["eventId"]
    await rooms_reading.check_authors(server, request.origin, room_id)
    home, room, event, _ = await resident.take(server, request.origin, room_id, event_id, request.json(), "knock")
    shown = await resident.preview(home, room, event.sender)
    return spliced(b'{"knock_room_state":[', b",".join(shown), b"]}")
