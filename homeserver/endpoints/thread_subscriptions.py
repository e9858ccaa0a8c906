"""Following threads. Not specified yet (MSC4306, MSC4308)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.rooms import thread_subscriptions, tokens
from homeserver.rooms.thread_subscriptions import NEWEST
from homeserver.web import reading
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

SUBSCRIPTION: Final = "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription"
USUAL: Final = 100
"""Threads of a page when the client does not say."""


@route("PUT", SUBSCRIPTION, auth=Auth.USER)
async def subscribe(server: Server, request: Request) -> dict[str, Any]:
    """Follow a thread, by hand or because of an event in it."""
    cause = reading.text(request.json(), "automatic")
    args = request.args
    await thread_subscriptions.subscribe(server, request.caller, args["roomId"], args["threadRootId"], cause)
    return {}


@route("GET", SUBSCRIPTION, auth=Auth.USER)
async def find(server: Server, request: Request) -> dict[str, Any]:
    """Whether the caller follows a thread."""
    args = request.args
    return {"automatic": await thread_subscriptions.find(server, request.caller, args["roomId"], args["threadRootId"])}


@route("DELETE", SUBSCRIPTION, auth=Auth.USER)
async def unsubscribe(server: Server, request: Request) -> dict[str, Any]:
    """Stop following a thread."""
    args = request.args
    await thread_subscriptions.unsubscribe(server, request.caller, args["roomId"], args["threadRootId"])
    return {}


@route("GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions", auth=Auth.USER)
async def changes(server: Server, request: Request) -> dict[str, Any]:
    """What the caller said last of each thread, the newest first; with ``end`` there may be more behind it."""
    query = request.query
    query.choice("dir", ("b",), "b")
    limit = min(query.integer("limit", USUAL, low=1), server.settings.limits.page_size)
    to = query.get("to")
    after = tokens.parse(to).position if to is not None and "s" in to else tokens.position(to, 0)  # a `pos` goes too
    found = await thread_subscriptions.changes(request.caller, after, tokens.position(query.get("from"), NEWEST), limit)
    more = {"end": str(found[-1].held.pos)} if len(found) == limit else {}
    return {**thread_subscriptions.shown(found), **more}
