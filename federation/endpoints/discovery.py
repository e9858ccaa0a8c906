"""Where this server is reached by others, and what it runs. spec: server-server-api/#server-discovery"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import NotFound
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

_VERSION = version("domicile")


@route("GET", "/.well-known/matrix/server", auth=Auth.NONE, spec="server-server-api/#getwell-knownmatrixserver")
async def well_known(server: Server, request: Request) -> dict[str, Any]:
    """Whom this server delegates to. Raises NotFound when it is reached under its own name."""
    delegate = server.settings.federation.delegate_to
    if delegate is None:
        raise NotFound("This server delegates to no other name")
    return {"m.server": delegate}


@route(
    "GET",
    "/_matrix/federation/v1/version",
    auth=Auth.NONE,
    spec="server-server-api/#get_matrixfederationv1version",
)
async def implementation(server: Server, request: Request) -> dict[str, Any]:
    """Name and version of the implementation."""
    return {"server": {"name": "Domicile", "version": _VERSION}}
