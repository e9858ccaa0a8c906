"""Invitations by an e-mail address or phone number: whoever an identity server says has it is invited, in the name of
who left the invitation.

What the identity server signed is proved by the keys in the room's m.room.third_party_invite, as the authorisation
rules demand; nobody else is believed.

spec: client-server-api/#third-party-invites
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import Forbidden
from homeserver.protocol.event_view import MEMBER, THIRD_PARTY_INVITE
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.membership_rules import keys_of_signer
from homeserver.residency import consents, gate
from homeserver.rooms import doors, following, identity_servers, membership, nearby, state
from homeserver.rooms.ordering import in_order
from homeserver.rooms.replicas import caught_up
from homeserver.rooms.send import Draft

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Caller, Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node


async def content(server: Server, node: Node, room: Room, signed: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the invitation, with the name that whoever invited gave.

    Raises Forbidden without an invite, and when the identity server does not stand by its key any more, or is none that
    the operator allows; FlowDenied, ServerUnreachable. spec: client-server-api/#third-party-invites
    """
    invite = await _left(node, room, signed)
    if not await _is_proved(server, node, invite, signed):
        raise Forbidden("No identity server that this server asks stands by that")
    name = invite.content.get("display_name")
    return {
        "membership": "invite",
        "third_party_invite": {"display_name": name if isinstance(name, str) else "", "signed": dict(signed)},
    }


async def _left(node: Node, room: Room, signed: Mapping[str, Any]) -> Event:
    """The invite that was left in a room for who has been signed for. Raises Forbidden."""
    token = signed.get("token")
    key = (THIRD_PARTY_INVITE, token) if isinstance(token, str) else None
    if key is None or key not in room.head.state:
        raise Forbidden("There is no such third-party invite in the room")
    await state.require(node, room, [key])
    invite = room.head.event(key)
    if invite is None:  # the room has moved on meanwhile
        raise Forbidden("There is no such third-party invite in the room")
    return invite


async def _is_proved(server: Server, node: Node, invite: Event, signed: Mapping[str, Any]) -> bool:
    """Whether a key of an invite that has signed is still valid, by what its identity server says."""
    for key, url in dict.fromkeys(keys_of_signer(invite, signed)):
        if url is None or await identity_servers.holds(server, node, url, key):
            return True
    return False


async def invite(
    server: Server, home: Node, found: tuple[Node, Room], sender: str, user_id: str, signed: Mapping[str, Any]
) -> None:
    """Invite a user of ours, whose node is ``home``, to a room in which the local ``sender`` left the invitation.

    Raises Forbidden, also when the sender, who is not here to be asked, has not agreed to where that leads; FlowDenied,
    NodeUnavailable.
    """
    node, room = found
    spanned = doors.spanned(room.head, room)
    places = await doors.check_relation(server, home, spanned, user_id, room.head.servers)
    await consents.check_absent(server, sender, places - doors.reached(server, node, spanned, room.head.servers))
    draft = Draft(MEMBER, sender, await content(server, node, room, signed), user_id)
    ordered, _ = await in_order(server, node, room.room_id, draft)
    await caught_up(server, ordered, home)


async def accept(server: Server, caller: Caller, room_id: str, sender: str, signed: Mapping[str, Any]) -> None:
    """Have the caller invited by what an identity server signed for them, so that they may join; ``sender`` left the
    invitation. Where only the sender's server can let them in, they are in the room afterwards.

    Raises Forbidden when it is for somebody else, or the room does not know it; FlowDenied, ConsentNotGiven,
    NotFound, ServerUnreachable, NodeUnavailable. spec: client-server-api/#post_matrixclientv3roomsroomidjoin
    """
    if signed.get("mxid") != caller.user_id:
        raise Forbidden("'third_party_signed' is for somebody else")
    found = await nearby.present(server, caller.node, room_id)
    if found is not None:
        node, room = found
        if room.head.membership(caller.user_id) == "join":
            return
        await doors.check_door(server, caller, doors.spanned(room.head, room), caller.user_id, room.head.servers)
        if server.nodes.is_local(sender):
            if room.head.membership(caller.user_id) == "invite":
                await _left(node, room, signed)
            else:
                await invite(server, caller.node, found, sender, caller.user_id, signed)
            return
    if not server.nodes.is_local(sender):
        places = doors.reached(server, caller.node, (), [domain_of(sender)])
        gate.check_room(server, places)
        await consents.check(server, caller.node, caller.user_id, places)
    await server.remote.exchange_invite(server, caller.node, room_id, sender, caller.user_id, signed)
    if found is not None:  # the invitation is on its way here, and may be as long as it likes
        said = await membership.own_content(caller.node, caller.user_nid, "join")
        await server.remote.join(server, caller.node, room_id, caller.user_id, said, [domain_of(sender)])
        await caught_up(server, found[0], caller.node)
        await following.follow(server, caller, room_id)
