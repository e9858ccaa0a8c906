"""For operators: is it well, and how much does it do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.runtime.telemetry import CONTENT_TYPE
from homeserver.web.limits import Limit
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route("GET", "/health", auth=Auth.NONE, limit=Limit.NONE)
async def health(server: Server, request: Request) -> dict[str, Any]:
    """200 as soon as the server answers; it does so for the other nodes while one is down, and says which."""
    down = sorted(node.name for node in server.nodes if not node.engine.health().up)
    return {"status": "degraded" if down else "ok", "nodes_down": down}


@route("GET", "/metrics", auth=Auth.NONE, limit=Limit.NONE)
async def metrics(server: Server, request: Request) -> Response:
    """The numbers of this server in the format of Prometheus."""
    return Response(200, await server.telemetry.answer(), content_type=CONTENT_TYPE)
