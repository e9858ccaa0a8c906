"""What anybody may know of the residency policy in force: which version it is, and the key that signed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.residency.changes import history
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route("GET", "/_domicile/v1/residency/version", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def residency_version(server: Server, request: Request) -> dict[str, Any]:
    """The serial, hash and time of the policy in force, and the deployment's key for such records."""
    return await history.in_force(server)
