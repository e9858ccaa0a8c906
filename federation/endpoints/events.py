"""One event for another server. spec: server-server-api/#retrieving-events"""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation import rooms_reading
from federation.endpoints.transaction import transaction
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request, Response


@route(
    "GET",
    "/_matrix/federation/v1/event/{eventId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1eventeventid",
)
async def event(server: Server, request: Request) -> Response:
    """One event, by its id alone."""
    reading, row = await rooms_reading.event_of(server, request.origin, request.args["eventId"])
    return transaction(server, [reading.pdu(row)])
