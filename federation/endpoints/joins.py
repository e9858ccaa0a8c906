"""Joining rooms of ours from other servers. spec: server-server-api/#joining-rooms"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation import joined_answer, resident, rooms_reading
from homeserver.protocol.versions import VERSION_IF_ABSENT
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/make_join/{roomId}/{userId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1make_joinroomiduserid",
)
async def make_join(server: Server, request: Request) -> dict[str, Any]:
    """A template of the join of a user of the asking server."""
    versions = request.query.all("ver") or [VERSION_IF_ABSENT]
    await rooms_reading.check_authors(server, request.origin, request.args["roomId"])
    return await resident.template(
        server, request.origin, request.args["roomId"], request.args["userId"], "join", versions
    )


@route(
    "PUT",
    "/_matrix/federation/v2/send_join/{roomId}/{eventId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#put_matrixfederationv2send_joinroomideventid",
)
async def send_join(server: Server, request: Request) -> Response:
    """Take in the join of a user of the asking server; the answer is the room as it was before.

    Members are never left out: ``omit_members`` allows it and does not demand it. It allows, too, that no event
    comes twice.
    """
    once = request.query.boolean("omit_members")
    room_id, event_id = request.args["roomId"], request.args["eventId"]
    await rooms_reading.check_authors(server, request.origin, room_id)
    home, room, event, row = await resident.take(server, request.origin, room_id, event_id, request.json(), "join")
    return Response(200, joined_answer.pieces(server, home, room, event, row, once=once))
