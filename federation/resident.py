"""What we do for servers that are not in a room as one that is: templates of member events, and taking them in.

The room's access control list and the residency policy are asked before anything about the room is said.

spec: server-server-api/#joining-rooms
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from federation.pdu_checks import Dropped, check_pdus
from homeserver.protocol import events
from homeserver.protocol.errors import (
    BadJson,
    Forbidden,
    IncompatibleRoomVersion,
    InvalidParam,
    NotFound,
    TooLarge,
    UnableToAuthoriseJoin,
    UnableToGrantJoin,
)
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS
from homeserver.protocol.identifiers import domain_of, is_user_id
from homeserver.protocol.membership_rules import AUTHORISED_VIA, authorising_server
from homeserver.protocol.power_levels import Levels
from homeserver.residency import gate, traffic
from homeserver.rooms import acl, doors, joining, proposals, state
from homeserver.rooms.handed_in import place

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node

VOUCHED_FOR: Final = ("restricted", "knock_restricted")


async def room_for(server: Server, origin: str, room_id: str) -> tuple[Node, Room]:
    """A room that we are in, for another server that is let into it. Raises NotFound, Forbidden, NodeUnavailable."""
    home = await server.nodes.of_room(room_id)
    if home is not None:
        traffic.concerns(home)
    room = None if home is None else await state.find(home, room_id)
    if home is None or room is None or not room.head.nodes:
        raise NotFound("This server is not in that room")
    if not await acl.lets_in(home, room, origin):
        raise Forbidden("The room's access control list does not let your server in")
    await state.require(home, room, [CREATE])
    return home, room


def check_span(server: Server, home: Node, room: Room, origin: str) -> set[str]:
    """Raise FlowDenied unless the room may span the origin too, beside all nodes and servers that are in it.

    Returns the jurisdictions that the origin adds to it.
    """
    places = doors.reached(server, home, room.head.nodes, room.head.servers)
    added = {server.policy.now.jurisdiction_of_server(origin)} - places
    gate.check_room(server, places | added)
    return added


async def template(
    server: Server, origin: str, room_id: str, user_id: str, kind: str, versions: Collection[str] | None
) -> dict[str, Any]:
    """The answer to a request for a template of a user's own member event; ``versions``: those that the origin knows.

    Raises Forbidden, NotFound, IncompatibleRoomVersion, FlowDenied, UnableToAuthoriseJoin, UnableToGrantJoin.
    spec: server-server-api/#get_matrixfederationv1make_joinroomiduserid
    """
    if not is_user_id(user_id) or domain_of(user_id) != origin:
        raise Forbidden("That is no user of your server")
    home, room = await room_for(server, origin, room_id)
    if versions is not None and room.rules.version not in versions:
        raise IncompatibleRoomVersion(
            "Your server does not support the version of this room", room_version=room.rules.version
        )
    content: dict[str, Any] = {"membership": kind}
    if kind != "leave":
        check_span(server, home, room, origin)
    if kind == "join":
        authoriser = await _authoriser(server, home, room, user_id)
        content |= {} if authoriser is None else {AUTHORISED_VIA: authoriser}
    event = await proposals.template(server, home, room, user_id, content)
    return {"room_version": room.rules.version, "event": {**event, "origin": server.name}}


async def take(
    server: Server, origin: str, room_id: str, event_id: str, pdu: Mapping[str, Any], kind: str
) -> tuple[Node, Room, Event, StoredEvent]:
    """Put a member event of another server's user into a room for them.

    Returns the room on its home node, the event as it is passed on, and its row. A policy server of the room that is
    slow is waited for a few seconds, by this event alone. Raises InvalidParam, Forbidden, NotFound, FlowDenied,
    UnableToAuthoriseJoin, UnableToGrantJoin, ServerUnreachable, LimitExceeded, NodeUnavailable.
    spec: server-server-api/#put_matrixfederationv2send_joinroomideventid
    """
    home, room = await room_for(server, origin, room_id)
    claimed = _read(room, pdu)
    _check_form(claimed, origin, kind)
    if claimed.event_id != event_id:
        raise InvalidParam("The event has another ID than the request says")
    if kind != "leave":
        check_span(server, home, room, origin)
    if kind == "join" and authorising_server(room.rules, claimed) == server.name:
        await _authoriser(server, home, room, claimed.sender)
        claimed = claimed.signed_too(server.name, server.identity.key)
    (event,) = await check_pdus(server, room.rules, room_id, [claimed.pdu()])
    if isinstance(event, Dropped):
        raise InvalidParam(f"The event is not accepted: {event.reason}")
    return home, room, event, await place(server, home, event)


def _read(room: Room, pdu: Mapping[str, Any]) -> Event:
    try:
        return events.from_pdu(room.rules, pdu)
    except (BadJson, TooLarge) as error:
        raise InvalidParam(f"The event is none: {error.message}") from None


def _check_form(event: Event, origin: str, kind: str) -> None:
    said = event.content.get("membership")
    if event.type != MEMBER or said != kind or event.state_key != event.sender or domain_of(event.sender) != origin:
        raise InvalidParam(f"The event is no {kind} of a user of your server")


# restricted rooms -----------------------------------------------------------------------------


async def _authoriser(server: Server, home: Node, room: Room, user_id: str) -> str | None:
    """Who of ours vouches for a join to a restricted room; None where nobody has to.

    spec: server-server-api/#restricted-rooms
    """
    await state.require(home, room, [CREATE, JOIN_RULES, POWER_LEVELS])
    rules = room.head.event(JOIN_RULES)
    if rules is None or rules.content.get("join_rule") not in VOUCHED_FOR or not room.rules.restricted_join:
        return None
    if room.head.membership(user_id) in ("invite", "join"):
        return None
    await _check_conditions(server, rules.content.get("allow"), user_id)
    levels = Levels(room.rules, room.head.event(CREATE), room.head.event(POWER_LEVELS))
    found = joining.inviter_among(server, room, levels)
    if found is None:
        raise UnableToGrantJoin("Nobody on this server may let users into this room")
    return found


async def _check_conditions(server: Server, allow: object, user_id: str) -> None:
    """Raise unless the user meets one of the conditions, as far as we can see."""
    unseen = False
    for condition in allow if isinstance(allow, list) else []:
        if not isinstance(condition, dict) or condition.get("type") != "m.room_membership":
            continue
        other = condition.get("room_id")
        home = await server.nodes.of_room(other) if isinstance(other, str) else None
        room = None if home is None or not isinstance(other, str) else await state.find(home, other)
        if room is None or not room.now.nodes:
            unseen = True
        elif room.now.membership(user_id) == "join":
            return
    if unseen:
        raise UnableToAuthoriseJoin("This server is not in the rooms whose members may join this one")
    raise Forbidden("You are in none of the rooms whose members may join this one")


async def preview(home: Node, room: Room, user_id: str) -> list[bytes]:
    """What a user who knocks may see of a room, as canonical JSON of events in federation format."""
    return await proposals.preview(home, room, user_id)
