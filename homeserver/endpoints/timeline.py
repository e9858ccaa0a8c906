"""Reading a room's timeline: pages of it, one event, an event with what surrounds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.rooms import epochs, gaps, history, moments, readable, showing, sight, tokens
from homeserver.sync import filters
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.sync.filters import EventFilter
    from homeserver.web.messages import Request


def _limit(server: Server, request: Request, chosen: EventFilter | None) -> int:
    """How many events are asked for: by the request itself, or else by its filter."""
    usual = 10 if chosen is None or chosen.limit is None else chosen.limit
    return min(request.query.integer("limit", usual, low=0), server.settings.limits.page_size)


@route(
    "GET",
    "/_matrix/client/v3/rooms/{roomId}/messages",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3roomsroomidmessages",
)
async def messages(server: Server, request: Request) -> Response:
    """A page of the timeline, backwards or forwards from a token."""
    query, caller = request.query, request.caller
    query.require("dir")
    backwards = query.choice("dir", ("b", "f"), "b") == "b"
    chosen = filters.of_events(query.get("filter"))
    limit = _limit(server, request, chosen)
    room, seen = await readable.reader(server, caller, request.args["roomId"])
    since, to = query.get("from"), query.get("to")
    edge = caller.node.position if backwards else sight.BEGINNING
    start = edge if since is None else await epochs.place(caller, room.nid, since, backwards=backwards)
    end = None if to is None else await epochs.place(caller, room.nid, to, backwards=not backwards)
    wanted = None if chosen is None else chosen.within(room.room_id)
    if backwards:
        page = await gaps.page(server, caller.node, room, seen, start=start, to=end, limit=limit, wanted=wanted)
    else:
        page = await history.page(
            caller.node, room, seen, start=start, to=end, backwards=False, limit=limit, wanted=wanted
        )
    shown = await showing.show_all(server, caller, room, seen, page.events)
    parts = [
        b'{"start":"%s","chunk":' % (since or tokens.between(page.start, caller.epoch)).encode(),
        showing.array(shown),
    ]
    if page.end is not None:
        parts.append(b',"end":"%s"' % tokens.between(page.end, caller.epoch).encode())
    if chosen is not None and chosen.lazy_members:
        senders = {event.sender for event in page.events}
        parts += [b',"state":', await readable.members_shown(server, caller, room, seen, senders)]
    return spliced(*parts, b"}")


@route(
    "GET",
    "/_matrix/client/v3/rooms/{roomId}/event/{eventId}",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3roomsroomideventeventid",
)
async def event(server: Server, request: Request) -> Response:
    """One event."""
    room, seen = await readable.reader(server, request.caller, request.args["roomId"])
    found = await history.find(request.caller.node, room, seen, request.args["eventId"])
    return spliced(*await showing.show_all(server, request.caller, room, seen, [found]))


@route(
    "GET",
    "/_matrix/client/v3/rooms/{roomId}/context/{eventId}",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3roomsroomidcontexteventid",
)
async def context(server: Server, request: Request) -> Response:
    """An event, what came before and after it, and the state at the last of them."""
    query, caller = request.query, request.caller
    chosen = filters.of_events(query.get("filter"))
    limit = _limit(server, request, chosen)
    room, seen = await readable.reader(server, caller, request.args["roomId"])
    wanted = None if chosen is None else chosen.within(room.room_id)
    found = await history.find(caller.node, room, seen, request.args["eventId"])
    before = await gaps.page(
        server, caller.node, room, seen, start=found.pos - 1, to=None, limit=limit // 2, wanted=wanted
    )
    after = await history.page(
        caller.node, room, seen, start=found.pos, to=None, backwards=False, limit=limit - limit // 2, wanted=wanted
    )
    last = after.events[-1] if after.events else found
    senders = None
    if chosen is not None and chosen.lazy_members:
        senders = {each.sender for each in [*before.events, found, *after.events]}
    state = await readable.state_at(server, caller, room, seen, last.pos, senders, wanted)
    (shown,) = await showing.show_all(server, caller, room, seen, [found])
    start = before.end if before.end is not None else before.start
    end = after.end if after.end is not None else caller.node.position
    return spliced(
        b'{"start":"%s","end":"%s","event":'
        % (tokens.between(start, caller.epoch).encode(), tokens.between(end, caller.epoch).encode()),
        shown,
        b',"events_before":',
        showing.array(await showing.show_all(server, caller, room, seen, before.events)),
        b',"events_after":',
        showing.array(await showing.show_all(server, caller, room, seen, after.events)),
        b',"state":',
        state,
        b"}",
    )


@route(
    "GET",
    "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event",
    auth=Auth.USER,
    spec="client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event",
)
async def timestamp_to_event(server: Server, request: Request) -> dict[str, Any]:
    """The event nearest to a moment."""
    query, caller = request.query, request.caller
    query.require("ts")
    query.require("dir")
    moment = query.integer("ts", 0)
    backwards = query.choice("dir", ("b", "f"), "b") == "b"
    room, seen = await readable.reader(server, caller, request.args["roomId"])
    found = await moments.nearest(server, caller.node, room, seen, moment, backwards=backwards)
    return {"event_id": found.event_id, "origin_server_ts": found.ts}
