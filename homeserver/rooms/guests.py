"""Which rooms guests may come into. spec: client-server-api/#guest-access"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import GuestAccessForbidden
from homeserver.rooms import summaries

if TYPE_CHECKING:
    from homeserver.context import Caller, Server


async def check(server: Server, caller: Caller, room_id: str) -> None:
    """Refuse a guest a room that does not say that guests can join. Raises GuestAccessForbidden, NodeUnavailable."""
    if not caller.guest:
        return
    home = await server.nodes.of_room(room_id)
    room = None if home is None else await summaries.find(home, room_id)
    if room is None or not room.shown["guest_can_join"]:
        raise GuestAccessForbidden("This room takes no guests")
