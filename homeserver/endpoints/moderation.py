"""Administrators: locking and suspending accounts, and what devices a user has.

That the caller administers the server is checked before anything is looked up. What they change is written into the log
of administration.

spec: client-server-api/#server-administration
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import administration, devices
from homeserver.control import recording
from homeserver.protocol.errors import Forbidden, InvalidParam
from homeserver.web import reading
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

LOCK = "/_matrix/client/v1/admin/lock/{userId}"
SUSPEND = "/_matrix/client/v1/admin/suspend/{userId}"


@route("GET", LOCK, auth=Auth.ADMIN, spec="client-server-api/#get_matrixclientv1adminlockuserid")
async def is_locked(server: Server, request: Request) -> dict[str, Any]:
    """Whether an account is locked."""
    return {"locked": (await administration.moderated(server, request.caller, request.args["userId"])).locked}


@route("PUT", LOCK, auth=Auth.ADMIN, spec="client-server-api/#put_matrixclientv1adminlockuserid")
async def lock(server: Server, request: Request) -> dict[str, Any]:
    """Lock an account, or unlock it."""
    locked = reading.boolean(request.json(), "locked", required=True)
    caller, user_id = request.caller, request.args["userId"]
    async with recording.moderating(server, caller, "user-lock", user_id, locked=locked).around():
        await administration.moderate(server, caller, user_id, administration.set_locked, locked)
    return {"locked": locked}


@route("GET", SUSPEND, auth=Auth.ADMIN, spec="client-server-api/#get_matrixclientv1adminsuspenduserid")
async def is_suspended(server: Server, request: Request) -> dict[str, Any]:
    """Whether an account is suspended."""
    return {"suspended": (await administration.moderated(server, request.caller, request.args["userId"])).suspended}


@route("PUT", SUSPEND, auth=Auth.ADMIN, spec="client-server-api/#put_matrixclientv1adminsuspenduserid")
async def suspend(server: Server, request: Request) -> dict[str, Any]:
    """Suspend an account, or end that."""
    suspended = reading.boolean(request.json(), "suspended", required=True)
    caller, user_id = request.caller, request.args["userId"]
    async with recording.moderating(server, caller, "user-suspend", user_id, suspended=suspended).around():
        await administration.moderate(server, caller, user_id, administration.set_suspended, suspended)
    return {"suspended": suspended}


@route(
    "GET",
    "/_matrix/client/v3/admin/whois/{userId}",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3adminwhoisuserid",
    also=("r0",),
)
async def whois(server: Server, request: Request) -> dict[str, Any]:
    """The devices of the caller, or of anybody for an administrator. Of addresses nothing is said, for nobody here can
    read them; on which day a device was used last, its owner is told, and nobody else."""
    user_id, caller = request.args["userId"], request.caller
    if user_id != caller.user_id and not caller.admin:
        raise Forbidden("Only administrators of this server may do this")
    if not server.nodes.is_local(user_id):
        raise InvalidParam("That is not a user of this server")
    if user_id == caller.user_id:
        mine = await devices.shown(server, caller)
        days = {device["device_id"]: device.get("last_seen_ts") for device in mine}
    else:
        days = {device.device_id: None for device in (await administration.show(server, user_id)).devices}
    return {"user_id": user_id, "devices": {device_id: _sessions(day) for device_id, day in days.items()}}


def _sessions(last_seen: int | None) -> dict[str, Any]:
    return {"sessions": [{"connections": [] if last_seen is None else [{"last_seen": last_seen}]}]}
