"""What other servers may ask of the public keys of our users, and claim.

spec: server-server-api/#end-to-end-encryption
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.e2ee import for_servers, one_time_keys
from homeserver.e2ee.one_time_keys import Wanted
from homeserver.protocol.errors import BadJson, InvalidParam, NotFound
from homeserver.protocol.identifiers import is_device_id, is_user_id
from homeserver.web import reading
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

MOST_USERS: Final = 10_000
"""Users, or devices, of one question."""


@route(
    "POST",
    "/_matrix/federation/v1/user/keys/query",
    auth=Auth.SIGNED,
    spec="server-server-api/#post_matrixfederationv1userkeysquery",
)
async def query(server: Server, request: Request) -> dict[str, Any]:
    """The devices of our users, and their keys."""
    asked = _by_user(server, request, "device_keys")
    for devices in asked.values():
        if not isinstance(devices, list) or not all(isinstance(device_id, str) for device_id in devices):
            raise BadJson("'device_keys' must be an object of arrays of device IDs")
    return await for_servers.query(server, request.origin, asked)


@route(
    "POST",
    "/_matrix/federation/v1/user/keys/claim",
    auth=Auth.SIGNED,
    spec="server-server-api/#post_matrixfederationv1userkeysclaim",
)
async def claim(server: Server, request: Request) -> dict[str, Any]:
    """A one-time key of each of some devices of our users."""
    wanted = []
    for user_id, devices in _by_user(server, request, "one_time_keys").items():
        if not isinstance(devices, dict) or not all(isinstance(algorithm, str) for algorithm in devices.values()):
            raise BadJson("'one_time_keys' must be an object of objects of algorithms")
        wanted += [
            Wanted(user_id, device_id, algorithm)
            for device_id, algorithm in devices.items()
            if is_device_id(device_id) and "\0" not in algorithm  # nobody has another
        ]
    if len(wanted) > MOST_USERS:
        raise InvalidParam(f"Claim at most {MOST_USERS} keys at once")
    return {"one_time_keys": await one_time_keys.claim_for(server, request.origin, wanted)}


@route(
    "GET",
    "/_matrix/federation/v1/user/devices/{userId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1userdevicesuserid",
)
async def devices(server: Server, request: Request) -> dict[str, Any]:
    """The device list of one of our users."""
    user_id = request.args["userId"]
    if not is_user_id(user_id):
        raise InvalidParam("That is no user ID")
    if not server.nodes.is_local(user_id):
        raise NotFound("That is no user of this server")
    return await for_servers.device_list(server, request.origin, user_id)


def _by_user(server: Server, request: Request, name: str) -> dict[str, Any]:
    """An object whose properties are user ids, without users who are not ours."""
    found = reading.mapping(request.json(), name, required=True)
    if len(found) > MOST_USERS:
        raise InvalidParam(f"Ask for at most {MOST_USERS} users at once")
    return {
        user_id: value for user_id, value in found.items() if is_user_id(user_id) and server.nodes.is_local(user_id)
    }
