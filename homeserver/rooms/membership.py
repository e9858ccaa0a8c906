"""Joining, inviting, leaving, knocking, banning: member events, with the border asked before a relation is made.

A refusal falls on the relation, never on an event: once somebody is in a room, what they send is not refused for
where they live.

spec: client-server-api/#room-membership
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import structlog

from config.residency import DataClass
from homeserver.application_services import queries
from homeserver.protocol import identifiers
from homeserver.protocol.errors import (
    Forbidden,
    InvalidParam,
    NodeUnavailable,
    NotFound,
    Refusal,
    UnableToAuthoriseJoin,
    Unknown,
)
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS
from homeserver.protocol.membership_rules import AUTHORISED_VIA
from homeserver.protocol.power_levels import Levels
from homeserver.residency import consents, gate
from homeserver.residency.listing import pulling
from homeserver.rooms import blocking, following, invitations, proposals, recommendations, state
from homeserver.rooms.handed_in import place
from homeserver.rooms.ordering import can_reach, in_order
from homeserver.rooms.replicas import caught_up
from homeserver.rooms.send import Draft
from homeserver.rooms.state import Room, Snapshot
from homeserver.runtime.turns import Turns
from homeserver.storage import events, profiles, rooms, streams
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredMembership

log = structlog.get_logger("rooms.membership")

MOST_WAYS = 10
"""Servers through which a room is tried to be entered."""

RESTRICTED = ("restricted", "knock_restricted")


# the border ---------------------------------------------------------------------------------


def reached(server: Server, acting: Node, spanned: Iterable[str], peers: Iterable[str]) -> set[str]:
    """The jurisdictions of a room with members on certain nodes and servers, in which somebody of ``acting`` acts."""
    places = {server.nodes[name].jurisdiction for name in {acting.name, *spanned}}
    return places | {server.policy.now.jurisdiction_of_server(name) for name in peers}


async def check_relation(
    server: Server, acting: Node, spanned: Iterable[str], user_id: str, peers: Iterable[str] = ()
) -> set[str]:
    """Refuse to bring a user into a room that spans certain nodes, where the policy does not let it span theirs.

    ``peers``: the other servers in the room. Returns the jurisdictions that it spans with them. Raises FlowDenied
    naming the missing flow; NotFound for a local user who does not exist; Forbidden for users of other servers where
    there is no federation.
    """
    if not server.nodes.is_local(user_id):
        await pulling.appears(server, identifiers.domain_of(user_id))
    jurisdictions, names = reached(server, acting, spanned, peers), set(peers)
    if server.nodes.is_local(user_id):
        home = await server.nodes.of_user(user_id)
        if home is None and server.services and await queries.user(server, user_id):
            home = await server.nodes.of_user(user_id)
        if home is None:
            raise NotFound("There is no such user")
        jurisdictions.add(home.jurisdiction)
        # What is said in the room goes to where the service runs whose user comes in.
        served = server.services.on(home.name)
        jurisdictions.update(service.jurisdiction for service in served if service.has_user(user_id))
    else:
        names.add(identifiers.domain_of(user_id))
        jurisdictions.add(server.policy.now.jurisdiction_of_server(identifiers.domain_of(user_id)))
    gate.check_room(server, jurisdictions)
    if names and not server.settings.federation.enabled:
        raise Forbidden("This server does not talk with other servers")
    return jurisdictions


async def check_door(
    server: Server, caller: Caller, spanned: Collection[str], user_id: str, peers: Collection[str] = ()
) -> None:
    """`check_relation` for what the caller is about to do, and whether they have agreed to where it leads: every door
    into a room asks here.

    Who comes in themselves is asked about all that the room spans, who brings somebody else about what they add to it.
    Raises ConsentNotGiven besides.
    """
    places = await check_relation(server, caller.node, spanned, user_id, peers)
    if user_id != caller.user_id:
        places -= reached(server, caller.node, spanned, peers)
    await consents.check(server, caller.node, caller.user_id, places)


def spanned(snapshot: Snapshot, room: Room) -> set[str]:
    """The nodes that hold, or order, a room."""
    return {*snapshot.nodes, *([] if room.home is None else [room.home])}


async def check_entry(server: Server, caller: Caller, room_id: str, user_id: str) -> None:
    """`check_door` for a room that somebody is about to be brought into, unless they are in it.

    Raises Forbidden too for a room that nobody here is in: what is said there would be heard by nobody.
    """
    _, room = await nearest(server, caller.node, room_id)
    if is_deserted(room.head):
        raise Forbidden("You are not in that room")
    if room.head.membership(user_id) != "join":
        await check_door(server, caller, spanned(room.head, room), user_id, room.head.servers)


async def _room_at_home(server: Server, room_id: str) -> tuple[Node, Room]:
    home = await server.nodes.of_room(room_id)
    if home is None:
        raise NotFound("There is no such room")
    return home, await state.get(home, room_id)


async def nearest(server: Server, own: Node, room_id: str) -> tuple[Node, Room]:
    """The room where it is ordered; its replica on ``own`` while that node is down. Raises NodeUnavailable."""
    try:
        return await _room_at_home(server, room_id)
    except NodeUnavailable:
        room = await state.find(own, room_id)
        if room is None:
            raise
        return own, room


async def present(server: Server, own: Node, room_id: str) -> tuple[Node, Room] | None:
    """`nearest`, if this deployment takes part in the room; else it can be entered through another server only.

    Raises NodeUnavailable.
    """
    try:
        node, room = await nearest(server, own, room_id)
    except NotFound:
        return None
    return None if is_deserted(room.head) else (node, room)


def is_deserted(snapshot: Snapshot) -> bool:
    """Whether nobody here is in a room that others are in: what happens there is not heard of here any more."""
    return not snapshot.nodes and bool(snapshot.servers)


# what a member event says -------------------------------------------------------------------


async def own_content(node: Node, user_nid: int, membership: str) -> dict[str, Any]:
    """The content of a member event that carries the user's profile."""
    fields = await node.read(profiles.fields, user_nid)
    content: dict[str, Any] = {"membership": membership}
    for name in ("displayname", "avatar_url"):
        if name in fields:
            content[name] = orjson.loads(fields[name])
    return content


