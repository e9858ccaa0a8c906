"""What clients need for calls: a relay for those of two, a media server for those of many.

spec: client-server-api/#voice-over-ip
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import calls
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/client/v3/voip/turnServer",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3voipturnserver",
    also=("r0",),
)
async def turn_server(server: Server, request: Request) -> dict[str, Any]:
    """The TURN server, with a password for it that holds for a while. Raises NotFound when there is none."""
    return calls.turn_credentials(server, request.caller.user_id)


@route("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", auth=Auth.USER)
async def transports(server: Server, request: Request) -> dict[str, Any]:
    """The services through which clients reach a media server; not specified yet."""
    return {"rtc_transports": calls.transports(server)}
