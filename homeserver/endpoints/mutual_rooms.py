"""The rooms that two users share."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.identifiers import is_compliant_user_id
from homeserver.rooms import acquaintance
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

PATH = "/_matrix/client/v1/mutual_rooms"
BEFORE = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"


@route("GET", BEFORE, auth=Auth.USER, limit=Limit.DIRECTORY)
async def mutual_rooms_before(server: Server, request: Request) -> dict[str, Any]:
    """The same under the names from before it was specified. COMPAT(matrix-js-sdk, 43): knows no others."""
    answer = await _shared(server, request, "batch_token")
    if "next_batch" in answer:
        answer["next_batch_token"] = answer.pop("next_batch")
    return answer


@route("GET", PATH, auth=Auth.USER, limit=Limit.DIRECTORY, spec="client-server-api/#get_matrixclientv1mutual_rooms")
async def mutual_rooms(server: Server, request: Request) -> dict[str, Any]:
    """The rooms that the caller and another user have both joined."""
    return await _shared(server, request, "from")


async def _shared(server: Server, request: Request, token: str) -> dict[str, Any]:
    """The rooms, behind what the parameter ``token`` says."""
    other, since = request.query.require("user_id"), request.query.get(token)
    if not is_compliant_user_id(other):
        raise InvalidParam("user_id is no user ID")
    if other == request.caller.user_id:
        raise InvalidParam("user_id is your own")
    after = "" if since is None else _read(since)
    found = await acquaintance.mutual_rooms(request.caller, other, after, server.settings.limits.page_size)
    answer: dict[str, Any] = {"joined": found.room_ids, "count": found.total}
    if found.more:
        answer["next_batch"] = base64.urlsafe_b64encode(found.room_ids[-1].encode()).decode()
    return answer


def _read(token: str) -> str:
    """The room id behind which a page begins. Raises InvalidParam."""
    try:
        room_id = base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError):
        room_id = ""
    if not room_id.startswith("!") or "\0" in room_id:
        raise InvalidParam("That is no token of this server")
    return room_id
