"""Messages to devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.e2ee import to_device
from homeserver.protocol import identifiers
from homeserver.protocol.errors import BadJson, InvalidParam
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

MAX_MESSAGES = 10_000
"""Messages in one request."""


@route(
    "PUT",
    "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}",
    auth=Auth.GUEST,
    limit=Limit.TO_DEVICE,
    also=["r0"],
    spec="client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid",
)
async def send_to_device(server: Server, request: Request) -> dict[str, Any]:
    """Send an event to devices, each its own content."""
    messages = reading.mapping(request.json(), "messages", required=True)
    count = 0
    for user_id, devices in messages.items():
        if not identifiers.is_user_id(user_id):
            raise InvalidParam("'messages' must be an object of user IDs")
        if not isinstance(devices, dict):
            raise BadJson("'messages' must be an object of objects of contents")
        count += len(devices)
        for content in devices.values():
            if not isinstance(content, dict):
                raise BadJson("'messages' must be an object of objects of contents")
    if count > MAX_MESSAGES:
        raise InvalidParam(f"Send at most {MAX_MESSAGES} messages at once")
    args = request.args
    await to_device.send(server, request.caller, args["eventType"], args["txnId"], messages)
    return {}
