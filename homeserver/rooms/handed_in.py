"""Events that another server hands to this one to put into a room: who joins, leaves or knocks through us, and
invitations of ours that it has signed. This deployment passes them on as it does its own.

spec: server-server-api/#joining-rooms
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import Forbidden, InvalidParam, NotRecommended
from homeserver.rooms import recommendations, state
from homeserver.rooms.branches import Lacking, TooMuch
from homeserver.rooms.receive import take_in
from homeserver.storage import events
from homeserver.storage.events import Verdict

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node


async def place(server: Server, node: Node, event: Event) -> StoredEvent:
    """Place a checked event in its room, whose home is ``node``, and wait for the commit.

    It goes to the other nodes and to the other servers. Raises Forbidden when the rules of the room, or its policy
    server, do not allow it, FlowDenied, LimitExceeded and ServerUnreachable when that one gives no answer in time,
    InvalidParam when it follows on events that are not here, NotFound without the room, NodeUnavailable.
    """
    try:
        event = await recommendations.asked_about(server, node, event, recommendations.SEEKING)
    except NotRecommended as reason:
        raise Forbidden(reason.message) from None
    try:
        await take_in(server, node, event.room_id, event, resident=True)
    except (Lacking, TooMuch):
        raise InvalidParam("The event does not follow on what this server knows of the room") from None
    room = await state.get(node, event.room_id)
    row = await node.read(events.by_id, room.nid, event.event_id)
    if row is None or row.verdict != Verdict.ACCEPTED:
        raise Forbidden("The rules of the room do not allow that")
    return row
