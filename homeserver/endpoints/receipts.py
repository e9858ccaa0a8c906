"""Receipts and read markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol import identifiers
from homeserver.protocol.errors import InvalidParam
from homeserver.push import unread
from homeserver.rooms import presence, receipts
from homeserver.rooms.receipts import Reading
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}",
    auth=Auth.USER,
    limit=Limit.EPHEMERAL,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid",
)
async def receipt(server: Server, request: Request) -> dict[str, Any]:
    """Say that an event was read."""
    kind = request.args["receiptType"]
    if kind not in receipts.KINDS:
        raise InvalidParam(f"A receipt is of one of the types {', '.join(receipts.KINDS)}")
    thread_id = _thread_id(request.json(required=False), kind)
    await _mark(server, request, [Reading(kind, _event_id(request.args["eventId"]), thread_id)])
    return {}


@route(
    "POST",
    "/_matrix/client/v3/rooms/{roomId}/read_markers",
    auth=Auth.USER,
    limit=Limit.EPHEMERAL,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3roomsroomidread_markers",
)
async def read_markers(server: Server, request: Request) -> dict[str, Any]:
    """Move the fully read marker, and receipts with it."""
    body = request.json()
    found = {kind: reading.text(body, kind) for kind in receipts.KINDS}
    await _mark(
        server, request, [Reading(kind, _event_id(event)) for kind, event in found.items() if event is not None]
    )
    return {}


async def _mark(server: Server, request: Request, readings: list[Reading]) -> None:
    caller = request.caller
    await receipts.mark_read(server, caller, request.args["roomId"], readings, unread.forget)
    presence.active(server, caller)


def _event_id(text: str) -> str:
    if not identifiers.is_event_id(text):
        raise InvalidParam("That is no event ID: they begin with $")
    return text


def _thread_id(body: dict[str, Any], kind: str) -> str:
    """The thread of a receipt. Each fault of it is M_INVALID_PARAM."""
    if "thread_id" not in body:
        return receipts.UNTHREADED
    thread_id = body["thread_id"]
    if not isinstance(thread_id, str) or not thread_id:
        raise InvalidParam("'thread_id' must be a string that is not empty")
    if kind == "m.fully_read":
        raise InvalidParam("The fully read marker belongs to no thread")
    return thread_id if thread_id == receipts.MAIN else _event_id(thread_id)
