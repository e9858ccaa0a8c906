"""The key logs of the nodes: how far they are, and beginning one anew that was set back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import needed
from homeserver.protocol.errors import InvalidParam
from homeserver.transparency import renewing, serving

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def log_status(server: Server, _: Arguments) -> dict[str, Any]:
    """How far the log of each node is."""
    return {"logs": [await serving.status(server, node) for node in server.nodes]}


async def log_begin_anew(server: Server, arguments: Arguments) -> dict[str, Any]:
    """End the log of a ``node``, for a ``reason`` that everybody is shown, and begin another."""
    name = needed(arguments, "node")
    node = next((each for each in server.nodes if each.name == name), None)
    if node is None:
        raise InvalidParam(f"There is no node {name}; there are {', '.join(each.name for each in server.nodes)}")
    return {"origin": await renewing.begin_anew(server, node, needed(arguments, "reason"))}
