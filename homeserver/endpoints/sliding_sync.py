"""Sliding sync, in the two forms that there are.

The stable form is accepted for the specification and in none of its versions yet; today's clients speak the other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.endpoints import sliding_request
from homeserver.rooms import presence
from homeserver.sync.sliding import answering
from homeserver.sync.sliding.request import Form
from homeserver.web import reading
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

PRESENCE: Final = ("offline", "online", "unavailable")


@route(
    "POST",
    "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
    auth=Auth.GUEST,
    long_poll=True,
)
async def unstable(server: Server, request: Request) -> Response:
    """What has changed for the rooms in the client's sight, with the position in the query."""
    query, caller = request.query, request.caller
    wish = sliding_request.wish(
        Form.UNSTABLE,
        caller,
        request.json(required=False),
        sliding_request.pos(query.get("pos")),
        query.integer("timeout", 0, low=0),
    )
    await presence.seen(server, caller, query.choice("set_presence", PRESENCE, "online"))
    return spliced(*await answering.answer(server, caller, wish))


@route("POST", "/_matrix/client/v4/sync", auth=Auth.GUEST, long_poll=True)
async def stable(server: Server, request: Request) -> Response:
    """What has changed for the rooms in the client's sight, with the position in the body."""
    caller, body = request.caller, request.json(required=False)
    wish = sliding_request.wish(
        Form.STABLE,
        caller,
        body,
        sliding_request.pos(reading.text(body, "pos")),
        reading.integer(body, "timeout", low=0) or 0,
    )
    await presence.seen(server, caller, reading.choice(body, "set_presence", PRESENCE, "online") or "online")
    return spliced(*await answering.answer(server, caller, wish))
