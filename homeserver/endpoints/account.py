"""The caller's own account: who am I, password, closing it.

spec: client-server-api/#legacy-account-management
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import contacts, deactivation, interactive, letters, registration, validation
from homeserver.accounts.interactive import BY_PASSWORD, PASSWORD, STAGE_OF, Operation
from homeserver.accounts.letters import Purpose
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/client/v3/account/whoami",
    auth=Auth.GUEST,
    spec="client-server-api/#get_matrixclientv3accountwhoami",
    also=("r0",),
)
async def whoami(server: Server, request: Request) -> dict[str, Any]:
    """Whose access token this is."""
    caller = request.caller
    device = {"device_id": caller.device_id} if caller.device_id else {}  # an application service may have none
    return {"user_id": caller.user_id, **device, "is_guest": caller.guest}


@route(
    "POST",
    "/_matrix/client/v3/account/password",
    auth=Auth.OPTIONAL,
    limit=Limit.LOGIN,
    spec="client-server-api/#post_matrixclientv3accountpassword",
    also=("r0",),
)
async def change_password(server: Server, request: Request) -> dict[str, Any]:
    """Change the password, with or without being logged in."""
    body, caller = request.json(), request.caller_or_none
    new = reading.text(body, "new_password", required=True)
    log_out = reading.boolean(body, "logout_devices", default=True)
    if caller is not None:
        whose = await _authorise(server, request)
        await registration.change_own_password(server, whose, new, log_out=log_out, but=caller.device_id)
        return {}
    offered = [(stage,) for medium, stage in STAGE_OF.items() if letters.is_possible(server, medium)]
    operation = Operation(request.method, request.path, purpose=Purpose.PASSWORD)
    done = await interactive.require(server, operation, (*BY_PASSWORD, *offered), body)
    sids = [done[stage] for stage in STAGE_OF.values() if stage in done]
    whose = done[PASSWORD] if PASSWORD in done else await contacts.proved_owner(server, sids[0])
    await registration.change_own_password(server, whose, new, log_out=log_out)
    for sid in sids:
        validation.use(server, sid)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/account/deactivate",
    auth=Auth.OPTIONAL,
    limit=Limit.LOGIN,
    spec="client-server-api/#post_matrixclientv3accountdeactivate",
    also=("r0",),
)
async def deactivate(server: Server, request: Request) -> dict[str, Any]:
    """Close the account for ever. No identity server ever had anything of it, so there is nothing to unbind."""
    erase = reading.boolean(request.json(), "erase")
    whose = await _authorise(server, request)
    await deactivation.deactivate(server, whose, erase=erase)
    return {"id_server_unbind_result": "success"}


async def _authorise(server: Server, request: Request) -> str:
    """The user who has proved to own the account."""
    caller = request.caller_or_none
    if caller is not None:
        interactive.check_legacy(caller)
    operation = Operation(request.method, request.path, None if caller is None else caller.user_id)
    flows = BY_PASSWORD if caller is None else await interactive.by_owner(caller)
    done = await interactive.require(server, operation, flows, request.json())
    return next(iter(done.values()))