async def _profile_of(server: Server, user_id: str, membership: str, readers: Collection[str]) -> dict[str, Any]:
    """The same about another user, if their profile may go to all jurisdictions of ``readers`` and their node is up."""
    home = await server.nodes.of_user(user_id)
    content: dict[str, Any] = {"membership": membership}
    if home is None or not all(gate.may(server, DataClass.PROFILE, home.jurisdiction, reader) for reader in readers):
        return content
    try:
        fields = await home.read(profiles.of_user, user_id) or {}
    except NodeUnavailable:
        return content
    for name in ("displayname", "avatar_url"):
        if name in fields:
            content[name] = orjson.loads(fields[name])
    return content


async def _change(
    server: Server,
    caller: Caller,
    room_id: str,
    user_id: str,
    content: dict[str, Any],
    reason: str | None,
) -> None:
    if reason is not None:
        content["reason"] = reason
    ordered, _ = await in_order(server, caller.node, room_id, Draft(MEMBER, caller.user_id, content, user_id))
    await caught_up(server, ordered, caller.node)


# oneself ------------------------------------------------------------------------------------


async def join(
    server: Server, caller: Caller, room_id: str, reason: str | None = None, via: Sequence[str] = ()
) -> None:
    """Join a room. Who is in it already stays so. ``via``: servers that may be in it, if nobody here is.

    What they had set for a room that this one replaces holds for it too. Raises Forbidden, FlowDenied, ConsentNotGiven,
    NotFound, NodeUnavailable, PlaintextRefused for a room of others that is not encrypted, ServerUnreachable.
    """
    if await _enter(server, caller, room_id, reason, via):
        await following.follow(server, caller, room_id)


async def _enter(server: Server, caller: Caller, room_id: str, reason: str | None, via: Sequence[str]) -> bool:
    """`join`; False when the caller was in the room."""
    found = await present(server, caller.node, room_id)
    if found is None:
        async with server.nodes.directory.memory(Entering).alone(room_id):
            found = await present(server, caller.node, room_id)
            if found is None:
                await _join_elsewhere(server, caller, room_id, reason, via)
                return True
    room = found[1]
    if room.head.membership(caller.user_id) == "join":
        return False
    await check_door(server, caller, spanned(room.head, room), caller.user_id, room.head.servers)
    content = await own_content(caller.node, caller.user_nid, "join")
    try:
        content = await vouched_for(server, caller, room_id, content)
    except UnableToAuthoriseJoin:
        if not room.head.servers:
            raise
        ways = list(room.head.servers)[:MOST_WAYS]
        await server.remote.join(server, caller.node, room_id, caller.user_id, _with_reason(content, reason), ways)
        await caught_up(server, found[0], caller.node)
        return True
    await _change(server, caller, room_id, caller.user_id, content, reason)
    return True


