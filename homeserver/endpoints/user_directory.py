"""Finding users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.rooms import finding
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

USUAL = 10
"""Users of an answer when the client does not say."""


@route(
    "POST",
    "/_matrix/client/v3/user_directory/search",
    auth=Auth.USER,
    limit=Limit.DIRECTORY,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3user_directorysearch",
)
async def search(server: Server, request: Request) -> dict[str, Any]:
    """Users whose name or user id has a text in it."""
    body = request.json()
    term = reading.text(body, "search_term", required=True)
    limit = reading.integer(body, "limit", low=0)
    people, limited = await finding.users(request.caller, term, USUAL if limit is None else limit)
    return {"results": [person.shown() for person in people], "limited": limited}
