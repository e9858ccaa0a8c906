"""Profiles. spec: client-server-api/#profiles"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import profile
from homeserver.protocol.errors import MissingParam
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

WHOLE_BEFORE: Final = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}"
BEFORE: Final = WHOLE_BEFORE + "/{keyName}"
"""COMPAT(Element, 2025): where profiles with fields were before they were specified."""


@route(
    "GET",
    "/_matrix/client/v3/profile/{userId}",
    auth=Auth.OPTIONAL,
    spec="client-server-api/#get_matrixclientv3profileuserid",
    also=("r0", WHOLE_BEFORE),
)
async def whole(server: Server, request: Request) -> dict[str, Any]:
    """A whole profile."""
    caller = request.caller_or_none
    return await profile.fields(server, request.args["userId"], None if caller is None else caller.node)


@route(
    "GET",
    "/_matrix/client/v3/profile/{userId}/{keyName}",
    auth=Auth.OPTIONAL,
    spec="client-server-api/#get_matrixclientv3profileuseridkeyname",
    also=("r0", BEFORE),
)
async def field(server: Server, request: Request) -> dict[str, Any]:
    """One field of a profile."""
    args, caller = request.args, request.caller_or_none
    return await profile.one_field(server, args["userId"], args["keyName"], None if caller is None else caller.node)


@route(
    "PUT",
    "/_matrix/client/v3/profile/{userId}/{keyName}",
    auth=Auth.GUEST,
    limit=Limit.PROFILE,
    spec="client-server-api/#put_matrixclientv3profileuseridkeyname",
    also=("r0", BEFORE),
    unless_suspended=True,
)
async def set_field(server: Server, request: Request) -> dict[str, Any]:
    """Set a field of the caller's profile."""
    request.caller.must_be(request.args["userId"])
    name, body = request.args["keyName"], request.json()
    profile.check_name(name)
    if name not in body:
        raise MissingParam(f"Missing parameter: {name}")
    await profile.set_field(server, request.caller, name, body[name])
    return {}


@route(
    "DELETE",
    "/_matrix/client/v3/profile/{userId}/{keyName}",
    auth=Auth.GUEST,
    limit=Limit.PROFILE,
    spec="client-server-api/#delete_matrixclientv3profileuseridkeyname",
    also=(BEFORE,),
    unless_suspended=True,
)
async def delete_field(server: Server, request: Request) -> dict[str, Any]:
    """Remove a field of the caller's profile."""
    request.caller.must_be(request.args["userId"])
    await profile.delete_field(server, request.caller, request.args["keyName"])
    return {}
