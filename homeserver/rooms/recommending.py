"""What this server recommends where it is itself the policy server of a room.

It does so with a key of its own, which is none that it publishes as a server: whoever has this one recommends, and can
do nothing else. What its own users send has passed the same rules before.

spec: server-server-api/#policy-servers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol import policy_server
from homeserver.protocol.errors import FlowDenied, Forbidden, NotRecommended
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.identifiers import domain_of, is_user_id
from homeserver.protocol.policy_server import KEY_ID
from homeserver.residency import gate
from homeserver.rooms import acl, state
from homeserver.rooms.checks import ENCRYPTION
from homeserver.rooms.clear_text import is_clear, weakens

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.policy_server import PolicyServer
    from homeserver.protocol.signing import SigningKey
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

_COMING: Final = frozenset(("invite", "join", "knock"))


def key_for(server: Server, room_id: str, policy: PolicyServer) -> SigningKey | None:
    """The key with which this server recommends events of a room; None where it is not its policy server, or not by
    that key."""
    key, rooms = server.identity.policy_key, server.settings.policy_server.rooms
    if key is None or policy.name != server.name or (rooms and room_id not in rooms):
        return None
    return key if key.verify_key.raw == policy.key.raw else None


def recommended(server: Server, event: Event, policy: PolicyServer) -> Event:
    """An event with our recommendation. Raises Forbidden where the room names this server, which is not what it says.

    Whoever did not make the event here asks `check` first.
    """
    key = key_for(server, event.room_id, policy)
    if key is None:
        raise Forbidden("This room names this server as its policy server, with a key that it does not sign with")
    return event.with_signature(server.name, KEY_ID, policy_server.signature(event, key))


async def check(server: Server, home: Node, room: Room, event: Event) -> None:
    """Raise NotRecommended, in words for its sender, unless we recommend an event of another server's user.

    Its form, its hash and its sender's signature have been checked. ``home`` is the room's home node. Raises
    NodeUnavailable.
    """
    if not await acl.lets_in(home, room, domain_of(event.sender)):
        raise NotRecommended("The room's access control list does not let the server of the sender in")
    await state.require(home, room, [ENCRYPTION])
    _check_borders(server, home, room, event)
    if is_clear(server, event):
        raise NotRecommended("Nothing may be said in this room that is not encrypted")
    if weakens(server, event, room.head.event(ENCRYPTION)):
        raise NotRecommended("The encryption of this room may not be weakened")


def _check_borders(server: Server, home: Node, room: Room, event: Event) -> None:
    """Raise NotRecommended unless the residency policy lets the server of the sender share a room with ours, and who
    comes into the room share it with everybody. Nobody is kept from leaving."""
    policy, membership = server.policy.now, None
    if event.type == MEMBER and is_user_id(event.state_key):
        membership = event.content.get("membership")
    if membership == "leave" and event.state_key == event.sender:
        return
    ours = {server.nodes[each].jurisdiction for each in {home.name, *room.head.nodes}}
    pairs = {(policy.jurisdiction_of_server(domain_of(event.sender)), place) for place in ours}
    newcomer = domain_of(event.state_key or "")
    if membership in _COMING and newcomer != server.name and newcomer not in room.head.servers:
        places = ours | {policy.jurisdiction_of_server(each) for each in room.head.servers}
        pairs |= {(policy.jurisdiction_of_server(newcomer), place) for place in places}
    try:
        for pair in sorted(pairs):
            gate.check_room(server, pair)
    except FlowDenied as denied:
        raise NotRecommended(denied.message) from None
