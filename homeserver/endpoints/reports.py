"""Reporting events, rooms and users to the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import reports
from homeserver.rooms import reporting
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/report/{eventId}",
    auth=Auth.USER,
    limit=Limit.REPORT,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidreporteventid",
)
async def report_event(server: Server, request: Request) -> dict[str, Any]:
    """Report an event."""
    reason = reading.text(request.json(), "reason") or ""
    await reporting.report_event(server, request.caller, request.args["roomId"], request.args["eventId"], reason)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/report",
    auth=Auth.USER,
    limit=Limit.REPORT,
    spec="client-server-api/#post_matrixclientv3roomsroomidreport",
)
async def report_room(server: Server, request: Request) -> dict[str, Any]:
    """Report a room."""
    reason = reading.text(request.json(), "reason", required=True)
    await reports.report_room(server, request.caller, request.args["roomId"], reason)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/users/{userId}/report",
    auth=Auth.USER,
    limit=Limit.REPORT,
    spec="client-server-api/#post_matrixclientv3usersuseridreport",
)
async def report_user(server: Server, request: Request) -> dict[str, Any]:
    """Report a user."""
    reason = reading.text(request.json(), "reason", required=True)
    await reports.report_user(server, request.caller, request.args["userId"], reason)
    return {}
