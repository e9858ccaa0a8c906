"""Keys: ours, and as a notary those of other servers. spec: server-server-api/#retrieving-server-keys"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation import server_keys
from homeserver.protocol.errors import BadJson, InvalidParam
from homeserver.protocol.identifiers import is_server_name
from homeserver.web import reading
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route("GET", "/_matrix/key/v2/server", auth=Auth.NONE, spec="server-server-api/#get_matrixkeyv2server")
async def own(server: Server, request: Request) -> dict[str, Any]:
    """The keys of this server."""
    return server_keys.own_document(server)


@route(
    "GET",
    "/_matrix/key/v2/query/{serverName}",
    auth=Auth.NONE,
    spec="server-server-api/#get_matrixkeyv2queryservername",
)
async def query(server: Server, request: Request) -> dict[str, Any]:
    """The keys of one server."""
    wanted = request.query.integer("minimum_valid_until_ts", None, low=0)
    return {"server_keys": await server_keys.vouch(server, {_name(request.args["serverName"]): wanted})}


@route("POST", "/_matrix/key/v2/query", auth=Auth.NONE, spec="server-server-api/#post_matrixkeyv2query")
async def query_many(server: Server, request: Request) -> dict[str, Any]:
    """The keys of several servers. Which of their keys is asked for makes no difference: all are told."""
    asked = reading.mapping(request.json(), "server_keys", required=True)
    return {"server_keys": await server_keys.vouch(server, {_name(name): _moment(asked[name]) for name in asked})}


def _name(text: str) -> str:
    if not is_server_name(text):
        raise InvalidParam("That is not a server name")
    return text


def _moment(criteria: Any) -> int | None:
    """The latest moment up to which one of the keys should hold. Raises BadJson."""
    if not isinstance(criteria, dict) or not all(isinstance(each, dict) for each in criteria.values()):
        raise BadJson("The criteria of a server must be an object of objects")
    moments = [each["minimum_valid_until_ts"] for each in criteria.values() if "minimum_valid_until_ts" in each]
    if not all(isinstance(moment, int) and not isinstance(moment, bool) for moment in moments):
        raise BadJson("'minimum_valid_until_ts' must be an integer")
    return max(moments, default=None)
