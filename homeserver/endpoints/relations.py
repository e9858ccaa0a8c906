"""What relates to an event, and the threads of a room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.rooms import epochs, readable, relating, showing, sight, tokens
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

USUAL = 20
"""Events of a page when the client does not say."""


def _limit(server: Server, request: Request) -> int:
    return min(request.query.integer("limit", USUAL, low=1), server.settings.limits.page_size)


@route(
    "GET",
    "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv1roomsroomidrelationseventid",
)
async def related(server: Server, request: Request) -> Response:
    """The events that relate to an event."""
    return await _related(server, request, None, None)


@route(
    "GET",
    "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltype",
)
async def related_so(server: Server, request: Request) -> Response:
    """The events that relate to an event in one way."""
    return await _related(server, request, request.args["relType"], None)


@route(
    "GET",
    "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype",
)
async def related_so_of_a_type(server: Server, request: Request) -> Response:
    """The events of a type that relate to an event in one way."""
    return await _related(server, request, request.args["relType"], request.args["eventType"])


async def _related(server: Server, request: Request, rel_type: str | None, kind: str | None) -> Response:
    query, caller = request.query, request.caller
    backwards = query.choice("dir", ("b", "f"), "b") == "b"
    recursive = query.boolean("recurse")
    since, to = query.get("from"), query.get("to")
    edge = caller.node.position if backwards else sight.BEGINNING
    room, seen = await readable.reader(server, caller, request.args["roomId"])
    page, depth = await relating.page(
        caller.node,
        room,
        seen,
        relating.Asked(request.args["eventId"], rel_type, kind, recursive),
        start=edge if since is None else await epochs.place(caller, room.nid, since, backwards=backwards),
        to=None if to is None else await epochs.place(caller, room.nid, to, backwards=not backwards),
        backwards=backwards,
        limit=_limit(server, request),
    )
    parts = [b'{"chunk":', showing.array(await showing.show_all(server, caller, room, seen, page.events))]
    if page.end is not None:
        parts.append(b',"next_batch":"%s"' % tokens.between(page.end, caller.epoch).encode())
    if since is not None:
        parts.append(b',"prev_batch":"%s"' % tokens.between(page.start, caller.epoch).encode())
    if query.get("recurse") is not None:
        parts.append(b',"recursion_depth":%d' % depth)
    return spliced(*parts, b"}")


@route(
    "GET",
    "/_matrix/client/v1/rooms/{roomId}/threads",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv1roomsroomidthreads",
)
async def threads(server: Server, request: Request) -> Response:
    """The threads of a room, the one with the newest event first."""
    query, caller = request.query, request.caller
    since = query.get("from")
    participated = query.choice("include", ("all", "participated"), "all") == "participated"
    room, seen = await readable.reader(server, caller, request.args["roomId"])
    found = await relating.threads(
        caller.node,
        room,
        seen,
        start=caller.node.position if since is None else await epochs.place(caller, room.nid, since),
        limit=_limit(server, request),
        participant=caller.user_id if participated else None,
    )
    parts = [b'{"chunk":', showing.array(await showing.show_all(server, caller, room, seen, found.roots))]
    if found.end is not None:
        parts.append(b',"next_batch":"%s"' % tokens.between(found.end, caller.epoch).encode())
    return spliced(*parts, b"}")
