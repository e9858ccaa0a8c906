"""Users report events of their rooms to the operator.

spec: client-server-api/#reporting-content
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.accounts import reports
from homeserver.protocol.errors import NotFound
from homeserver.rooms import history, sight, state

if TYPE_CHECKING:
    from homeserver.context import Caller, Server


async def report_event(server: Server, caller: Caller, room_id: str, event_id: str, reason: str) -> None:
    """Report an event of a room that the caller has joined. Raises NotFound, InvalidParam.

    spec: client-server-api/#post_matrixclientv3roomsroomidreporteventid
    """
    room = await state.find(caller.node, room_id)
    seen = None if room is None else await sight.of_room(caller.node, room, caller.user_id)
    if room is None or seen is None or seen.last[1] != "join":
        raise NotFound("There is no such event, or you have not joined the room")
    event = await history.find(caller.node, room, seen, event_id)
    await reports.add(server, caller, reason, room_id=room_id, event_id=event_id, about=event.sender)
