"""Asks the policy servers of rooms to sign events, and signs those of rooms whose policy server is this one.

spec: server-server-api/#policy-servers
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from config.residency import DataClass
from federation.pdu_checks import Dropped, check_pdus
from federation.remote import RemoteRefusal, ask_for
from federation.resident import room_for
from homeserver.protocol import events, policy_server, signing, versions
from homeserver.protocol.errors import (
    BadJson,
    Forbidden,
    LimitExceeded,
    NotFound,
    NotRecommended,
    ServerUnreachable,
    TooLarge,
    Unrecognized,
    UnsupportedRoomVersion,
)
from homeserver.protocol.event_view import CREATE
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.policy_server import KEY_ID, POLICY
from homeserver.rooms import recommendations, recommending, state
from homeserver.runtime.deadlines import within

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from homeserver.context import Server
    from homeserver.protocol.errors import Refusal
    from homeserver.protocol.events import Event
    from homeserver.protocol.policy_server import PolicyServer
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 64 * 1024
SECONDS: Final = 20.0
"""How long a policy server is waited for, all in all."""
MOST_AT_ONCE: Final = 100
"""Events about which one policy server is asked at the same time."""
RETRY_AFTER_MS: Final = 10_000
"""When those try again whose events were too many for a policy server."""


# asking --------------------------------------------------------------------------------------------


class Asked:
    """Events about which policy servers are being asked, by policy server (``node.memory(Asked)``)."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def one_more(self, name: str) -> Iterator[None]:
        """Ask about one more. Raises LimitExceeded when too many are under way: one that is slow shall not gather the
        requests of all its rooms."""
        if self._under_way[name] >= MOST_AT_ONCE:
            raise LimitExceeded(RETRY_AFTER_MS)
        self._under_way[name] += 1
        try:
            yield
        finally:
            self._under_way[name] -= 1
            if not self._under_way[name]:
                del self._under_way[name]


async def recommend(server: Server, node: Node, event: Event, policy: PolicyServer) -> Event:
    """See `context.Remote.recommend`. spec: server-server-api/#post_matrixpolicyv1sign"""
    try:
        with node.memory(Asked).one_more(policy.name):
            async with within(server.clock, SECONDS):
                answer = await _ask(server, node, event, policy)
    except TimeoutError:
        raise ServerUnreachable(f"{policy.name}, the policy server of this room, did not answer in time") from None
    except RemoteRefusal as refusal:
        raise _told(policy, refusal) from None
    given = answer.get(policy.name)
    text = given.get(KEY_ID) if isinstance(given, dict) else None
    if isinstance(text, str):
        signed = event.with_signature(policy.name, KEY_ID, text)
        covered = signing.event_signed_bytes(event.rules, signed.pdu())
        if policy_server.recommends(policy, covered, signed.signatures):
            return signed
    raise Forbidden("The policy server of this room does not recommend that event")


async def _ask(server: Server, node: Node, event: Event, policy: PolicyServer) -> dict[str, Any]:
    return await ask_for(
        server,
        node,
        DataClass.EVENTS,
        policy.name,
        "POST",
        "/_matrix/policy/v1/sign",
        event.pdu_bytes(),
        most=MOST_BYTES,
        seconds=SECONDS,
    )


def _told(policy: PolicyServer, refusal: RemoteRefusal) -> Refusal:
    """What a user is told of a policy server's error, in its own words where they are for the user.

    spec: server-server-api/#validating-policy-server-signatures
    """
    if refusal.status == 429:
        return LimitExceeded(RETRY_AFTER_MS)
    if refusal.errcode == Forbidden.errcode and refusal.words:
        return Forbidden(refusal.words)
    if refusal.status in (400, 403):
        return Forbidden("The policy server of this room does not recommend that event")
    return ServerUnreachable(f"{policy.name}, the policy server of this room, could not answer")


# being asked ---------------------------------------------------------------------------------------


async def sign(server: Server, origin: str, pdu: Mapping[str, Any]) -> dict[str, Any]:
    """Our signature of an event in federation format, as the policy server of its room, by server name and key id.

    Raises Unrecognized when this server is no policy server, NotFound when it is not that room's, Forbidden when the
    room's access control list shuts the origin out, BadJson for what is no event, NotRecommended, NodeUnavailable.

    spec: server-server-api/#post_matrixpolicyv1sign
    """
    if server.identity.policy_key is None:
        raise Unrecognized("This server is no policy server")
    try:
        home, room, policy = await _protected(server, origin, pdu)
        event = await _proved(server, origin, room, pdu)
        await recommending.check(server, home, room, event)
        signed = recommending.recommended(server, event, policy)
    except (NotFound, BadJson, Forbidden):
        _count(server, "refused")
        raise
    _count(server, "signed")
    return {server.name: {KEY_ID: signed.signatures[server.name][KEY_ID]}}


def _count(server: Server, outcome: str) -> None:
    server.telemetry.counter(
        "domicile_policy_server_answers", "Events that this server was asked to sign as a policy server.", ["outcome"]
    ).inc(outcome)


async def _protected(server: Server, origin: str, pdu: Mapping[str, Any]) -> tuple[Node, Room, PolicyServer]:
    """The room of what may be an event, on its home node, and what it says of this server."""
    home, room = await room_for(server, origin, _room_id(pdu))
    await state.require(home, room, [POLICY])
    policy = recommendations.in_use(server, room.head)
    if policy is None or recommending.key_for(server, room.room_id, policy) is None:
        raise NotFound("This server is not the policy server of that room")
    return home, room, policy


def _room_id(pdu: Mapping[str, Any]) -> str:
    """The room of an event, also of one that says it by its own id. Raises BadJson."""
    room_id, content = pdu.get("room_id"), pdu.get("content")
    if room_id is None and pdu.get("type") == CREATE[0] and isinstance(content, dict):
        try:
            return events.from_pdu(versions.rules_of_create(content), pdu).room_id
        except (UnsupportedRoomVersion, TooLarge):
            pass
    if not isinstance(room_id, str):
        raise BadJson("The event names no room")
    return room_id


async def _proved(server: Server, origin: str, room: Room, pdu: Mapping[str, Any]) -> Event:
    """The event, whole and of whom it says. Raises BadJson for what is none, NotRecommended for what is not proved.

    For an event of its own user a server vouches by asking; the signatures that others are to add may still be missing.
    """
    try:
        event = events.from_pdu(room.rules, pdu)
    except TooLarge as error:
        raise BadJson(error.message) from None
    if event.room_id != room.room_id:
        raise BadJson("The event is of another room")
    if not policy_server.is_asked_about(event):
        raise NotRecommended("No policy server is asked about the event that names it")
    if not signing.content_hash_matches(room.rules, pdu):
        raise NotRecommended("The event is not whole: what it says does not have the hash that it names")
    if domain_of(event.sender) != origin:
        if origin not in room.head.servers:
            raise NotRecommended("Your server is not in that room")
        (checked,) = await check_pdus(server, room.rules, room.room_id, [pdu])
        if isinstance(checked, Dropped):
            raise NotRecommended(f"The event is not accepted: {checked.reason}")
    return event
