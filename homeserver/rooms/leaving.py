"""Leaving a room, refusing an invitation to it, and taking it out of sight.

Nobody can make a user keep an invitation: where no server takes the refusal, it holds here all the same.

spec: client-server-api/#leaving-rooms
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from homeserver.protocol.errors import Forbidden, NotFound, Refusal, Unknown
from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import invitations, joining, membership, nearby, state
from homeserver.rooms.ordering import can_reach
from homeserver.storage import rooms, streams
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.leaving")


async def leave(server: Server, caller: Caller, room_id: str, reason: str | None = None) -> None:
    """Leave a room, refuse an invitation, or take back a knock. Who has left already stays so.

    Raises Forbidden for who is not in the room, and for the banned, unless they have an invitation that the room does
    not know (any more): that is gone then all the same.
    """
    found = await nearby.present(server, caller.node, room_id)
    if found is None:
        await _leave_elsewhere(server, caller, room_id, reason)
        return
    standing = found[1].head.membership(caller.user_id)
    if standing in invitations.OUTSIDE and await _declined_here(server, caller, found[0], room_id, reason):
        return
    if standing not in ("join", *invitations.OUTSIDE):
        if await _dropped(server, caller, room_id, reason) or standing == "leave":
            return
        if standing is None:
            raise Forbidden("You are not in that room")
    await membership.change(server, caller, room_id, caller.user_id, {"membership": "leave"}, reason)


async def _declined_here(server: Server, caller: Caller, home: Node, room_id: str, reason: str | None) -> bool:
    """End an invitation or a knock on the caller's node alone, if no event may go to the room from there."""
    held = await membership.held_by(caller, room_id)
    if held is None or home is caller.node or can_reach(server, caller.node, home):
        return False
    if await state.find(caller.node, room_id) is not None:
        return False  # others of this node are in it: it is said there, and waits
    event = await invitations.answer(server, caller.node, held, membership.with_reason({"membership": "leave"}, reason))
    await invitations.keep(server, caller.node, event, None)
    return True


async def _dropped(server: Server, caller: Caller, room_id: str, reason: str | None) -> bool:
    """Drop an invitation or a knock that the caller's node has and the room does not. False if there is none."""
    held = await membership.held_by(caller, room_id)
    if held is None or held.membership not in invitations.OUTSIDE:
        return False
    room = await state.find(caller.node, room_id)
    entry = None if room is None else room.now.state.get((MEMBER, caller.user_id))
    if room is not None and entry is not None:
        if entry.membership in invitations.OUTSIDE:
            return False  # it will hear of it
        await invitations.settle(server, caller.node, room, entry)
        return True
    event = await invitations.answer(server, caller.node, held, membership.with_reason({"membership": "leave"}, reason))
    await invitations.keep(server, caller.node, event, None)
    return True


async def _leave_elsewhere(server: Server, caller: Caller, room_id: str, reason: str | None) -> None:
    """Refuse an invitation to a room that nobody here is in, or take back a knock.

    If no server takes that, it holds for this one all the same: nobody can make a user keep an invitation.
    """
    held = await membership.held_by(caller, room_id)
    if held is None:
        raise NotFound("There is no such room")
    if held.membership not in invitations.OUTSIDE:
        return
    content = membership.with_reason({"membership": "leave"}, reason)
    try:
        ways = await joining.ways_into(server, caller, room_id)
        asked = await server.remote.leave(server, caller.node, room_id, caller.user_id, content, ways)
        event = asked.event
    except Refusal as refusal:
        log.info("nobody was told that an invitation was refused", reason=refusal.message)
        event = await invitations.answer(server, caller.node, held, content)
    await invitations.keep(server, caller.node, event, None)


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
