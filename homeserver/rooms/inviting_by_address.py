"""Invites by an e-mail address or phone number, through the identity server that a client names.

Whether a user of this deployment has the address is never looked at: by inviting, anybody could find out whose an
address is that was given to log in with, and to nobody else.

spec: client-server-api/#third-party-invites
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Final

from config.residency import DataClass
from homeserver.protocol.errors import BadJson, Forbidden, ServerUnreachable
from homeserver.protocol.event_view import CREATE, JOIN_RULES, THIRD_PARTY_INVITE
from homeserver.protocol.signing import VerifyKey
from homeserver.residency import authors, gate
from homeserver.rooms import identity_servers, membership, nearby, send, state
from homeserver.rooms.ordering import in_order
from homeserver.rooms.replicas import caught_up
from homeserver.rooms.send import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.threepids import Identifier
    from homeserver.rooms.identity_servers import IdentityServer
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

MOST_KEYS: Final = 10
MOST_NAME: Final = 255

_TOKEN: Final = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_TOLD: Final = {
    ("m.room.canonical_alias", ""): ("alias", "room_alias", "#"),
    ("m.room.avatar", ""): ("url", "room_avatar_url", "mxc://"),
    ("m.room.name", ""): ("name", "room_name", ""),
    JOIN_RULES: ("join_rule", "room_join_rules", ""),
    CREATE: ("type", "room_type", ""),
}
"""What an identity server may tell the invited of a room: a field of an event of its state, what it is called there,
and how it has to begin."""
_OWN: Final = {"displayname": "sender_display_name", "avatar_url": "sender_avatar_url"}


@dataclass(frozen=True, slots=True)
class Invited:
    """Somebody to be invited: an address in canonical form, and the identity server that is asked about it."""

    identity_server: IdentityServer
    identifier: Identifier


async def resolve(server: Server, caller: Caller, invited: Sequence[Invited]) -> tuple[list[str], list[Invited]]:
    """Those who have one of these addresses, as their identity servers say, and the addresses that nobody has.

    All are checked before anything is asked. Raises ServerNotTrusted, FlowDenied, InvalidParam, Forbidden,
    ServerUnreachable.
    """
    for each in invited:
        identity_servers.check(server, caller.node, each.identity_server)
    found: dict[Invited, str] = {}
    for named in dict.fromkeys(each.identity_server for each in invited):
        here = [each for each in invited if each.identity_server == named]
        users = await identity_servers.look_up(server, caller.node, named, {each.identifier for each in here})
        found |= {each: users[each.identifier] for each in here if each.identifier in users}
    return list(dict.fromkeys(found.values())), [each for each in dict.fromkeys(invited) if each not in found]


async def invite(server: Server, caller: Caller, room_id: str, invited: Invited, reason: str | None = None) -> None:
    """Invite whoever has an address; while nobody has it, leave an invitation for who gets it.

    Raises what `membership.invite` and `resolve` do, MediumNotSupported; Forbidden for who may not invite, before
    anything is asked.
    """
    node, room = await nearby.nearest(server, caller.node, room_id)
    if room.head.membership(caller.user_id) != "join":
        raise Forbidden("You are not in that room")
    identity_servers.check(server, caller.node, invited.identity_server)
    attempt = {"display_name": "…", "public_key": "", "key_validity_url": ""}
    await send.try_out(server, node, room_id, _draft(caller, token_urlsafe(), attempt))
    users, _ = await resolve(server, caller, [invited])
    if users:
        await membership.invite(server, caller, room_id, users[0], reason=reason)
    else:
        await leave(server, caller, room_id, invited, reason=reason)


async def leave(
    server: Server,
    caller: Caller,
    room_id: str,
    invited: Invited,
    content: dict[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Have the identity server keep an invitation for an address that nobody has, and put into the room what proves who
    takes it up. Whoever has got the address meanwhile is invited, with this content.

    Raises what `invite` does.
    """
    node, room = await nearby.nearest(server, caller.node, room_id)
    details = {"room_id": room_id, "sender": caller.user_id, **await _told(server, caller, node, room, invited)}
    named, identifier = invited.identity_server, invited.identifier
    kept = await identity_servers.keep(server, caller.node, named, identifier, details)
    if "token" not in kept and "mxid" in kept:
        await membership.invite(server, caller, room_id, str(kept["mxid"]), content, reason)
        return
    token, left = _read(server, invited, kept)
    ordered, _ = await in_order(server, caller.node, room_id, _draft(caller, token, left))
    await caught_up(server, ordered, caller.node)


def _draft(caller: Caller, token: str, content: dict[str, Any]) -> Draft:
    return Draft(THIRD_PARTY_INVITE, caller.user_id, content, token)


def _read(server: Server, invited: Invited, kept: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The token of an invitation that is kept, and the content of its event. Raises ServerUnreachable for nonsense."""
    token, name, given = kept.get("token"), kept.get("display_name"), kept.get("public_keys")
    entries = given if isinstance(given, list) else []
    keys = [_key(server, entry) for entry in entries]
    usable = [key for key in keys if key is not None]
    if (
        not isinstance(token, str)
        or not _TOKEN.fullmatch(token)
        or not isinstance(name, str)
        or len(name) > MOST_NAME
        or not 0 < len(usable) == len(keys) <= MOST_KEYS
    ):
        raise ServerUnreachable(f"The identity server {invited.identity_server.name} answers what cannot be understood")
    if invited.identifier.address in name.casefold():
        name = _obscured(invited.identifier)
    return token, {"display_name": name, **usable[0], "public_keys": usable}


def _key(server: Server, entry: object) -> dict[str, str] | None:
    """A key as it stands in the event, if it is one, and its identity server can be asked about it later."""
    key = entry.get("public_key") if isinstance(entry, dict) else None
    url = entry.get("key_validity_url") if isinstance(entry, dict) else None
    if not isinstance(key, str) or not isinstance(url, str) or not identity_servers.is_asked_at(server, url):
        return None
    try:
        VerifyKey.from_base64("ed25519:0", key)
    except BadJson:
        return None
    return {"public_key": key, "key_validity_url": url}


def _obscured(identifier: Identifier) -> str:
    """An address of which others see no more than that it is one: an identity server should have seen to that."""
    name, at, domain = identifier.address.partition("@")
    return f"{name[:1]}…{at}{domain[:1]}…" if at else f"…{name[-2:]}"


async def _told(server: Server, caller: Caller, node: Node, room: Room, invited: Invited) -> dict[str, str]:
    """What the identity server may write to the invited of the room and of who invites, as far as it may know."""
    there = identity_servers.check(server, caller.node, invited.identity_server)
    told: dict[str, str] = {}
    await state.require(node, room, list(_TOLD))
    events = [(event, *how) for key, how in _TOLD.items() if (event := room.head.event(key))]
    withheld = await authors.withheld(server, there, {event.sender for event, *_ in events})
    if gate.may(server, DataClass.EVENTS, node.jurisdiction, there):
        for event, field, name, beginning in events:
            value = event.content.get(field)
            if isinstance(value, str) and value.startswith(beginning) and event.sender not in withheld:
                told[name] = value
    if gate.may(server, DataClass.PROFILE, caller.node.jurisdiction, there):
        own = await membership.own_content(caller.node, caller.user_nid, "join")
        told |= {name: own[field] for field, name in _OWN.items() if isinstance(own.get(field), str)}
    return told
