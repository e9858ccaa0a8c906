"""The caller's devices. spec: client-server-api/#device-management"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import devices, interactive
from homeserver.accounts.interactive import Operation
from homeserver.e2ee import publication
from homeserver.web import reading
from homeserver.web.messages import json_response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request, Response

NEEDED_BY_NIO: Final = ("display_name", "last_seen_ip", "last_seen_ts")


@route(
    "GET",
    "/_matrix/client/v3/devices",
    auth=Auth.GUEST,
    spec="client-server-api/#get_matrixclientv3devices",
    also=("r0",),
)
async def all_devices(server: Server, request: Request) -> dict[str, Any]:
    """All devices."""
    return {"devices": [_shown(request, device) for device in await devices.shown(server, request.caller)]}


@route(
    "GET",
    "/_matrix/client/v3/devices/{deviceId}",
    auth=Auth.GUEST,
    spec="client-server-api/#get_matrixclientv3devicesdeviceid",
    also=("r0",),
)
async def one_device(server: Server, request: Request) -> dict[str, Any]:
    """One device."""
    (device,) = await devices.shown(server, request.caller, request.args["deviceId"])
    return _shown(request, device)


def _shown(request: Request, device: dict[str, Any]) -> dict[str, Any]:
    """A device as the client that asks can read it."""
    # COMPAT(matrix-nio, 0.26): refuses an answer that lacks one of these, and takes null for unknown. It is known by
    # the type of a body that it has not; what it calls itself is up to the programs that use it.
    if request.header("Content-Type") is not None or request.header("User-Agent") == "nio":
        return {**dict.fromkeys(NEEDED_BY_NIO), **device}
    return device


@route(
    "PUT",
    "/_matrix/client/v3/devices/{deviceId}",
    auth=Auth.GUEST,
    spec="client-server-api/#put_matrixclientv3devicesdeviceid",
    also=("r0",),
)
async def rename(server: Server, request: Request) -> Response | dict[str, Any]:
    """Change a device's name; without one nothing changes. For an application service the device is made."""
    display_name = reading.text(request.json(), "display_name")
    if request.caller.service is not None:
        made = await devices.ensure(server, request.caller, request.args["deviceId"], display_name)
        return json_response({}, status=201 if made else 200)
    if display_name is None:
        await devices.find(request.caller, request.args["deviceId"])
    else:
        await devices.rename(server, request.caller, request.args["deviceId"], display_name)
    return {}


@route(
    "DELETE",
    "/_matrix/client/v3/devices/{deviceId}",
    auth=Auth.USER,
    spec="client-server-api/#delete_matrixclientv3devicesdeviceid",
    also=("r0",),
)
async def delete(server: Server, request: Request) -> dict[str, Any]:
    """Remove a device, or find it removed."""
    await _delete(server, request, [request.args["deviceId"]])
    return {}


@route(
    "POST",
    "/_matrix/client/v3/delete_devices",
    auth=Auth.USER,
    spec="client-server-api/#post_matrixclientv3delete_devices",
    also=("r0",),
)
async def delete_many(server: Server, request: Request) -> dict[str, Any]:
    """Remove devices."""
    await _delete(server, request, reading.strings(request.json(), "devices", required=True))
    return {}


async def _delete(server: Server, request: Request, device_ids: list[str]) -> None:
    caller = request.caller
    interactive.check_legacy(caller)
    if caller.service is None:
        operation = Operation(request.method, request.path, caller.user_id)
        flows = await interactive.by_owner(caller)
        await interactive.require(server, operation, flows, request.json(required=False))
    await devices.remove(server, caller.node, caller.user_id, caller.user_nid, device_ids)
    await publication.told(server, caller.node)
