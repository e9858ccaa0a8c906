"""The policy server that this one can be for rooms. spec: server-server-api/#policy-servers"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from federation import policy_servers
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

MOST_BYTES: Final = 256 * 1024
"""An event of 64 KiB, however it is written."""


@route(
    "POST",
    "/_matrix/policy/v1/sign",
    auth=Auth.SIGNED,
    spec="server-server-api/#post_matrixpolicyv1sign",
    body=MOST_BYTES,
)
async def sign(server: Server, request: Request) -> dict[str, Any]:
    """Our signature of an event that we recommend."""
    return await policy_servers.sign(server, request.origin, request.json(exact=True))
