"""Upgrading rooms. spec: client-server-api/#room-upgrades"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol import versions
from homeserver.rooms import upgrade
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/upgrade",
    auth=Auth.USER,
    limit=Limit.ROOM_CREATION,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidupgrade",
    unless_suspended=True,
)
async def upgrade_room(server: Server, request: Request) -> dict[str, Any]:
    """Replace a room by one of another version."""
    body = request.json()
    rules = versions.rules_of(reading.text(body, "new_version", required=True))
    creators = reading.strings(body, "additional_creators")
    made = await upgrade.upgrade(server, request.caller, request.args["roomId"], rules, creators)
    return {"replacement_room": made}
