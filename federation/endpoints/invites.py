"""Invitations of other servers. spec: server-server-api/#inviting-to-a-room"""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation import invited
from homeserver.protocol.versions import VERSION_IF_ABSENT
from homeserver.web.limits import Limit
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "PUT",
    "/_matrix/federation/v2/invite/{roomId}/{eventId}",
    auth=Auth.SIGNED,
    limit=Limit.INVITE_FROM_SERVER,
    spec="server-server-api/#put_matrixfederationv2inviteroomideventid",
)
async def invite(server: Server, request: Request) -> Response:
    """Sign an invitation to a user of ours, and show it to them."""
    body, room_id, event_id = request.json(), request.args["roomId"], request.args["eventId"]
    event = await invited.accept(
        server,
        request.origin,
        room_id,
        event_id,
        body.get("room_version"),
        body.get("event"),
        body.get("invite_room_state"),
    )
    return spliced(b'{"event":', event.pdu_bytes(), b"}")


@route(
    "PUT",
    "/_matrix/federation/v1/invite/{roomId}/{eventId}",
    auth=Auth.SIGNED,
    limit=Limit.INVITE_FROM_SERVER,
    spec="server-server-api/#put_matrixfederationv1inviteroomideventid",
)
async def invite_v1(server: Server, request: Request) -> Response:
    """The same as older servers ask it, of rooms of the oldest versions."""
    body, room_id, event_id = request.json(), request.args["roomId"], request.args["eventId"]
    unsigned = body.get("unsigned")
    preview = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
    event = await invited.accept(server, request.origin, room_id, event_id, VERSION_IF_ABSENT, body, preview)
    return spliced(b'[200,{"event":', event.pdu_bytes(), b"}]")
