"""The first half of coming into a room, or going out of it, through a server that is in it: its template, our event.

Of a template only what the room's graph needs is believed: who, where and what the event says is ours to say.

spec: server-server-api/#joining-rooms
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import structlog

from config.residency import DataClass
from federation import reach
from federation.remote import RemoteRefusal, ask_for
from homeserver.protocol import events, identifiers, versions
from homeserver.protocol.errors import (
    BadJson,
    FlowDenied,
    Forbidden,
    IncompatibleRoomVersion,
    LimitExceeded,
    NotFound,
    Refusal,
    ServerUnreachable,
    TooLarge,
    UnableToAuthoriseJoin,
    UnableToGrantJoin,
    UnsupportedRoomVersion,
)
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.membership_rules import AUTHORISED_VIA
from homeserver.rooms import references

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.storage.nodes import Node

MOST_SERVERS: Final = 8
"""Servers that are tried, one after the other."""
TEMPLATE_BYTES: Final = 128 * 1024
TEMPLATE_SECONDS: Final = 15.0
"""How long each server may think about a template, while a user waits."""

log = structlog.get_logger("federation")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Template:
    """What another server says an event would look like: its place in the graph, and who vouches for a join."""

    rules: RoomRules
    prev_events: Sequence[str]
    auth_events: Sequence[str]
    hashes: Mapping[str, str]
    depth: int
    authoriser: str | None


class BadAnswer(Exception):
    """Another server's answer is not what it should be; the reason is for the log."""


async def ask_template(
    server: Server, node: Node, destination: str, room_id: str, user_id: str, membership: str
) -> Template:
    """Ask a server that is in a room for a template. ``membership``: ``join``, ``leave`` or ``knock``.

    Raises FlowDenied, ServerUnreachable, RemoteRefusal, BadAnswer.
    spec: server-server-api/#get_matrixfederationv1make_joinroomiduserid
    """
    target = f"/_matrix/federation/v1/make_{membership}/{quote(room_id, safe='')}/{quote(user_id, safe='')}"
    if membership != "leave":
        target += "?" + urlencode([("ver", version) for version in versions.VERSIONS])
    answer = await ask_for(
        server, node, DataClass.EVENTS, destination, "GET", target, most=TEMPLATE_BYTES, seconds=TEMPLATE_SECONDS
    )
    return _template(answer, room_id, user_id, membership)


async def hand_in(
    server: Server, node: Node, destination: str, route: str, event: Event, *, most: int
) -> dict[str, Any]:
    """Give a server the event that was made after its template; its answer. ``route``: such as ``v2/send_leave``.

    Raises FlowDenied, ServerUnreachable, RemoteRefusal.
    """
    room_id, event_id = quote(event.room_id, safe=""), quote(event.event_id, safe="")
    target = f"/_matrix/federation/{route}/{room_id}/{event_id}"
    return await ask_for(server, node, DataClass.EVENTS, destination, "PUT", target, event.pdu_bytes(), most=most)


def _template(answer: Mapping[str, Any], room_id: str, user_id: str, membership: str) -> Template:
    event = answer.get("event")
    content = event.get("content") if isinstance(event, dict) else None
    if not isinstance(event, dict) or not isinstance(content, dict):
        raise BadAnswer("the template is none")
    said = (event.get("type"), event.get("room_id"), event.get("sender"), event.get("state_key"))
    if said != (MEMBER, room_id, user_id, user_id) or content.get("membership") != membership:
        raise BadAnswer("the template is for something else")
    try:
        rules = versions.rules_of(answer.get("room_version", versions.VERSION_IF_ABSENT))
    except UnsupportedRoomVersion:
        raise BadAnswer("the template is for an unknown room version") from None
    depth = event.get("depth")
    if type(depth) is not int or depth < 0:
        raise BadAnswer("the template has no depth")
    prev_events, hashes = _references(rules, event.get("prev_events"))
    auth_events, more_hashes = _references(rules, event.get("auth_events"))
    authoriser = content.get(AUTHORISED_VIA)
    if authoriser is not None and not identifiers.is_user_id(authoriser):
        raise BadAnswer("the template names nobody who vouches")
    return Template(rules, prev_events, auth_events, {**hashes, **more_hashes}, depth, authoriser)


