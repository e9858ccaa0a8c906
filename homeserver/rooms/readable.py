"""Reading the state and the members of a room, as they are, or as they were when the reader left.

spec: client-server-api/#getting-events-for-a-room
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from homeserver.accounts import ignored
from homeserver.protocol import access
from homeserver.protocol.access import StateAccess
from homeserver.protocol.errors import Forbidden, NotFound
from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import showing, sight, state
from homeserver.rooms.state import Room, membership_in
from homeserver.storage import events, rooms
from homeserver.storage import state as stored_state

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.sight import Sight
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node


async def reader(server: Server, caller: Caller, room_id: str) -> tuple[Room, Sight]:
    """The room as the caller's own node has it, and what they may see of it.

    A room of which their node has no replica can be read by nobody there, and one that they forgot not by them. Raises
    Forbidden. spec: client-server-api/#post_matrixclientv3roomsroomidforget
    """
    room = await state.find(caller.node, room_id)
    if room is None:
        raise Forbidden("You are not in that room")
    seen = await sight.of_room(caller.node, room, caller.user_id)
    if seen.left_at is not None and await caller.node.read(rooms.has_forgotten, caller.user_nid, room.nid):
        seen = replace(seen, memberships=(), joins=())
    if not any(value == "join" for _, value in seen.memberships) and not _world_readable(seen):
        raise Forbidden("You are not in that room")
    return room, replace(seen, ignored=await ignored.of_user(caller.node, caller.user_nid))


def _world_readable(seen: Sight) -> bool:
    return bool(seen.visibilities) and seen.visibilities[-1][1] == "world_readable"


def state_access(room: Room, seen: Sight) -> StateAccess:
    """Which state of a room somebody may read."""
    visibility = seen.visibilities[-1][1] if seen.visibilities else "shared"
    return access.may_read_state(seen.last[1], was_joined=bool(seen.joins), visibility=visibility)


async def state_rows(node: Node, room: Room, seen: Sight) -> list[StoredEvent]:
    """The state of a room that somebody may read: as it is, or as it was when they left. Raises Forbidden."""
    what = state_access(room, seen)
    if what is StateAccess.NONE:
        raise Forbidden("You may not read the state of that room")
    if what is StateAccess.CURRENT:
        nids = {entry.nid for entry in room.now.state.values() if entry.nid is not None}
        return await node.read(events.by_nids, nids)
    at = await node.read(stored_state.at, room.nid, _leaving(seen))
    return await node.read(events.by_nids, set(at.values()))


async def state_entry(node: Node, room: Room, seen: Sight, key: StateKey) -> StoredEvent:
    """One event of the state that somebody may read. Raises Forbidden, NotFound."""
    what = state_access(room, seen)
    if what is StateAccess.NONE:
        raise Forbidden("You may not read the state of that room")
    if what is StateAccess.CURRENT:
        entry = room.now.state.get(key)
        nid = None if entry is None else entry.nid
    else:
        nid = await node.read(stored_state.key_at, room.nid, *key, _leaving(seen))
    found = [] if nid is None else await node.read(events.by_nids, [nid])
    if not found:
        raise NotFound("There is no such event in the state of the room")
    return found[0]


async def member_rows(node: Node, room: Room, seen: Sight, at: int | None) -> list[StoredEvent]:
    """The member events of a room that somebody may read; ``at`` a position, as they were then, or else at the next
    moment that this user may see. Raises Forbidden.
    """
    what = state_access(room, seen)
    if what is StateAccess.NONE:
        raise Forbidden("You may not read the members of that room")
    if what is StateAccess.CURRENT and at is None:
        nids = {entry.nid for (kind, _), entry in room.now.state.items() if kind == MEMBER and entry.nid is not None}
        return await node.read(events.by_nids, nids)
    position = node.position if at is None else at
    if what is StateAccess.AT_LEAVING:
        position = min(position, _leaving(seen))
    if not seen.looks_back_to(position):
        position = next((joined for joined in seen.joins if joined > position), position)
    then = await _state_then(node, room, position)
    return await node.read(events.by_nids, {nid for (kind, _), nid in then.items() if kind == MEMBER})


async def _state_then(node: Node, room: Room, pos: int) -> dict[StateKey, int]:
    """The state at a position. Of history that came later there are no snapshots: what is here of it has to do."""
    return await node.read(stored_state.at, room.nid, pos) or await node.read(events.newest_state, room.nid, pos)


def _leaving(seen: Sight) -> int:
    return seen.last[0] if seen.left_at is None else seen.left_at


def membership_passes(row: StoredEvent, wanted: str | None, unwanted: str | None) -> bool:
    """Whether a member event is among those asked for: with both given, one is enough.

    spec: client-server-api/#get_matrixclientv3roomsroomidmembers
    """
    membership = membership_in(row.client)
    if wanted is None and unwanted is None:
        return True
    return membership == wanted or (unwanted is not None and membership != unwanted)


async def members_shown(server: Server, caller: Caller, room: Room, seen: Sight, user_ids: Collection[str]) -> bytes:
    """The member events of some users, as a JSON array; for who has left, as they were then."""
    if seen.left_at is None:
        found = (room.now.state.get((MEMBER, user_id)) for user_id in user_ids)
        nids = {entry.nid for entry in found if entry is not None and entry.nid is not None}
    else:
        then = await caller.node.read(stored_state.at, room.nid, seen.left_at)
        nids = {then[MEMBER, user_id] for user_id in user_ids if (MEMBER, user_id) in then}
    return _array_of(server, room, seen, await caller.node.read(events.by_nids, nids))


async def state_at(
    server: Server,
    caller: Caller,
    room: Room,
    seen: Sight,
    pos: int,
    senders: Collection[str] | None,
    wanted: Callable[[StoredEvent], bool] | None = None,
) -> bytes:
    """The state of a room at a position, as a JSON array; with ``senders``, of the members only these."""
    then = await _state_then(caller.node, room, pos)
    nids = {nid for (kind, key), nid in then.items() if senders is None or kind != MEMBER or key in senders}
    rows = await caller.node.read(events.by_nids, nids)
    return _array_of(server, room, seen, [row for row in rows if wanted is None or wanted(row)])


def _array_of(server: Server, room: Room, seen: Sight, rows: Sequence[StoredEvent]) -> bytes:
    now, room_id = server.clock.now_ms(), orjson.dumps(room.room_id)
    return showing.array(
        [showing.show_stored(row, now, room_id=room_id, membership=sight.membership_at(seen, row.pos)) for row in rows]
    )
