"""The digests of alarms in the key logs of all nodes, where nobody can delete them, and what is missing beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol import log_alarms as chain
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.key_log import Kind
from homeserver.storage import log_alarms
from homeserver.transparency import alarms, statements

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


async def catch_up(server: Server, node: Node) -> None:
    """Have the log of a node state the links of the chain of alarms that it does not yet. Raises NodeUnavailable."""
    await alarms.links(server)  # for the metrics
    links = await server.nodes.directory.engine.read(log_alarms.links)
    if not links:
        return
    said = {each.said.digest for each in await node.read(statements.stated, Kind.ALARM)}
    for place, link in enumerate(links, start=1):
        if (digest := chain.digest(link)) not in said:
            number = chain.number_of(link, place)
            await node.write(_append, server, number, digest)


async def _append(tx: Transaction, server: Server, number: int, digest: str) -> bool:
    return await statements.append(server, tx, Kind.ALARM, number, digest, server.clock.now_ms())


async def faults(server: Server) -> list[str]:
    """What is wrong with the chain of alarms, one sentence each: by itself, and as the logs of the nodes know it."""
    links = await server.nodes.directory.engine.read(log_alarms.links)
    found, digests = list(chain.chain_faults(links)), {chain.digest(link) for link in links}
    for node in server.nodes:
        try:
            said = await node.read(statements.stated, Kind.ALARM)
        except NodeUnavailable:
            continue
        found += [
            f"the key log of {node.name} states the alarm {each.said.number}, which is gone"
            for each in said
            if each.said.digest not in digests
        ]
    return found
