"""Sending to a room: messages, state, redactions; and reading its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.endpoints.delayed_events import DELAY, delay_of
from homeserver.endpoints.stickiness import sticky_of
from homeserver.protocol.client_format import content_of
from homeserver.protocol.errors import Forbidden, InvalidParam, UserSuspended
from homeserver.rooms import delayed, epochs, guests, history, presence, readable, say, showing
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.messages import Response, spliced
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.web.messages import Request

STATE = "/_matrix/client/v3/rooms/{roomId}/state"
LAST_MOMENT = 2**53 - 1
MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")


@route(
    "PUT",
    "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}",
    auth=Auth.GUEST,
    limit=Limit.MESSAGE,
    also=["r0"],
    spec="client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid",
)
async def send_message(server: Server, request: Request) -> dict[str, Any]:
    """Send a message event."""
    args = request.args
    room_id, kind, txn_id, content = args["roomId"], args["eventType"], args["txnId"], request.json()
    if request.caller.suspended:
        redacted = content.get("redacts") if kind == say.REDACTION and request.query.get(DELAY) is None else None
        if not isinstance(redacted, str):
            raise UserSuspended("You cannot send messages while your account is suspended")
        await _check_own(server, request.caller, room_id, redacted)
    delay, sticky_ms = delay_of(server, request), sticky_of(request)
    if delay is not None:
        asked = delayed.schedule(
            server, request.caller, room_id, kind, content, delay, txn_id=txn_id, sticky_ms=sticky_ms
        )
        return {"delay_id": await asked}
    moment = _moment(request)
    event_id = await say.send(server, request.caller, room_id, kind, txn_id, content, moment, sticky_ms)
    presence.active(server, request.caller)
    return {"event_id": event_id}


def _moment(request: Request) -> int | None:
    """When an application service says that it happened. spec: application-service-api/#timestamp-massaging"""
    if request.caller.service is None:
        return None
    ts = request.query.integer("ts", None, low=0)
    if ts is not None and ts > LAST_MOMENT:
        raise InvalidParam(f"'ts' is at most {LAST_MOMENT}")
    return ts


@route(
    "PUT",
    "/_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}",
    auth=Auth.USER,
    limit=Limit.MESSAGE,
    also=["r0"],
    spec="client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid",
)
async def redact(server: Server, request: Request) -> dict[str, Any]:
    """Redact an event."""
    reason = reading.text(request.json(required=False), "reason")
    args = request.args
    if request.caller.suspended:
        await _check_own(server, request.caller, args["roomId"], args["eventId"])
    event_id = await say.redact(server, request.caller, args["roomId"], args["eventId"], args["txnId"], reason)
    return {"event_id": event_id}


async def _check_own(server: Server, caller: Caller, room_id: str, event_id: str) -> None:
    """A suspended user takes back what they wrote themselves. spec: client-server-api/#account-suspension"""
    room, seen = await readable.reader(server, caller, room_id)
    if (await history.find(caller.node, room, seen, event_id)).sender != caller.user_id:
        raise UserSuspended("You cannot redact what others wrote while your account is suspended")


@route(
    "PUT",
    STATE + "/{eventType}/{stateKey}",
    auth=Auth.GUEST,
    limit=Limit.MESSAGE,
    also=["r0", STATE + "/{eventType}", STATE + "/{eventType}/"],
    spec="client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey",
)
async def set_state(server: Server, request: Request) -> dict[str, Any]:
    """Set an entry of a room's state."""
    args = request.args
    room_id, kind, state_key, content = args["roomId"], args["eventType"], args.get("stateKey", ""), request.json()
    if request.caller.suspended:
        leaves = (kind, state_key, content.get("membership")) == ("m.room.member", request.caller.user_id, "leave")
        if not leaves or request.query.get(DELAY) is not None:
            raise UserSuspended("You cannot do this while your account is suspended")
    if kind == "m.room.member":
        await guests.check(server, request.caller, room_id)
    delay, sticky_ms = delay_of(server, request), sticky_of(request)
    if delay is not None:
        asked = delayed.schedule(
            server, request.caller, room_id, kind, content, delay, state_key=state_key, sticky_ms=sticky_ms
        )
        return {"delay_id": await asked}
    event_id = await say.set_state(
        server, request.caller, room_id, kind, state_key, content, _moment(request), sticky_ms=sticky_ms
    )
    return {"event_id": event_id}


@route("GET", STATE, auth=Auth.GUEST, also=["r0"], spec="client-server-api/#get_matrixclientv3roomsroomidstate")
async def get_state(server: Server, request: Request) -> Response:
    """The state of a room: as it is, or as it was when the caller left."""
    room, seen = await readable.reader(server, request.caller, request.args["roomId"])
    rows = await readable.state_rows(request.caller.node, room, seen)
    now, room_id = server.clock.now_ms(), orjson.dumps(room.room_id)
    return spliced(showing.array([showing.show_stored(row, now, room_id=room_id) for row in rows]))


@route(
    "GET",
    STATE + "/{eventType}/{stateKey}",
    auth=Auth.GUEST,
    also=["r0", STATE + "/{eventType}", STATE + "/{eventType}/"],
    spec="client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey",
)
async def get_state_entry(server: Server, request: Request) -> Response:
    """One entry of the state: its content, or with ``format=event`` the whole event."""
    args = request.args
    form = request.query.choice("format", ("content", "event"), "content")
    room, seen = await readable.reader(server, request.caller, args["roomId"])
    row = await readable.state_entry(request.caller.node, room, seen, (args["eventType"], args.get("stateKey", "")))
    if form == "content":
        return spliced(content_of(row.client))
    return spliced(showing.show_stored(row, server.clock.now_ms(), room_id=orjson.dumps(room.room_id)))


@route(
    "GET",
    "/_matrix/client/v3/rooms/{roomId}/members",
    auth=Auth.GUEST,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3roomsroomidmembers",
)
async def members(server: Server, request: Request) -> Response:
    """The member events of a room, as it is or as it was at a token."""
    query = request.query
    at = query.get("at")
    wanted, unwanted = (query.choice(name, MEMBERSHIPS, None) for name in ("membership", "not_membership"))
    room, seen = await readable.reader(server, request.caller, request.args["roomId"])
    then = None if at is None else await epochs.place(request.caller, room.nid, at)
    rows = await readable.member_rows(request.caller.node, room, seen, then)
    now, room_id = server.clock.now_ms(), orjson.dumps(room.room_id)
    chunk = [
        showing.show_stored(row, now, room_id=room_id)
        for row in rows
        if readable.membership_passes(row, wanted, unwanted)
    ]
    return spliced(b'{"chunk":', showing.array(chunk), b"}")


@route(
    "GET",
    "/_matrix/client/v3/rooms/{roomId}/joined_members",
    auth=Auth.USER,
    also=["r0"],
    spec="client-server-api/#get_matrixclientv3roomsroomidjoined_members",
)
async def joined_members(server: Server, request: Request) -> dict[str, Any]:
    """Who is in a room, and how they call themselves there."""
    room, seen = await readable.reader(server, request.caller, request.args["roomId"])
    if seen.last[1] != "join":
        raise Forbidden("You are not in that room")
    joined = {}
    for row in await readable.member_rows(request.caller.node, room, seen, None):
        content = orjson.loads(content_of(row.client))
        if content.get("membership") == "join" and row.state_key is not None:
            known = {"display_name": content.get("displayname"), "avatar_url": content.get("avatar_url")}
            joined[row.state_key] = {name: value for name, value in known.items() if isinstance(value, str)}
    return {"joined": joined}
