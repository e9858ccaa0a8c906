"""The caller's phone numbers and addresses. No identity server is told of them.

spec: client-server-api/#adding-account-administrative-contact-information
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import contacts, interactive
from homeserver.accounts.interactive import Operation
from homeserver.protocol.errors import ServerNotTrusted
from homeserver.protocol.threepids import identifier
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/client/v3/account/3pid",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3account3pid",
    also=("r0",),
)
async def threepids(server: Server, request: Request) -> dict[str, Any]:
    """What belongs to the account."""
    return {"threepids": await contacts.of_caller(request.caller)}


@route(
    "POST",
    "/_matrix/client/v3/account/3pid/add",
    auth=Auth.USER,
    limit=Limit.LOGIN,
    spec="client-server-api/#post_matrixclientv3account3pidadd",
    also=("r0",),
)
async def add(server: Server, request: Request) -> dict[str, Any]:
    """Add what was verified to the account."""
    return await _add(server, request, request.json())


@route(
    "POST",
    "/_matrix/client/v3/account/3pid",
    auth=Auth.USER,
    limit=Limit.LOGIN,
    spec="client-server-api/#post_matrixclientv3account3pid",
    also=("r0",),
)
async def add_as_before(server: Server, request: Request) -> dict[str, Any]:
    """Add what was verified here to the account, as clients did before there was a route for that alone.

    It asks for the password as that does: who has an address of an account can set its password.
    """
    return await _add(server, request, reading.mapping(request.json(), "three_pid_creds", required=True))


async def _add(server: Server, request: Request, credentials: Mapping[str, Any]) -> dict[str, Any]:
    caller = request.caller
    client_secret = reading.text(credentials, "client_secret", required=True)
    sid = reading.text(credentials, "sid", required=True)
    interactive.check_legacy(caller)
    operation = Operation(request.method, request.path, caller.user_id)
    await interactive.require(server, operation, await interactive.by_owner(caller), request.json())
    await contacts.add(server, caller, sid, client_secret)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/account/3pid/bind",
    auth=Auth.USER,
    spec="client-server-api/#post_matrixclientv3account3pidbind",
    also=("r0",),
)
async def bind(server: Server, request: Request) -> dict[str, Any]:
    """Refused: what an identity server publishes leaves the owner's jurisdiction."""
    body = request.json()
    for name in ("client_secret", "id_server", "id_access_token", "sid"):
        reading.text(body, name, required=True)
    raise ServerNotTrusted("This server publishes nobody's address with an identity server")


@route(
    "POST",
    "/_matrix/client/v3/account/3pid/unbind",
    auth=Auth.USER,
    spec="client-server-api/#post_matrixclientv3account3pidunbind",
    also=("r0",),
)
async def unbind(server: Server, request: Request) -> dict[str, Any]:
    """Nothing was ever bound through this server."""
    _named(request)
    return {"id_server_unbind_result": "no-support"}


@route(
    "POST",
    "/_matrix/client/v3/account/3pid/delete",
    auth=Auth.USER,
    spec="client-server-api/#post_matrixclientv3account3piddelete",
    also=("r0",),
    unless_suspended=True,
)
async def delete(server: Server, request: Request) -> dict[str, Any]:
    """Remove an identifier from the account, or find it removed."""
    await contacts.remove(server, request.caller, identifier(*_named(request)))
    return {"id_server_unbind_result": "no-support"}


def _named(request: Request) -> tuple[str, str]:
    body = request.json()
    reading.text(body, "id_server")
    return reading.text(body, "medium", required=True), reading.text(body, "address", required=True)
