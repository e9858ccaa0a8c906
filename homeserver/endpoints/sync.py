"""`/sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.rooms import presence, tokens
from homeserver.sync import classic, filters
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

# COMPAT(matrix-js-sdk, 43): asks under the second name only, and reads the state under that one.
STATE_AFTER = ("state_after", "org.matrix.msc4222.state_after")
"""How the state after the timeline may be called; with ``use_`` before it, the parameter that asks for it."""


@route(
    "GET",
    "/_matrix/client/v3/sync",
    auth=Auth.GUEST,
    also=["r0"],
    long_poll=True,
    spec="client-server-api/#get_matrixclientv3sync",
)
async def sync(server: Server, request: Request) -> Response:
    """What has changed since a token."""
    query, caller = request.query, request.caller
    since = query.get("since")
    wish = classic.Wish(
        None if since is None else tokens.parse(since),
        await filters.of_sync(caller, query.get("filter")),
        query.boolean("full_state"),
        query.integer("timeout", 0, low=0),
        next((name for name in STATE_AFTER if query.boolean(name.replace("state_after", "use_state_after"))), None),
    )
    await presence.seen(server, caller, query.choice("set_presence", ("offline", "online", "unavailable"), "online"))
    return spliced(*await classic.sync(server, caller, wish))
