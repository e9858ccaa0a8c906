"""Knocking at a room that nobody here is in, through a server that is.

spec: server-server-api/#knocking-upon-a-room
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from federation import previews
from federation.handshake import ask_template, by_any, fill, hand_in
from federation.joining import check_with
from homeserver.context import Asked
from homeserver.protocol import client_format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 4 * 1024 * 1024


async def knock(
    server: Server, node: Node, room_id: str, user_id: str, content: Mapping[str, Any], via: Sequence[str]
) -> Asked:
    """See `context.Remote.knock`."""

    async def attempt(destination: str) -> Asked:
        await check_with(server, node, destination, user_id)
        return await _through(server, node, destination, room_id, user_id, content)

    return await by_any(server, via, attempt)


async def _through(
    server: Server, node: Node, destination: str, room_id: str, user_id: str, content: Mapping[str, Any]
) -> Asked:
    template = await ask_template(server, node, destination, room_id, user_id, "knock")
    event = fill(server, template, room_id, user_id, content)
    answer = await hand_in(server, node, destination, "v1/send_knock", event, most=MOST_BYTES)
    shown = await previews.checked(server, template.rules, room_id, answer.get("knock_room_state"), whole=False)
    return Asked(event, previews.array([*shown, client_format.stripped(event.client)]))
