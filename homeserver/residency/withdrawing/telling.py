"""What is told of withdrawals: to anybody, and to who rests in a jurisdiction that is being left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.residency.withdrawing import announcing
from homeserver.storage import withdrawals

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node


async def public(server: Server) -> list[dict[str, Any]]:
    """Every withdrawal: how far it is, and in the end what the nodes have signed."""
    known = await server.nodes.directory.engine.read(withdrawals.every)
    return [
        {
            "jurisdiction": each.jurisdiction,
            "nodes": list(each.nodes),
            "state": each.state,
            "announced_ts": each.announced_ts,
            "ends_ts": each.ends_ts,
            "receipt": None if each.receipt is None else orjson.loads(each.receipt),
        }
        for each in known
    ]


async def to_residents(server: Server, node: Node) -> dict[str, Any] | None:
    """What who rests on a node has to know: since when it is being given up, and from when on their account may be
    closed; None where that is not so."""
    found = await announcing.of_node(server, node.name)
    if found is None:
        return None
    return {"state": found.state, "announced_ts": found.announced_ts, "ends_ts": found.ends_ts}
