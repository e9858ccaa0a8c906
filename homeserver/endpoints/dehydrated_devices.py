"""The caller's dehydrated device: putting, finding and deleting it, and reading its messages. Not specified yet
(MSC3814).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.accounts.sessions import DeviceWish
from homeserver.e2ee import dehydrated
from homeserver.rooms import tokens
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

DEVICE: Final = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
EVENTS: Final = DEVICE + "/{deviceId}/events"


@route("PUT", DEVICE, auth=Auth.USER, limit=Limit.KEYS)
async def put(server: Server, request: Request) -> dict[str, Any]:
    """Put a dehydrated device in the place of the earlier one."""
    body = request.json()
    wish = DeviceWish(reading.text(body, "device_id", required=True), reading.text(body, "initial_device_display_name"))
    device_id = await dehydrated.put(
        server,
        request.caller,
        wish,
        _device_data(body),
        reading.mapping(body, "device_keys", required=True),
        reading.mapping(body, "one_time_keys") or {},
        reading.mapping(body, "fallback_keys") or {},
    )
    return {"device_id": device_id}


def _device_data(body: dict[str, Any]) -> dict[str, Any]:
    found = reading.mapping(body, "device_data", required=True)
    reading.text(found, "algorithm", required=True)
    return found


@route("GET", DEVICE, auth=Auth.USER)
async def find(server: Server, request: Request) -> Response:
    """The dehydrated device, for a client that wants to go on with what it has been sent."""
    found = await dehydrated.find(request.caller)
    return spliced(b'{"device_id":', orjson.dumps(found.device.device_id), b',"device_data":', found.device_data, b"}")


@route("DELETE", DEVICE, auth=Auth.USER, limit=Limit.KEYS)
async def delete(server: Server, request: Request) -> dict[str, Any]:
    """Delete it."""
    return {"device_id": await dehydrated.delete(server, request.caller)}


@route("GET", EVENTS, auth=Auth.USER)
async def events(server: Server, request: Request) -> Response:
    """A page of its messages; without ``next_batch`` it is the last."""
    limit = request.query.integer("limit", dehydrated.PAGE, low=1, high=dehydrated.PAGE)
    after = tokens.position(request.query.get("from"), 0)
    page = await dehydrated.messages(request.caller, request.args["deviceId"], after, limit)
    return _shown(page, always=False)


@route("POST", EVENTS, auth=Auth.USER)
async def events_as_asked_before(server: Server, request: Request) -> Response:
    """The same, in an older form: there is always a ``next_batch``, and a page without messages is the last."""
    after = tokens.position(reading.text(request.json(required=False), "next_batch"), 0)
    return _shown(
        await dehydrated.messages(request.caller, request.args["deviceId"], after, dehydrated.PAGE), always=True
    )


def _shown(page: dehydrated.Page, *, always: bool) -> Response:
    more = b',"next_batch":"%d"' % page.end if always or page.more else b""
    return spliced(b'{"events":[', b",".join(page.events), b"]", more, b"}")
