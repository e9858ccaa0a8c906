"""The log of what administrators have done, read and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.control import recording
from homeserver.control.arguments import given_node
from homeserver.protocol.errors import BadJson

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments

USUAL: Final = 500
MOST: Final = 10_000
"""Entries that are told at once."""


async def admin_log(server: Server, arguments: Arguments) -> dict[str, Any]:
    """The newest ``limit`` entries, or of these only what rests on ``node``; and what is wrong with any entry."""
    name, limit = given_node(server, arguments), arguments.get("limit")
    if limit is None:
        limit = USUAL
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= MOST:
        raise BadJson(f"'limit' must be an integer between 0 and {MOST}")
    found = await recording.read(server, name, limit)
    key = server.identity.residency_key.verify_key
    return {
        "entries": found.entries,
        "checked": found.checked,
        "intact": not found.faults,
        "faults": found.faults,
        "nodes_down": found.nodes_down,
        "key": {"key_id": key.key_id, "key": key.base64},
    }
