"""What happened in rooms earlier, for servers that were not there or missed it.

spec: server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from federation import rooms_reading, rooms_reading_moments, rooms_reading_walks
from federation.endpoints.transaction import transaction
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam
from homeserver.web.messages import spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.web.messages import Request, Response

MOST_EVENTS: Final = 100
"""Events in an answer of `backfill`."""
MOST_MISSING: Final = 50
"""Events in an answer of `get_missing_events`."""
MOST_NAMED: Final = 100
"""Events that a request may name."""


@route(
    "GET",
    "/_matrix/federation/v1/backfill/{roomId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1backfillroomid",
)
async def backfill(server: Server, request: Request) -> Response:
    """Events and what preceded them."""
    starts = request.query.all("v")
    if not starts:
        raise MissingParam("The parameter v is missing")
    if len(starts) > MOST_NAMED:
        raise InvalidParam(f"A request may name at most {MOST_NAMED} events")
    request.query.require("limit")
    limit = request.query.integer("limit", MOST_EVENTS, low=1, high=MOST_EVENTS)
    reading = await rooms_reading.open_room(server, request.origin, request.args["roomId"])
    found = await rooms_reading_walks.backfill(reading, starts, limit)
    return transaction(server, [reading.pdu(row) for row in found])


@route(
    "POST",
    "/_matrix/federation/v1/get_missing_events/{roomId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#post_matrixfederationv1get_missing_eventsroomid",
)
async def missing_events(server: Server, request: Request) -> Response:
    """What lies between the events that a server has and those that it has heard of."""
    body = request.json()
    earliest, latest = _ids(body, "earliest_events"), _ids(body, "latest_events")
    limit, min_depth = _count(body, "limit", 10), _count(body, "min_depth", 0)
    reading = await rooms_reading.open_room(server, request.origin, request.args["roomId"])
    found = []
    if limit:
        found = await rooms_reading_walks.missing(reading, earliest, latest, min(limit, MOST_MISSING), min_depth)
    return spliced(b'{"events":[', b",".join([reading.pdu(row) for row in found]), b"]}")


def _ids(body: Mapping[str, Any], name: str) -> list[str]:
    value = body.get(name)
    if value is None:
        raise MissingParam(f"'{name}' is missing")
    if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
        raise BadJson(f"'{name}' must be an array of event IDs")
    if len(value) > MOST_NAMED:
        raise InvalidParam(f"A request may name at most {MOST_NAMED} events")
    return value


def _count(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadJson(f"'{name}' must be a whole number")
    return value


@route(
    "GET",
    "/_matrix/federation/v1/timestamp_to_event/{roomId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1timestamp_to_eventroomid",
)
async def timestamp_to_event(server: Server, request: Request) -> dict[str, Any]:
    """The event nearest to a moment."""
    query = request.query
    query.require("ts"), query.require("dir")
    moment = query.integer("ts", 0)
    backwards = query.choice("dir", ("b", "f"), "b") == "b"
    reading = await rooms_reading.open_room(server, request.origin, request.args["roomId"])
    found = await rooms_reading_moments.nearest(reading, moment, backwards=backwards)
    return {"event_id": found.event_id, "origin_server_ts": found.ts}
