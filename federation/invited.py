"""Invitations of other servers to users of ours: checked, signed, and kept for the invited on their node.

An invitation is shown only when it is what its server signed, the policy lets a room span both, the invited take
invitations, and they are not flooded with them.

spec: server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from federation import previews
from federation.pdu_checks import Dropped, check_pdus
from homeserver.protocol import client_format, events, versions
from homeserver.protocol.errors import (
    BadJson,
    FlowDenied,
    Forbidden,
    IncompatibleRoomVersion,
    InvalidParam,
    InviteBlocked,
    LimitExceeded,
    NotFound,
    TooLarge,
    UnsupportedRoomVersion,
)
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.identifiers import domain_of
from homeserver.residency import gate, traffic
from homeserver.rooms import acl, blocking, doors, invitations, nearby
from homeserver.web.limits import Bucket, Limit, Limits

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.storage.nodes import Node

ENDED: Final = ("leave", "ban")


async def accept(
    server: Server, origin: str, room_id: str, event_id: str, version: object, pdu: object, preview: object
) -> Event:
    """Check an invitation, sign it and show it to the invited; returns it with our signature.

    Raises IncompatibleRoomVersion, InvalidParam, Forbidden, FlowDenied, InviteBlocked, LimitExceeded, NotFound for who
    is none of our users, NodeUnavailable.
    """
    counter = server.telemetry.counter(
        "domicile_federation_invitations", "Invitations of other servers, by what became of them.", ["outcome"]
    )
    try:
        event = await _accept(server, origin, room_id, event_id, version, pdu, preview)
    except (FlowDenied, InviteBlocked, LimitExceeded) as refusal:
        counter.inc(_OUTCOMES[type(refusal)])
        raise
    except (IncompatibleRoomVersion, InvalidParam, Forbidden, NotFound):
        counter.inc("refused")
        raise
    counter.inc("accepted")
    return event


_OUTCOMES: Final = {FlowDenied: "flow_denied", InviteBlocked: "blocked", LimitExceeded: "limited"}


async def _accept(
    server: Server, origin: str, room_id: str, event_id: str, version: object, pdu: object, preview: object
) -> Event:
    if not isinstance(version, str):
        raise BadJson("'room_version' must be a string")
    try:
        rules = versions.rules_of(version)
    except UnsupportedRoomVersion:
        raise IncompatibleRoomVersion(
            "This server does not support the version of that room", room_version=version
        ) from None
    event = _read(server, rules, origin, room_id, event_id, pdu)
    invited = event.state_key or ""
    _charge(server, Limit.INVITE_FROM_USER, event.sender)  # first: who asks for many learns nothing of any
    home = await server.nodes.of_user(invited)
    if home is None:
        raise NotFound("There is no such user here")
    await _check_room(server, home, origin, room_id, invited)
    await blocking.check(server, invited, event.sender)
    _charge(server, Limit.INVITED, invited)
    await _check_signed(server, rules, origin, event)
    try:
        shown = await previews.checked(server, rules, room_id, preview, whole=True)
    except previews.BadPreview as fault:
        raise InvalidParam(str(fault)) from None
    signed = event.signed_too(server.name, server.identity.key)
    if await nearby.present(server, home, room_id) is None:
        seen = previews.array([*shown, client_format.stripped(event.client)])
        await invitations.keep(server, home, signed, seen)
    return signed


def _read(server: Server, rules: RoomRules, origin: str, room_id: str, event_id: str, pdu: object) -> Event:
    if not isinstance(pdu, dict):
        raise InvalidParam("There is no event")
    try:
        event = events.from_pdu(rules, pdu)
    except (BadJson, TooLarge) as error:
        raise InvalidParam(f"The event is none: {error.message}") from None
    if event.type != MEMBER or event.content.get("membership") != "invite" or event.state_key is None:
        raise InvalidParam("The event is no invitation")
    if domain_of(event.sender) != origin or domain_of(event.state_key) != server.name:
        raise InvalidParam("The event is no invitation of a user of your server to a user of this one")
    if event.room_id != room_id or event.event_id != event_id:
        raise InvalidParam("The event has another ID, or another room, than the request says")
    return event


async def _check_room(server: Server, home: Node, origin: str, room_id: str, invited: str) -> None:
    """What we know of the room, and what the policy says of it. Raises Forbidden, FlowDenied."""
    traffic.concerns(home)
    policy = server.policy.now
    places = {home.jurisdiction, policy.jurisdiction_of_server(origin)}
    found = await nearby.present(server, home, room_id)
    if found is not None:
        node, room = found
        if not await acl.lets_in(node, room, origin):
            raise Forbidden("The room's access control list does not let your server in")
        if room.head.membership(invited) in ("join", "ban"):
            raise Forbidden("That user is in the room already, or banned from it")
        places |= {server.nodes[name].jurisdiction for name in doors.spanned(room.head, room)}
        places |= {policy.jurisdiction_of_server(name) for name in room.head.servers}
    gate.check_room(server, places)


async def _check_signed(server: Server, rules: RoomRules, origin: str, event: Event) -> None:
    if "third_party_invite" in event.content and origin not in event.signatures:
        raise InvalidParam("The invitation is not signed by your server")
    (result,) = await check_pdus(server, rules, event.room_id, [event.pdu()])
    if isinstance(result, Dropped):
        raise InvalidParam(f"The invitation is not accepted: {result.reason}")


class _Floods:
    """How many invitations each user of another server has sent here, and each user of ours was sent by other servers
    (``directory.memory(_Floods)``). How many a server sends is counted by the routes."""

    def __init__(self) -> None:
        self.limits: Limits | None = None


def _charge(server: Server, limit: Limit, user_id: str) -> None:
    """Count an invitation of, or to, a user. Raises LimitExceeded."""
    if not server.settings.rate_limits.enabled:
        return
    floods = server.nodes.directory.memory(_Floods)
    if floods.limits is None:
        limits = server.settings.rate_limits
        kept = {Limit.INVITED: limits.invited, Limit.INVITE_FROM_USER: limits.invite_from_user}
        buckets: dict[str, Bucket] = {name: Bucket(each.per_second, each.burst) for name, each in kept.items()}
        floods.limits = Limits(buckets, server.clock.monotonic)
    floods.limits.charge(limit, user_id)


# what becomes of it -----------------------------------------------------------------------------


async def ended(server: Server, event: Event, *, kept: bool = True) -> bool:
    """Take in that somebody outside ends an invitation, or refuses a knock, of a user of ours who is not in the room.

    The event's signatures have been checked; that it may be believed is shown by its citing the very invitation or
    knock, which nobody outside the room has seen but us. ``kept``: the event may rest here; else only that it ended
    what it did is taken in. False when it ends none.
    """
    invited = event.state_key or ""
    if event.type != MEMBER or event.content.get("membership") not in ENDED or event.sender == invited:
        return False
    home = await server.nodes.of_user(invited)
    if home is None or await nearby.present(server, home, event.room_id) is not None:
        return False
    held = await invitations.cited(home, invited, event)
    if held is None:
        return False
    if not kept:
        event = await invitations.answer(server, home, held, {"membership": "leave"})
    await invitations.keep(server, home, event, None)
    return True
