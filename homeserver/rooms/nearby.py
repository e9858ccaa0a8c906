"""A room where it is ordered; or, while that node is down, as the node of who asks has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import NodeUnavailable, NotFound
from homeserver.rooms import state
from homeserver.rooms.state import Room, Snapshot

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node


async def at_home(server: Server, room_id: str) -> tuple[Node, Room]:
    """The room on the node where it is ordered. Raises NotFound, NodeUnavailable."""
    home = await server.nodes.of_room(room_id)
    if home is None:
        raise NotFound("There is no such room")
    return home, await state.get(home, room_id)


async def nearest(server: Server, own: Node, room_id: str) -> tuple[Node, Room]:
    """The room where it is ordered; its replica on ``own`` while that node is down. Raises NodeUnavailable."""
    try:
        return await at_home(server, room_id)
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