class Entering(Turns):
    """Rooms of others that somebody here is about to enter (``directory.memory(Entering)``): one at a time."""


async def _join_elsewhere(server: Server, caller: Caller, room_id: str, reason: str | None, via: Sequence[str]) -> None:
    ways = await ways_into(server, caller, room_id, via)
    content = _with_reason(await own_content(caller.node, caller.user_nid, "join"), reason)
    await server.remote.join(server, caller.node, room_id, caller.user_id, content, ways)


def _with_reason(content: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return content if reason is None else {**content, "reason": reason}


async def ways_into(server: Server, caller: Caller, room_id: str, via: Sequence[str] = ()) -> list[str]:
    """Servers through which a room may be entered that nobody here is in, the likeliest first.

    Those that the client names, those whose users the caller was shown by an invitation or for a knock, those that were
    in the room when somebody here last was, and the one that is named in its id. Raises NotFound for none.
    """
    if not identifiers.is_room_id(room_id):
        raise NotFound("There is no such room")
    named = [name for name in via if identifiers.is_server_name(name)]
    held = await _membership_of(caller, room_id)
    if held is not None:
        named += await _shown_by(caller, held)
    room = await state.find(caller.node, room_id)
    named += [] if room is None else list(room.head.servers)[:MOST_WAYS]
    named.append(identifiers.domain_of(room_id))
    ways = [name for name in dict.fromkeys(named) if name and name != server.name]
    if not ways:
        raise NotFound("There is no such room here, and no server is known that is in it")
    return ways[:MOST_WAYS]


async def _shown_by(caller: Caller, held: StoredMembership) -> list[str]:
    """The servers of who sent the caller's member event, and what they were shown of the room, last things first."""
    senders = [row.sender for row in await caller.node.read(events.by_nids, [held.event_nid])]
    shown = (await caller.node.read(rooms.invitations, caller.user_nid, [held.room_nid])).get(held.room_nid, b"[]")
    senders += [event["sender"] for event in reversed(orjson.loads(shown))]
    return [identifiers.domain_of(sender) for sender in senders]


async def _membership_of(caller: Caller, room_id: str) -> StoredMembership | None:
    """The membership of the caller as their node has it."""
    found = await caller.node.read(rooms.memberships_of, caller.user_nid)
    return next((held for held in found if held.room_id == room_id), None)


async def vouched_for(server: Server, caller: Caller, room_id: str, content: dict[str, Any]) -> dict[str, Any]:
    """The content of the caller's join, with who vouches for it where somebody has to; whatever it said about that.

    The server signs all events of its users, and with them what they say there. Raises what `_authoriser` raises.
    """
    node, room = await nearest(server, caller.node, room_id)
    said = {key: value for key, value in content.items() if key != AUTHORISED_VIA}
    authoriser = await _authoriser(server, node, room, caller)
    return said if authoriser is None else {**said, AUTHORISED_VIA: authoriser}


async def _authoriser(server: Server, node: Node, room: Room, caller: Caller) -> str | None:
    """Who vouches for a join to a restricted room; None where nobody has to.

    Raises Forbidden when the caller meets none of the conditions, UnableToAuthoriseJoin when nobody can vouch.
    spec: client-server-api/#restricted-rooms
    """
    await state.require(node, room, [CREATE, JOIN_RULES, POWER_LEVELS])
    rules = room.head.event(JOIN_RULES)
    if rules is None or rules.content.get("join_rule") not in RESTRICTED:
        return None
    if room.head.membership(caller.user_id) in ("invite", "join"):
        return None
    allow = rules.content.get("allow")
    conditions = allow if isinstance(allow, list) else []
    if not [condition for condition in conditions if await _met(caller, condition)]:
        raise Forbidden("You are in none of the rooms whose members may join this one")
    levels = Levels(room.rules, room.head.event(CREATE), room.head.event(POWER_LEVELS))
    found = inviter_among(server, room, levels)
    if found is None:
        raise UnableToAuthoriseJoin("Nobody on this server can vouch for joining this room")
    return found


def inviter_among(server: Server, room: Room, levels: Levels) -> str | None:
    """A local member of a room who may invite to it."""
    for (kind, user_id), entry in room.head.state.items():
        if (
            kind == MEMBER
            and entry.membership == "join"
            and server.nodes.is_local(user_id)
            and levels.of(user_id) >= levels.invite
        ):
            return user_id
    return None


async def _met(caller: Caller, condition: object) -> bool:
    """Whether the caller meets one condition of a restricted room: as their own node knows it."""
    if not isinstance(condition, dict) or condition.get("type") != "m.room_membership":
        return False
    other = condition.get("room_id")
    if not isinstance(other, str):
        return False
    room = await state.find(caller.node, other)
    return room is not None and room.now.membership(caller.user_id) == "join"


async def knock(
    server: Server, caller: Caller, room_id: str, reason: str | None = None, via: Sequence[str] = ()
) -> None:
    """Ask to be let in; ``via`` as for `join`. Raises Forbidden, FlowDenied, ConsentNotGiven, NotFound,
    ServerUnreachable."""
    found = await present(server, caller.node, room_id)
    content = await own_content(caller.node, caller.user_nid, "knock")
    if found is None:
        ways = await ways_into(server, caller, room_id, via)
        asked = await server.remote.knock(
            server, caller.node, room_id, caller.user_id, _with_reason(content, reason), ways
        )
        await invitations.keep(server, caller.node, asked.event, asked.preview)
        return
    room = found[1]
    await check_door(server, caller, spanned(room.head, room), caller.user_id, room.head.servers)
    await _change(server, caller, room_id, caller.user_id, content, reason)


async def leave(server: Server, caller: Caller, room_id: str, reason: str | None = None) -> None:
    """Leave a room, refuse an invitation, or take back a knock. Who has left already stays so.

    Raises Forbidden for who is not in the room, and for the banned, unless they have an invitation that the room does
    not know (any more): that is gone then all the same.
    """
    found = await present(server, caller.node, room_id)
    if found is None:
        await _leave_elsewhere(server, caller, room_id, reason)
        return
    membership = found[1].head.membership(caller.user_id)
    if membership in invitations.OUTSIDE and await _declined_here(server, caller, found[0], room_id, reason):
        return
    if membership not in ("join", *invitations.OUTSIDE):
        if await _dropped(server, caller, room_id, reason) or membership == "leave":
            return
        if membership is None:
            raise Forbidden("You are not in that room")
    await _change(server, caller, room_id, caller.user_id, {"membership": "leave"}, reason)


async def _declined_here(server: Server, caller: Caller, home: Node, room_id: str, reason: str | None) -> bool:
    """End an invitation or a knock on the caller's node alone, if no event may go to the room from there."""
    held = await _membership_of(caller, room_id)
    if held is None or home is caller.node or can_reach(server, caller.node, home):
        return False
    if await state.find(caller.node, room_id) is not None:
        return False  # others of this node are in it: it is said there, and waits
    event = await invitations.answer(server, caller.node, held, _with_reason({"membership": "leave"}, reason))
    await invitations.keep(server, caller.node, event, None)
    return True


async def _dropped(server: Server, caller: Caller, room_id: str, reason: str | None) -> bool:
    """Drop an invitation or a knock that the caller's node has and the room does not. False if there is none."""
    held = await _membership_of(caller, room_id)
    if held is None or held.membership not in invitations.OUTSIDE:
        return False
    room = await state.find(caller.node, room_id)
    entry = None if room is None else room.now.state.get((MEMBER, caller.user_id))
    if room is not None and entry is not None:
        if entry.membership in invitations.OUTSIDE:
            return False  # it will hear of it
        await invitations.settle(server, caller.node, room, entry)
        return True
    event = await invitations.answer(server, caller.node, held, _with_reason({"membership": "leave"}, reason))
    await invitations.keep(server, caller.node, event, None)
    return True


async def _leave_elsewhere(server: Server, caller: Caller, room_id: str, reason: str | None) -> None:
    """Refuse an invitation to a room that nobody here is in, or take back a knock.

    If no server takes that, it holds for this one all the same: nobody can make a user keep an invitation.
    """
    held = await _membership_of(caller, room_id)
    if held is None:
        raise NotFound("There is no such room")
    if held.membership not in invitations.OUTSIDE:
        return
    content = _with_reason({"membership": "leave"}, reason)
    try:
        ways = await ways_into(server, caller, room_id)
        asked = await server.remote.leave(server, caller.node, room_id, caller.user_id, content, ways)
        event = asked.event
    except Refusal as refusal:
        log.info("nobody was told that an invitation was refused", reason=refusal.message)
        event = await invitations.answer(server, caller.node, held, content)
    await invitations.keep(server, caller.node, event, None)


async def joined_rooms(caller: Caller) -> list[str]:
    """The rooms that the caller is in."""
    found = await caller.node.read(rooms.memberships_of, caller.user_nid)
    return [room.room_id for room in found if room.membership == "join"]


async def forget(server: Server, caller: Caller, room_id: str) -> None:
    """Take a room that was left out of sight. Raises Unknown while the caller is in it, NotFound."""
    found = {room.room_id: room for room in await caller.node.read(rooms.memberships_of, caller.user_nid)}.get(room_id)
    if found is None:
        raise NotFound("You have not been in that room")
    if found.membership in ("join", "invite", "knock"):
        raise Unknown("Leave the room before you forget it")
    await caller.node.advance(_forget, caller.node, caller.user_nid, found.room_nid)


async def _forget(tx: Transaction, node: Node, user_nid: int, room_nid: int) -> None:
    await rooms.forget(tx, user_nid, room_nid)
    pos = await streams.allocate(tx)
    tx.after_commit(lambda: node.announce(pos, [(Stream.MEMBERSHIP, [user_nid])]))


# others -------------------------------------------------------------------------------------


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
    _, room = await nearest(server, caller.node, room_id)
    if room.head.membership(caller.user_id) != "join":
        raise Forbidden("You are not in that room")
    await check_door(server, caller, spanned(room.head, room), user_id, room.head.servers)
    await blocking.check(server, user_id, caller.user_id)
    readers = reached(server, caller.node, spanned(room.head, room), room.head.servers)
    profile = await _profile_of(server, user_id, "invite", readers)
    said = {**profile, **(content or {}), "membership": "invite"}
    if server.nodes.is_local(user_id):
        await _change(server, caller, room_id, user_id, said, reason)
        return
    await invite_elsewhere(server, caller, room_id, user_id, _with_reason(said, reason))


async def invite_elsewhere(server: Server, caller: Caller, room_id: str, user_id: str, content: dict[str, Any]) -> str:
    """Invite a user of another server, which has to sign the invitation before it is committed and shown to anybody.

    Whether the room may span it has been asked. A policy server of the room is asked first. Returns the event
    id. Raises Forbidden, NotFound, InviteBlocked, ServerUnreachable, NodeUnavailable when the room's home is down.
    """
    node, room = await _room_at_home(server, room_id)
    draft = Draft(MEMBER, caller.user_id, content, user_id)
    event, preview = await proposals.invitation(server, node, room, draft)
    event = await recommendations.obtained(server, node, event)
    signed = await server.remote.invite(server, caller.node, event, preview)
    await place(server, node, signed)
    await caught_up(server, node, caller.node)
    return signed.event_id


async def kick(server: Server, caller: Caller, room_id: str, user_id: str, reason: str | None = None) -> None:
    """Remove a user from a room, or take back an invitation. Raises Forbidden, NotFound."""
    _, room = await nearest(server, caller.node, room_id)
    if room.head.membership(user_id) not in ("join", "invite", "knock"):
        raise Forbidden("That user is not in the room")
    await _change(server, caller, room_id, user_id, {"membership": "leave"}, reason)


async def ban(server: Server, caller: Caller, room_id: str, user_id: str, reason: str | None = None) -> None:
    """Ban a user, whether they are in the room or not. Raises Forbidden, InvalidParam, NotFound."""
    if not identifiers.is_user_id(user_id):
        raise InvalidParam("user_id is no user ID")
    await _change(server, caller, room_id, user_id, {"membership": "ban"}, reason)


async def unban(server: Server, caller: Caller, room_id: str, user_id: str, reason: str | None = None) -> None:
    """Lift a ban. Raises Forbidden, also when there is none, and NotFound."""
    _, room = await nearest(server, caller.node, room_id)
    if room.head.membership(user_id) != "ban":
        raise Forbidden("That user is not banned")
    await _change(server, caller, room_id, user_id, {"membership": "leave"}, reason)
