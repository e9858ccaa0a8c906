"""The deployment as a witness of the logs of others, for everybody (C2SP tlog-witness)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.signed_notes import InvalidNote
from homeserver.protocol.witnessing import SIZE_TYPE, Elsewhere, NotSigned
from homeserver.transparency import witnessing
from homeserver.web.limits import Limit
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

TEXT: Final = "text/plain; charset=utf-8"


@route("POST", "/_domicile/v1/witness/add-checkpoint", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def add_checkpoint(server: Server, request: Request) -> Response:
    """Sign a checkpoint, if it goes on from the last one of that log that was signed here.

    The size of a witness that is elsewhere is answered as C2SP has it; other refusals are errors as anywhere here.
    """
    try:
        return Response(200, await witnessing.sign(server, request.body), content_type=TEXT)
    except InvalidNote as fault:
        raise InvalidParam(str(fault)) from None
    except Elsewhere as fault:
        return Response(fault.status, f"{fault.size}\n".encode(), content_type=SIZE_TYPE)
    except NotSigned as fault:
        return Response(fault.status, orjson.dumps({"errcode": fault.errcode, "error": str(fault)}))


@route("GET", "/_domicile/v1/witness", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def overview(server: Server, request: Request) -> dict[str, Any]:
    """What this deployment signs with as a witness, and how far each log was signed."""
    return await witnessing.overview(server)


@route("GET", "/_domicile/v1/witness/{log}/checkpoint", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def checkpoint(server: Server, request: Request) -> Response:
    """The newest checkpoint of a log that was signed here; the log is named by the SHA-256 of its origin."""
    return Response(200, await witnessing.checkpoint(server, request.args["log"]), content_type=TEXT)
