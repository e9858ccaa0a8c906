"""Examinations of a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given_node
from homeserver.doctor import examining

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def doctor(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Examine everything, or the ``node`` named."""
    name = given_node(server, arguments)
    examined = [node.name for node in server.nodes] if name is None else [name]
    found = await examining.examine(server, [] if name is None else [name])
    return {"examined": examined, "findings": [each.shown() for each in found]}
