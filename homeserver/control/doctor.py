"""Examinations of a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given
from homeserver.doctor import examining
from homeserver.protocol.errors import InvalidParam

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def doctor(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Examine everything, or the ``node`` named."""
    name = given(arguments, "node")
    names = [node.name for node in server.nodes]
    if name is not None and name not in names:
        raise InvalidParam(f"There is no node {name}; there are {', '.join(names)}")
    found = await examining.examine(server, [] if name is None else [name])
    return {"examined": names if name is None else [name], "findings": [each.shown() for each in found]}
