"""What who rests in a jurisdiction that is being left is told of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.residency.withdrawing import announcing

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node


async def to_residents(server: Server, node: Node) -> dict[str, Any] | None:
    """What who rests on a node has to know: since when it is being given up, and from when on their account may be
    closed; None where that is not so."""
    found = await announcing.of_node(server, node.name)
    if found is None:
        return None
    return {"state": found.state, "announced_ts": found.announced_ts, "ends_ts": found.ends_ts}
