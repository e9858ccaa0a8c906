"""Who is let into a room by its access control list, as the room is now.

spec: client-server-api/#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol import server_acl
from homeserver.protocol.server_acl import SERVER_ACL
from homeserver.rooms import state

if TYPE_CHECKING:
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node


async def lets_in(node: Node, room: Room, server_name: str) -> bool:
    """Whether a server may take part in a room, as ``node`` has it. Raises NodeUnavailable."""
    await state.require(node, room, [SERVER_ACL])
    return server_acl.allows(room.head.event(SERVER_ACL), server_name)
