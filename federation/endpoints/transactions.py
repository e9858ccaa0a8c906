"""Transactions: how other servers bring events and what is fleeting. spec: server-server-api/#transactions"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation import inbound
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "PUT",
    "/_matrix/federation/v1/send/{txnId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#put_matrixfederationv1sendtxnid",
)
async def send(server: Server, request: Request) -> dict[str, Any]:
    """Take in what another server sends."""
    return await inbound.receive(server, request.origin, request.args["txnId"], request.json())
