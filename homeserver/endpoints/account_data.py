"""Account data and tags. spec: client-server-api/#client-config, client-server-api/#room-tagging"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import account_data
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "PUT",
    "/_matrix/client/v3/user/{userId}/account_data/{type}",
    auth=Auth.USER,
    spec="client-server-api/#put_matrixclientv3useruseridaccount_datatype",
    also=("r0",),
)
async def put(server: Server, request: Request) -> dict[str, Any]:
    """Set an entry of the account."""
    request.caller.must_be(request.args["userId"])
    await account_data.put(server, request.caller, request.args["type"], request.json())
    return {}


@route(
    "GET",
    "/_matrix/client/v3/user/{userId}/account_data/{type}",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3useruseridaccount_datatype",
    also=("r0",),
)
async def find(server: Server, request: Request) -> Response:
    """An entry of the account."""
    request.caller.must_be(request.args["userId"])
    return Response(200, await account_data.find(request.caller, request.args["type"]))


@route(
    "PUT",
    "/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}",
    auth=Auth.USER,
    spec="client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype",
    also=("r0",),
)
async def put_in_room(server: Server, request: Request) -> dict[str, Any]:
    """Set an entry of a room."""
    args = request.args
    request.caller.must_be(args["userId"])
    await account_data.put(server, request.caller, args["type"], request.json(), args["roomId"])
    return {}


@route(
    "GET",
    "/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3useruseridroomsroomidaccount_datatype",
    also=("r0",),
)
async def find_in_room(server: Server, request: Request) -> Response:
    """An entry of a room."""
    args = request.args
    request.caller.must_be(args["userId"])
    return Response(200, await account_data.find(request.caller, args["type"], args["roomId"]))


@route("DELETE", "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}", auth=Auth.USER)
async def delete(server: Server, request: Request) -> dict[str, Any]:
    """Delete an entry of the account; not specified yet."""
    request.caller.must_be(request.args["userId"])
    await account_data.delete(server, request.caller, request.args["type"])
    return {}


@route(
    "DELETE",
    "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}",
    auth=Auth.USER,
)
async def delete_in_room(server: Server, request: Request) -> dict[str, Any]:
    """Delete an entry of a room; not specified yet."""
    args = request.args
    request.caller.must_be(args["userId"])
    await account_data.delete(server, request.caller, args["type"], args["roomId"])
    return {}


@route(
    "GET",
    "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv3useruseridroomsroomidtags",
    also=("r0",),
)
async def tags(server: Server, request: Request) -> dict[str, Any]:
    """The tags of a room."""
    request.caller.must_be(request.args["userId"])
    return {"tags": await account_data.tags(request.caller, request.args["roomId"])}


@route(
    "PUT",
    "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}",
    auth=Auth.USER,
    spec="client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag",
    also=("r0",),
)
async def put_tag(server: Server, request: Request) -> dict[str, Any]:
    """Tag a room."""
    args = request.args
    request.caller.must_be(args["userId"])
    await account_data.put_tag(server, request.caller, args["roomId"], args["tag"], request.json(required=False))
    return {}


@route(
    "DELETE",
    "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}",
    auth=Auth.USER,
    spec="client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag",
    also=("r0",),
)
async def delete_tag(server: Server, request: Request) -> dict[str, Any]:
    """Remove a tag."""
    args = request.args
    request.caller.must_be(args["userId"])
    await account_data.delete_tag(server, request.caller, args["roomId"], args["tag"])
    return {}
