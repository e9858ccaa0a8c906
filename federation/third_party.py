"""Invitations of who was named by an e-mail address or phone number, once an identity server knows who that is.

What the identity server signed is proved by the keys in the room's m.room.third_party_invite, as the authorisation
rules demand; nobody else is believed.

spec: server-server-api/#third-party-invites
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import structlog

from config.residency import DataClass
from federation import resident
from federation.remote import RemoteRefusal, ask_for
from homeserver.protocol.errors import Forbidden, InvalidParam, NotFound, Refusal
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.identifiers import domain_of, is_room_id, is_user_id
from homeserver.residency import consents, gate
from homeserver.rooms import blocking, nearby, proposals, third_party
from homeserver.rooms.handed_in import place
from homeserver.rooms.send import Draft

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.nodes import Node

MOST_INVITES: Final = 20
"""Invitations of one notice that are looked at."""
MOST_BYTES: Final = 64 * 1024

log = structlog.get_logger("federation")


async def exchange(server: Server, origin: str, room_id: str, asked: Mapping[str, Any]) -> None:
    """Invite a user of the origin for whom one of ours left an invitation with an identity server.

    Raises InvalidParam, Forbidden, also when that user, who is not here to be asked, has not agreed to where it leads;
    FlowDenied, NotFound, ServerUnreachable.
    spec: server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid
    """
    sender, invited, content = asked.get("sender"), asked.get("state_key"), asked.get("content")
    if asked.get("type") != MEMBER or not is_user_id(sender) or not is_user_id(invited):
        raise InvalidParam("That is no invitation")
    if not isinstance(sender, str) or not isinstance(invited, str) or asked.get("room_id", room_id) != room_id:
        raise InvalidParam("That is no invitation to this room")
    if not server.nodes.is_local(sender) or domain_of(invited) != origin:
        raise InvalidParam("That is no invitation by a user of this server of a user of yours")
    signed = _signed(content)
    home, room = await resident.room_for(server, origin, room_id)
    await consents.check_absent(server, sender, resident.check_span(server, home, room, origin))
    draft = Draft(MEMBER, sender, await third_party.content(server, home, room, signed), invited)
    event, preview = await proposals.invitation(server, home, room, draft)
    await place(server, home, await server.remote.invite(server, home, event, preview))


def _signed(content: object) -> Mapping[str, Any]:
    invite = content.get("third_party_invite") if isinstance(content, dict) else None
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(content, dict) or content.get("membership") != "invite" or not isinstance(signed, dict):
        raise InvalidParam("That is no third-party invite")
    return signed


# for users of ours ------------------------------------------------------------------------------


async def bound(server: Server, user_id: str, invites: Sequence[object]) -> None:
    """Have a user of ours invited wherever they were by the address that they have proved to be theirs.

    Raises NotFound for who is none of our users. What does not lead to an invitation is logged.
    spec: server-server-api/#put_matrixfederationv13pidonbind
    """
    home = await server.nodes.of_user(user_id)
    if home is None:
        raise NotFound("There is no such user here")
    for invite in invites[:MOST_INVITES]:
        try:
            await _invite(server, home, user_id, invite)
        except Refusal as fault:
            log.info("a third-party invite led to nothing", reason=str(fault))


async def _invite(server: Server, home: Node, user_id: str, invite: object) -> None:
    if not isinstance(invite, dict):
        raise InvalidParam("an invite must be an object")
    room_id, sender, signed = invite.get("room_id"), invite.get("sender"), invite.get("signed")
    if not isinstance(room_id, str) or not is_room_id(room_id) or not isinstance(sender, str):
        raise InvalidParam("the invite names no room")
    if not is_user_id(sender) or not isinstance(signed, dict) or signed.get("mxid") != user_id:
        raise InvalidParam("the invite is for somebody else")
    await blocking.check(server, user_id, sender)
    found = await nearby.present(server, home, room_id)
    if not server.nodes.is_local(sender):
        await exchange_invite(server, home, room_id, sender, user_id, signed)
    elif found is not None:
        await third_party.invite(server, home, found, sender, user_id, signed)
    else:
        raise NotFound("the room is none that this server is in")


async def exchange_invite(
    server: Server, node: Node, room_id: str, sender: str, user_id: str, signed: Mapping[str, Any]
) -> None:
    """See `context.Remote.exchange_invite`."""
    gate.check_room(server, {node.jurisdiction, server.policy.now.jurisdiction_of_server(domain_of(sender))})
    content = {
        "type": MEMBER,
        "room_id": room_id,
        "sender": sender,
        "state_key": user_id,
        "content": {"membership": "invite", "third_party_invite": {"display_name": "", "signed": dict(signed)}},
    }
    target = f"/_matrix/federation/v1/exchange_third_party_invite/{quote(room_id, safe='')}"
    try:
        await ask_for(server, node, DataClass.EVENTS, domain_of(sender), "PUT", target, content, most=MOST_BYTES)
    except RemoteRefusal as refusal:
        log.info("a third-party invite was refused", server=domain_of(sender), status=refusal.status)
        raise Forbidden(f"{domain_of(sender)} does not invite you by that") from None
