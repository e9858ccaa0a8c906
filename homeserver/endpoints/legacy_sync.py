"""What clients used before there was `/sync`: the event stream, snapshots, and one event by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.rooms import showing
from homeserver.sync import legacy
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/client/v3/events",
    auth=Auth.GUEST,
    also=["r0"],
    long_poll=True,
    spec="client-server-api/#get_matrixclientv3events",
)
async def events(server: Server, request: Request) -> Response:
    """Events as they come: of the caller's rooms, or of one room (``room_id``) that they may read."""
    query = request.query
    found = await legacy.stream(
        server, request.caller, query.get("from"), query.integer("timeout", 0, low=0), query.get("room_id")
    )
    return spliced(
        b'{"start":"%s","end":"%s","chunk":' % (found.start.encode(), found.end.encode()),
        showing.array(found.events),
        b"}",
    )


@route(
    "GET",
    "/_matrix/client/v3/initialSync",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3initialsync",
)
async def initial_sync(server: Server, request: Request) -> dict[str, Any]:
    """All rooms with their newest messages."""
    return await legacy.snapshot(server, request.caller, _limit(server, request), request.query.boolean("archived"))


@route(
    "GET",
    "/_matrix/client/v3/rooms/{roomId}/initialSync",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3roomsroomidinitialsync",
)
async def room_initial_sync(server: Server, request: Request) -> dict[str, Any]:
    """One room with its newest messages."""
    return await legacy.snapshot_of_room(server, request.caller, request.args["roomId"], _limit(server, request))


@route(
    "GET",
    "/_matrix/client/v3/events/{eventId}",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3eventseventid",
)
async def event(server: Server, request: Request) -> Response:
    """One event of whatever room."""
    return spliced(await legacy.event(server, request.caller, request.args["eventId"]))


def _limit(server: Server, request: Request) -> int | None:
    return request.query.integer("limit", None, low=0, high=server.settings.limits.page_size)
