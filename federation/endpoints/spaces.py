"""Our spaces for other servers. spec: server-server-api/#spaces"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import NotFound
from homeserver.protocol.identifiers import is_room_id
from homeserver.rooms import spaces
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/hierarchy/{roomId}",
    auth=Auth.SIGNED,
    spec="server-server-api/#get_matrixfederationv1hierarchyroomid",
)
async def hierarchy(server: Server, request: Request) -> dict[str, Any]:
    """A room of ours and the rooms in it, as far as the other server could get into them."""
    room_id = request.args["roomId"]
    if not is_room_id(room_id):
        raise NotFound("That is no room")
    return await spaces.for_server(server, request.origin, room_id, request.query.boolean("suggested_only"))
