"""What application services alone may ask: to be pinged, and to publish rooms in the directories of their networks.

spec: application-service-api/#client-server-api-extensions
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.application_services import ping as pinging
from homeserver.protocol.errors import Forbidden, MissingParam
from homeserver.rooms import public
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from config.application_services import ApplicationService
    from homeserver.context import Server
    from homeserver.web.messages import Request


def _service(request: Request) -> ApplicationService:
    """The application service that calls. Raises Forbidden for anybody else."""
    service = request.caller.service
    if service is None:
        raise Forbidden("Only an application service may do this, by its own token")
    return service


@route(
    "POST",
    "/_matrix/client/v1/appservice/{appserviceId}/ping",
    auth=Auth.USER,
    limit=Limit.REQUEST,
    spec="application-service-api/#post_matrixclientv1appserviceappserviceidping",
)
async def ping(server: Server, request: Request) -> dict[str, Any]:
    """Ask the calling service whether it is there."""
    service = _service(request)
    if service.id != request.args["appserviceId"]:
        raise Forbidden("That is not the application service whose token this is")
    transaction_id = reading.text(request.json(required=False), "transaction_id")
    return {"duration_ms": await pinging.ping(server, service, transaction_id)}


@route(
    "PUT",
    "/_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}",
    auth=Auth.USER,
    also=["r0"],
    spec="application-service-api/#put_matrixclientv3directorylistappservicenetworkidroomid",
)
async def set_visibility(server: Server, request: Request) -> dict[str, Any]:
    """Put a room into the directory of a network of the calling service, or take it out."""
    service = _service(request)
    wanted = reading.choice(request.json(), "visibility", ("public", "private"))
    if wanted is None:
        raise MissingParam("'visibility' is missing")
    args = request.args
    await public.set_visibility_in_network(server, service, args["networkId"], args["roomId"], wanted == "public")
    return {}