def _references(rules: RoomRules, listed: object) -> tuple[list[str], dict[str, str]]:
    """The event ids of a list of references, and their hashes where the room version has them there."""
    if not isinstance(listed, list):
        raise BadAnswer("the template has no place in the graph")
    if rules.event_id_is_hash:
        if not all(map(identifiers.is_event_id, listed)):
            raise BadAnswer("the template refers to what are no events")
        return listed, {}
    hashes = {}
    for pair in listed:
        digests = pair[1] if isinstance(pair, list) and len(pair) == 2 else None
        if not isinstance(digests, dict) or not isinstance(digests.get("sha256"), str):
            raise BadAnswer("the template refers to what are no events")
        if not identifiers.is_event_id(pair[0]):
            raise BadAnswer("the template refers to what are no events")
        hashes[pair[0]] = digests["sha256"]
    return list(hashes), hashes


def fill(server: Server, template: Template, room_id: str, user_id: str, content: Mapping[str, Any]) -> Event:
    """Our event in the place of a template, hashed and signed. Raises BadAnswer when that is no event."""
    said = {key: value for key, value in content.items() if key != AUTHORISED_VIA}
    if template.authoriser is not None:
        said[AUTHORISED_VIA] = template.authoriser
    try:
        return events.build(
            template.rules,
            type=MEMBER,
            sender=user_id,
            room_id=room_id,
            content=said,
            state_key=user_id,
            prev_events=template.prev_events,
            auth_events=template.auth_events,
            depth=template.depth,
            origin_server_ts=server.clock.now_ms(),
            reference_hashes=template.hashes,
            event_id=references.new_event_id(template.rules, server.name),
            server_name=server.name,
            key=server.identity.key,
        )
    except (BadJson, TooLarge) as error:
        raise BadAnswer(f"the template makes no event: {error.message}") from None


# several servers ----------------------------------------------------------------------------


async def by_any(server: Server, via: Sequence[str], attempt: Callable[[str], Awaitable[T]]) -> T:
    """What ``attempt`` returns for the first server of ``via`` for which it raises none of BadAnswer, RemoteRefusal,
    ServerUnreachable and FlowDenied; those are tried last that could not be reached a short while ago. Raises the most
    telling refusal when there is no such server.
    """
    failures = Failures()
    for destination in reach.away_last(server, [name for name in via if name != server.name])[:MOST_SERVERS]:
        try:
            return await attempt(destination)
        except (BadAnswer, RemoteRefusal, ServerUnreachable, FlowDenied) as fault:
            failures.add(destination, fault)
    raise failures.refusal()


class Failures:
    """What several servers answered that did not help; `refusal` is what the user is told of it."""

    def __init__(self) -> None:
        self._found: list[Refusal] = []

    def add(self, destination: str, fault: Refusal | RemoteRefusal | BadAnswer) -> None:
        """Note what one server answered."""
        if isinstance(fault, BadAnswer):
            log.warning("a server gave a bad answer", server=destination, reason=str(fault))
            self._found.append(ServerUnreachable(f"{destination} gave an answer that cannot be used"))
        elif isinstance(fault, RemoteRefusal):
            log.info("a server refused", server=destination, status=fault.status, errcode=fault.errcode)
            self._found.append(_told(destination, fault))
        else:
            self._found.append(fault)

    def refusal(self) -> Refusal:
        """The most telling of them."""
        if not self._found:
            return NotFound("No server is known that is in that room")
        return min(self._found, key=lambda refusal: _RANKS.get(type(refusal), 2))


_TOLD: Final[Mapping[str, tuple[type[Refusal], str]]] = {
    "M_FORBIDDEN": (Forbidden, "{} does not allow it"),
    "M_INVITE_BLOCKED": (Forbidden, "{} does not take that invitation"),
    "M_NOT_FOUND": (NotFound, "{} does not know that room"),
    "M_INCOMPATIBLE_ROOM_VERSION": (IncompatibleRoomVersion, "This server does not support the version of that room"),
    "M_UNABLE_TO_AUTHORISE_JOIN": (UnableToAuthoriseJoin, "{} cannot tell whether you may join"),
    "M_UNABLE_TO_GRANT_JOIN": (UnableToGrantJoin, "{} cannot let you in"),
}
_RANKS: Final[Mapping[type[Refusal], int]] = {
    Forbidden: 0,
    IncompatibleRoomVersion: 0,
    FlowDenied: 0,
    UnableToAuthoriseJoin: 1,
    UnableToGrantJoin: 1,
    NotFound: 3,
}


def _told(destination: str, fault: RemoteRefusal) -> Refusal:
    if fault.status == 429:
        return LimitExceeded(60_000)
    known = _TOLD.get(fault.errcode)
    if known is None:
        return ServerUnreachable(f"{destination} could not answer")
    kind, text = known
    return kind(text.format(destination))
