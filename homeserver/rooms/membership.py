"""Member events: what they say, and those about others, by which they are invited, removed and banned.

spec: client-server-api/#room-membership
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from config.residency import DataClass
from homeserver.protocol import identifiers
from homeserver.protocol.errors import Forbidden, InvalidParam, NodeUnavailable
from homeserver.protocol.event_view import MEMBER
from homeserver.residency import gate
from homeserver.rooms import blocking, doors, nearby, proposals, recommendations
from homeserver.rooms.handed_in import place
from homeserver.rooms.ordering import in_order
from homeserver.rooms.replicas import caught_up
from homeserver.rooms.send import Draft
from homeserver.storage import profiles, rooms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredMembership


async def own_content(node: Node, user_nid: int, membership: str) -> dict[str, Any]:
    """The content of a member event that carries the user's profile."""
    return _with_profile(membership, await node.read(profiles.fields, user_nid))


def _with_profile(membership: str, fields: Mapping[str, bytes]) -> dict[str, Any]:
    profile = {name: orjson.loads(fields[name]) for name in ("displayname", "avatar_url") if name in fields}
    return {"membership": membership, **profile}


async def _profile_of(server: Server, user_id: str, membership: str, readers: Collection[str]) -> dict[str, Any]:
    """The same about another user, if their profile may go to all jurisdictions of ``readers`` and their node is up."""
    home = await server.nodes.of_user(user_id)
    if home is None or not all(gate.may(server, DataClass.PROFILE, home.jurisdiction, reader) for reader in readers):
        return _with_profile(membership, {})
    try:
        fields = await home.read(profiles.of_user, user_id)
    except NodeUnavailable:
        fields = None
    return _with_profile(membership, fields or {})


async def change(
    server: Server, caller: Caller, room_id: str, user_id: str, content: dict[str, Any], reason: str | None
) -> None:
    """Say what ``user_id`` is in a room from now on, in the caller's name. Raises what `in_order` raises."""
    if reason is not None:
        content["reason"] = reason
    ordered, _ = await in_order(server, caller.node, room_id, Draft(MEMBER, caller.user_id, content, user_id))
    await caught_up(server, ordered, caller.node)


def with_reason(content: dict[str, Any], reason: str | None) -> dict[str, Any]:
    """The content of a member event, and why."""
    return content if reason is None else {**content, "reason": reason}


async def held_by(caller: Caller, room_id: str) -> StoredMembership | None:
    """The membership of the caller as their node has it."""
    found = await caller.node.read(rooms.memberships_of, caller.user_nid)
    return next((held for held in found if held.room_id == room_id), None)


async def joined_rooms(caller: Caller) -> list[str]:
    """The rooms that the caller is in."""
    found = await caller.node.read(rooms.memberships_of, caller.user_nid)
    return [room.room_id for room in found if room.membership == "join"]


async def invite(
    server: Server,
    caller: Caller,
    room_id: str,
    user_id: str,
    content: dict[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Invite a user. Raises Forbidden, FlowDenied and ConsentNotGiven before anything is written, InviteBlocked,
    NotFound."""
    if not identifiers.is_user_id(user_id):
        raise InvalidParam("user_id is no user ID")
    _, room = await nearby.nearest(server, caller.node, room_id)
    if room.head.membership(caller.user_id) != "join":
        raise Forbidden("You are not in that room")
    await doors.check_door(server, caller, doors.spanned(room.head, room), user_id, room.head.servers)
    await blocking.check(server, user_id, caller.user_id)
    readers = doors.reached(server, caller.node, doors.spanned(room.head, room), room.head.servers)
    profile = await _profile_of(server, user_id, "invite", readers)
    said = {**profile, **(content or {}), "membership": "invite"}
    if server.nodes.is_local(user_id):
        await change(server, caller, room_id, user_id, said, reason)
        return
    await invite_elsewhere(server, caller, room_id, user_id, with_reason(said, reason))


async def invite_elsewhere(server: Server, caller: Caller, room_id: str, user_id: str, content: dict[str, Any]) -> str:
    """Invite a user of another server, which has to sign the invitation before it is committed and shown to anybody.

    Whether the room may span it has been asked. A policy server of the room is asked first. Returns the event
    id. Raises Forbidden, NotFound, InviteBlocked, ServerUnreachable, NodeUnavailable when the room's home is down.
    """
    node, room = await nearby.at_home(server, room_id)
    draft = Draft(MEMBER, caller.user_id, content, user_id)
    event, preview = await proposals.invitation(server, node, room, draft)
    event = await recommendations.obtained(server, node, event)
    signed = await server.remote.invite(server, caller.node, event, preview)
    await place(server, node, signed)
    await caught_up(server, node, caller.node)
    return signed.event_id


async def kick(server: Server, caller: Caller, room_id: str, user_id: str, reason: str | None = None) -> None:
    """Remove a user from a room, or take back an invitation. Raises Forbidden, NotFound."""
    _, room = await nearby.nearest(server, caller.node, room_id)
    if room.head.membership(user_id) not in ("join", "invite", "knock"):
        raise Forbidden("That user is not in the room")
    await change(server, caller, room_id, user_id, {"membership": "leave"}, reason)


async def ban(server: Server, caller: Caller, room_id: str, user_id: str, reason: str | None = None) -> None:
    """Ban a user, whether they are in the room or not. Raises Forbidden, InvalidParam, NotFound."""
    if not identifiers.is_user_id(user_id):
        raise InvalidParam("user_id is no user ID")
    await change(server, caller, room_id, user_id, {"membership": "ban"}, reason)


async def unban(server: Server, caller: Caller, room_id: str, user_id: str, reason: str | None = None) -> None:
    """Lift a ban. Raises Forbidden, also when there is none, and NotFound."""
    _, room = await nearby.nearest(server, caller.node, room_id)
    if room.head.membership(user_id) != "ban":
        raise Forbidden("That user is not banned")
    await change(server, caller, room_id, user_id, {"membership": "leave"}, reason)
