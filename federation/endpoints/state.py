"""The state of rooms and the authority of events for other servers. spec: server-server-api/#retrieving-events"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation import rooms_reading, rooms_reading_state
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from federation.rooms_reading import Reading
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/state/{roomId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1stateroomid",
)
async def state(server: Server, request: Request) -> Response:
    """The state before an event, with its authority, as events."""
    event_id = request.query.require("event_id")
    reading = await rooms_reading.open_room(server, request.origin, request.args["roomId"], whole=True)
    found = await rooms_reading_state.state_ids(reading, event_id)
    return _streamed(reading, {b"pdus": found.state, b"auth_chain": found.auth_chain})


@route(
    "GET",
    "/_matrix/federation/v1/state_ids/{roomId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1state_idsroomid",
)
async def state_ids(server: Server, request: Request) -> dict[str, Any]:
    """The state before an event, with its authority, as ids."""
    event_id = request.query.require("event_id")
    reading = await rooms_reading.open_room(server, request.origin, request.args["roomId"], whole=True)
    found = await rooms_reading_state.state_ids(reading, event_id)
    return {"pdu_ids": found.state, "auth_chain_ids": found.auth_chain}


@route(
    "GET",
    "/_matrix/federation/v1/event_auth/{roomId}/{eventId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1event_authroomideventid",
)
async def event_auth(server: Server, request: Request) -> Response:
    """The auth chain of an event."""
    reading = await rooms_reading.open_room(server, request.origin, request.args["roomId"], whole=True)
    chain = await rooms_reading_state.auth_chain(reading, request.args["eventId"])
    return _streamed(reading, {b"auth_chain": chain})


def _streamed(reading: Reading, lists: dict[bytes, Sequence[str]]) -> Response:
    """An object of lists of events, sent as they are read."""

    async def pieces() -> AsyncIterator[bytes]:
        with rooms_reading_state.Turn(reading):
            opening = b"{"
            for name, event_ids in lists.items():
                yield opening + b'"%s":' % name
                async for piece in rooms_reading_state.pdus(reading, event_ids):
                    yield piece
                opening = b","
            yield b"}"

    return Response(200, pieces())
