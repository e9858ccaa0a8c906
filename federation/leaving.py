"""Refusing an invitation, or taking back a knock, of a room that nobody here is in, through a server that is.

spec: server-server-api/#leaving-rooms-rejecting-invites
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from federation.handshake import ask_template, by_any, fill, hand_in
from homeserver.context import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 64 * 1024


async def leave(
    server: Server, node: Node, room_id: str, user_id: str, content: Mapping[str, Any], via: Sequence[str]
) -> Asked:
    """See `context.Remote.leave`."""

    async def attempt(destination: str) -> Asked:
        return Asked(await through(server, node, destination, room_id, user_id, content), b"[]")

    return await by_any(server, via, attempt)


async def through(
    server: Server, node: Node, destination: str, room_id: str, user_id: str, content: Mapping[str, Any]
) -> Event:
    """Leave through one server. Raises BadAnswer, RemoteRefusal, ServerUnreachable, FlowDenied."""
    template = await ask_template(server, node, destination, room_id, user_id, "leave")
    event = fill(server, template, room_id, user_id, content)
    await hand_in(server, node, destination, "v2/send_leave", event, most=MOST_BYTES)
    return event
