"""Keys for end-to-end encryption: uploading, asking for, claiming, cross-signing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from homeserver.accounts import interactive, passwords
from homeserver.accounts.interactive import Operation
from homeserver.accounts.oauth import resets
from homeserver.e2ee import cross_signing, device_keys, device_lists, one_time_keys, uploads
from homeserver.endpoints.oauth import ACCOUNT
from homeserver.protocol import identifiers
from homeserver.protocol.errors import BadJson, InvalidParam
from homeserver.rooms import epochs, tokens
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

LONGEST_WAIT: Final = 60.0
"""Seconds that other servers are waited for at most, whatever the client asks."""


@route(
    "POST",
    "/_matrix/client/v3/keys/upload",
    auth=Auth.GUEST,
    limit=Limit.KEYS,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3keysupload",
)
async def upload(server: Server, request: Request) -> dict[str, Any]:
    """Publish keys of the caller's device."""
    body = request.json()
    counts = await uploads.upload(
        server,
        request.caller,
        reading.mapping(body, "device_keys"),
        reading.mapping(body, "one_time_keys") or {},
        reading.mapping(body, "fallback_keys") or {},
    )
    return {"one_time_key_counts": counts}


def _by_user(body: dict[str, Any], name: str, kind: type, meaning: str) -> dict[str, Any]:
    """A required object whose properties are user ids and whose values are of a kind."""
    found = reading.mapping(body, name, required=True)
    for user_id, value in found.items():
        if not identifiers.is_user_id(user_id):
            raise InvalidParam(f"'{name}' must be an object of user IDs")
        if not isinstance(value, kind):
            raise BadJson(f"'{name}' must be {meaning}")
    return found


def _patience(body: dict[str, Any]) -> float:
    """Seconds that other servers are waited for."""
    wanted_ms = reading.integer(body, "timeout", low=0)
    return device_keys.PATIENCE if wanted_ms is None else min(wanted_ms / 1000, LONGEST_WAIT)


@route(
    "POST",
    "/_matrix/client/v3/keys/query",
    auth=Auth.GUEST,
    limit=Limit.KEYS,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3keysquery",
)
async def query(server: Server, request: Request) -> dict[str, Any]:
    """The public keys of users and their devices."""
    body = request.json()
    seconds = _patience(body)
    wanted = _by_user(body, "device_keys", list, "an object of arrays of device IDs")
    if len(wanted) > device_keys.MAX_USERS:
        raise InvalidParam(f"Ask for the keys of at most {device_keys.MAX_USERS} users at once")
    if not all(isinstance(device_id, str) for devices in wanted.values() for device_id in devices):
        raise BadJson("'device_keys' must be an object of arrays of device IDs")
    return await device_keys.query(server, request.caller, wanted, seconds)


@route(
    "POST",
    "/_matrix/client/v3/keys/claim",
    auth=Auth.GUEST,
    limit=Limit.KEYS,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3keysclaim",
)
async def claim(server: Server, request: Request) -> dict[str, Any]:
    """A one-time key of each of some devices."""
    body = request.json()
    seconds = _patience(body)
    meaning = "an object of objects of algorithms"
    by_user = _by_user(body, "one_time_keys", dict, meaning)
    wanted = []
    for user_id, devices in by_user.items():
        for device_id, algorithm in devices.items():
            if not isinstance(algorithm, str):
                raise BadJson(f"'one_time_keys' must be {meaning}")
            if identifiers.is_device_id(device_id) and "\0" not in algorithm:  # nobody has another
                wanted.append(one_time_keys.Wanted(user_id, device_id, algorithm))
    if len(wanted) > one_time_keys.MAX_CLAIMS:
        raise InvalidParam(f"Claim at most {one_time_keys.MAX_CLAIMS} keys at once")
    return await one_time_keys.claim(server, request.caller, wanted, seconds)


@route(
    "GET",
    "/_matrix/client/v3/keys/changes",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3keyschanges",
)
async def changes(_: Server, request: Request) -> dict[str, Any]:
    """The users whose keys changed between two tokens of `/sync`."""
    since, upto = (tokens.parse(request.query.require(name)) for name in ("from", "to"))
    caller, node = request.caller, request.caller.node
    await node.start()
    if epochs.is_past(caller, since):
        return {"changed": await device_lists.everybody(node, caller.user_nid), "left": []}
    changed, left = await device_lists.changed(node, caller.user_nid, since.position, upto.position)
    return {"changed": changed, "left": left}


@route(
    "POST",
    "/_matrix/client/v3/keys/device_signing/upload",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#post_matrixclientv3keysdevice_signingupload",
)
async def upload_signing_keys(server: Server, request: Request) -> dict[str, Any]:
    """Publish the caller's cross-signing keys; replacing some has to be confirmed."""
    body, caller = request.json(), request.caller
    keys = {
        usage: key for name, usage in cross_signing.FIELDS.items() if (key := reading.mapping(body, name)) is not None
    }
    try:
        await cross_signing.upload(server, caller, keys, confirmed=caller.service is not None)
    except cross_signing.AuthenticationNeeded:
        await _confirm_reset(server, request)
        await cross_signing.upload(server, caller, keys, confirmed=True)
    return {}


async def _confirm_reset(server: Server, request: Request) -> None:
    """By password, or by a page of ours where the client signed in by one, or the user has no password.

    spec: client-server-api/#oauth-authentication
    """
    caller, body = request.caller, request.json()
    if not caller.oauth and await passwords.has_password(caller):
        operation = Operation(request.method, request.path, caller.user_id)
        await interactive.require(server, operation, interactive.BY_PASSWORD, body)
        return
    query = urlencode({"action": "org.matrix.cross_signing_reset", "device_id": caller.device_id})
    url = {"url": f"{server.settings.base_url}{ACCOUNT}?{query}"}
    stages = (interactive.OAUTH, "org.matrix.cross_signing_reset")  # COMPAT(matrix-js-sdk, 2025): its name before
    operation = Operation(request.method, request.path, caller.user_id, params=dict.fromkeys(stages, url))
    flows = [(stage,) for stage in stages]
    await interactive.require(server, operation, flows, body, confirmed=lambda: resets.use(server, caller))


@route(
    "POST",
    "/_matrix/client/v3/keys/signatures/upload",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#post_matrixclientv3keyssignaturesupload",
)
async def upload_signatures(server: Server, request: Request) -> dict[str, Any]:
    """Publish signatures of the caller under their own keys and other users' master keys."""
    body = request.json()
    signed: dict[str, dict[str, dict[str, Any]]] = {}
    for user_id, keys in body.items():
        if not identifiers.is_user_id(user_id):
            raise InvalidParam("The body must be an object of user IDs")
        if not isinstance(keys, dict) or not all(isinstance(key, dict) for key in keys.values()):
            raise BadJson("The body must be an object of objects of signed objects")
        signed[user_id] = keys
    if sum(map(len, signed.values())) > cross_signing.MAX_SIGNATURES:
        raise InvalidParam(f"Upload at most {cross_signing.MAX_SIGNATURES} signed objects at once")
    return {"failures": await cross_signing.add_signatures(server, request.caller, signed)}
