"""Third-party invites: with other servers, and with identity servers. spec: server-server-api/#third-party-invites"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation import third_party
from homeserver.protocol.errors import InvalidParam, MissingParam
from homeserver.protocol.identifiers import is_user_id
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "PUT",
    "/_matrix/federation/v1/exchange_third_party_invite/{roomId}",
    auth=Auth.SIGNED,
    limit=Limit.INVITE_FROM_SERVER,
    spec="server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid",
)
async def exchange(server: Server, request: Request) -> dict[str, Any]:
    """Invite a user of the asking server, who was invited here by an address of theirs."""
    await third_party.exchange(server, request.origin, request.args["roomId"], request.json())
    return {}


@route(
    "PUT",
    "/_matrix/federation/v1/3pid/onbind",
    auth=Auth.NONE,
    spec="server-server-api/#put_matrixfederationv13pidonbind",
)
async def bound(server: Server, request: Request) -> dict[str, Any]:
    """Take note of where a user was invited by an address that is theirs. The address itself is not kept."""
    body = request.json()
    missing = [name for name in ("medium", "address", "mxid", "invites") if name not in body]
    if missing:
        raise MissingParam(f"'{missing[0]}' is missing")
    if not is_user_id(body["mxid"]) or not isinstance(body["invites"], list):
        raise InvalidParam("'mxid' must be a user ID and 'invites' an array")
    await third_party.bound(server, body["mxid"], body["invites"])
    return {}
