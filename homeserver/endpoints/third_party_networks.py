"""Third-party networks, as application services describe them. spec: client-server-api/#third-party-networks"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.application_services import third_party
from homeserver.application_services.third_party import LOCATION, USER
from homeserver.protocol import identifiers
from homeserver.web.limits import Limit
from homeserver.web.messages import json_response
from homeserver.web.routes import Auth, F, route

if TYPE_CHECKING:
    from collections.abc import Callable

    from homeserver.context import Server
    from homeserver.web.messages import Request, Response

PATH = "/_matrix/client/v3/thirdparty"
OWN = frozenset(("access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"))
"""Parameters that are for this server, and say nothing of what is looked for."""


@route(
    "GET",
    PATH + "/protocols",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3thirdpartyprotocols",
)
async def protocols(server: Server, _: Request) -> dict[str, Any]:
    """All protocols."""
    return await third_party.protocols(server)


@route(
    "GET",
    PATH + "/protocol/{protocol}",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol",
)
async def protocol(server: Server, request: Request) -> dict[str, Any]:
    """One protocol."""
    return await third_party.protocol(server, request.args["protocol"])


def _search(path: str, *, spec: str) -> Callable[[F], F]:
    """The route of a question that may cost services a search of their own."""
    return route("GET", PATH + path, auth=Auth.USER, limit=Limit.DIRECTORY, also=["r0"], spec=spec)


async def _look_up(server: Server, request: Request, kind: str) -> Response:
    fields = [(name, value) for name, value in request.query.pairs() if name not in OWN]
    return json_response(await third_party.look_up(server, kind, request.args["protocol"], fields))


@_search("/location/{protocol}", spec="client-server-api/#get_matrixclientv3thirdpartylocationprotocol")
async def locations(server: Server, request: Request) -> Response:
    """The rooms that lead to a place of a network."""
    return await _look_up(server, request, LOCATION)


@_search("/user/{protocol}", spec="client-server-api/#get_matrixclientv3thirdpartyuserprotocol")
async def users(server: Server, request: Request) -> Response:
    """The users who stand for somebody of a network."""
    return await _look_up(server, request, USER)


@_search("/location", spec="client-server-api/#get_matrixclientv3thirdpartylocation")
async def location_of(server: Server, request: Request) -> Response:
    """The places to which a room alias leads."""
    alias = request.query.require("alias")
    identifiers.parse_room_alias(alias)
    return json_response(await third_party.leads_to(server, LOCATION, alias))


@_search("/user", spec="client-server-api/#get_matrixclientv3thirdpartyuser")
async def user_of(server: Server, request: Request) -> Response:
    """For whom a user stands."""
    user_id = request.query.require("userid")
    identifiers.parse_user_id(user_id)
    return json_response(await third_party.leads_to(server, USER, user_id))
