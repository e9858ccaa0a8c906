"""The key logs, for everybody: which there are, their checkpoints, and their tiles (C2SP tlog-tiles).

What stands under the path of a tile never changes, so it may be kept by whoever passes it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import tiles
from homeserver.protocol.errors import NotFound
from homeserver.transparency import proving, serving
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

FOR_EVER: Final = (("Cache-Control", "public, max-age=31536000, immutable"),)
FOR_A_MOMENT: Final = (("Cache-Control", "public, max-age=1"),)
BYTES: Final = "application/octet-stream"
TEXT: Final = "text/plain; charset=utf-8"

PARTS: Final = 6
"""Parts that the number of a tile has at most in a path, the width with it."""

_TILE: Final = "/_domicile/v1/key-log/{node}/tile/{level}/{part1}"
_LONGER: Final = [_TILE + "".join(f"/{{part{part}}}" for part in range(2, end + 1)) for end in range(2, PARTS + 1)]


@route("GET", "/_domicile/v1/key-log", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def logs(server: Server, request: Request) -> dict[str, Any]:
    """The logs of this deployment, one for each node, and the keys that they are believed by."""
    return await serving.overview(server)


@route("GET", "/_domicile/v1/key-log/me", auth=Auth.USER, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def my_name(server: Server, request: Request) -> dict[str, Any]:
    """What proves which leaves are about the caller: for whoever is to watch over their keys."""
    user_id = request.caller.user_id
    return {"user_id": user_id, "opening": proving.opening_of(server, user_id)}


@route("POST", "/_domicile/v1/key-log/proof", auth=Auth.NONE, limit=Limit.KEYS, resource=Resource.CLIENT)
async def proof(server: Server, request: Request) -> dict[str, Any]:
    """What the log says of a user now, for whoever knows the opening of their name: digests, and no keys."""
    body = request.json()
    user_id = reading.text(body, "user_id", required=True)
    return await proving.to_bearer(server, user_id, reading.text(body, "opening", required=True))


@route("GET", "/_domicile/v1/key-log/{node}/checkpoint", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def checkpoint(server: Server, request: Request) -> Response:
    """How far a log is, signed."""
    node = await serving.log_of(server, request.args["node"])
    return Response(200, await serving.checkpoint(server, node), FOR_A_MOMENT, content_type=TEXT)


@route("GET", _TILE, also=_LONGER, auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def tile(server: Server, request: Request) -> Response:
    """Hashes, or entries, of a log."""
    node = await serving.log_of(server, request.args["node"])
    parts = [request.args["level"], *(request.args.get(f"part{each}", "") for each in range(1, PARTS + 1))]
    wanted = tiles.read_path([part for part in parts if part])
    if wanted is None:
        raise NotFound("There is no such tile")
    return Response(200, await serving.tile(server, node, wanted), FOR_EVER, content_type=BYTES)
