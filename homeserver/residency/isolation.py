"""Declared isolation: nothing leaves a jurisdiction, and nothing goes there from the other nodes, until it is released.

It closes borders over whatever the policy lets flow (`config.policy`), so all that asks the policy asks it too. What
can wait stays on its node and is asked of the policy of the day when the border is open again; what other servers bring
meanwhile is taken in, since it has crossed already.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.protocol.errors import Conflict, InvalidParam, NodeUnavailable
from homeserver.storage import isolations, outbox, peers
from homeserver.storage.isolations import Isolation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server

log = structlog.get_logger("residency.isolation")


async def declare(server: Server, jurisdiction: str, reason: str) -> Isolation:
    """Close the borders of a jurisdiction. Raises InvalidParam for one without a node, Conflict if it is isolated."""
    places = {node.jurisdiction for node in server.nodes}
    if jurisdiction not in places:
        known = ", ".join(sorted(places))
        raise InvalidParam(f"No node stands in {jurisdiction}, so there is nothing to isolate; nodes stand in {known}")
    isolation = Isolation(jurisdiction, server.clock.now_ms(), reason)
    if not await server.nodes.directory.engine.write(isolations.put, isolation):
        raise Conflict(f"{jurisdiction} is isolated already; `domicile isolation status` says since when")
    await _put_in_force(server)
    log.warning("isolated: nothing crosses its borders", jurisdiction=jurisdiction, reason=reason)
    return isolation


async def release(server: Server, jurisdiction: str) -> None:
    """Open the borders again. Raises Conflict when the jurisdiction is not isolated."""
    if not await server.nodes.directory.engine.write(isolations.remove, jurisdiction):
        raise Conflict(f"{jurisdiction} is not isolated")
    await _put_in_force(server)
    log.warning("not isolated any more: what waits is asked of the policy and sent", jurisdiction=jurisdiction)


async def declared(server: Server) -> Sequence[Isolation]:
    """What is isolated now."""
    return await server.nodes.directory.engine.read(isolations.every)


async def waiting(server: Server) -> list[dict[str, Any]]:
    """What waits on each node to cross a border: rows for each other node, and the number of servers for which anything
    waits. A node that is down is left out."""
    found = []
    for node in server.nodes:
        with suppress(NodeUnavailable):
            rows = await node.read(outbox.depth)
            servers = await node.read(peers.unsent)
            found.append({"node": node.name, "rows_for_nodes": rows, "servers": len(servers)})
    return found


async def load(server: Server) -> None:
    """Put in force what has been declared."""
    server.policy.isolated = frozenset(each.jurisdiction for each in await declared(server))


async def _put_in_force(server: Server) -> None:
    await load(server)
    for node in server.nodes:  # what waits for another node may go now
        server.wake_outbox(node)
