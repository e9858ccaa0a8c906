"""The digests of alarms in the key logs of all nodes, where nobody can delete them, and what is missing beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol import log_alarms as chain
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.key_log import Kind
from homeserver.storage import log_alarms
from homeserver.transparency import alarms, heads, statements

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
    return [
        *chain.chain_faults(links),
        *(f"the key log of {each.node} states the alarm {each.number}, which is gone" for each in await _gone(server)),
    ]


async def end(server: Server, number: int, reason: str) -> str:
    """Say what became of an alarm, or of one that key logs state and that is gone; returns about which log it was, or
    the deployment, where that is not known. Raises InvalidParam."""
    digests = sorted({each.digest for each in await _gone(server) if each.number == number})
    if digests and reason.strip():
        await alarms.note_lost(server, number, digests, reason)
        heads.stir(server)
        return server.name
    link = await alarms.end(server, number, reason)
    heads.stir(server)
    return link.origin


class Gone(NamedTuple):
    """A link that the log of a node states, and that the chain has not."""

    node: str
    number: int
    digest: str


async def _gone(server: Server) -> list[Gone]:
    raw = await server.nodes.directory.engine.read(log_alarms.links)
    known = {chain.digest(link) for link in raw}
    known |= {digest for link in await alarms.links(server) if link.kind is chain.Kind.LOST for digest in link.proof}
    found = []
    for node in server.nodes:
        try:
            said = await node.read(statements.stated, Kind.ALARM)
        except NodeUnavailable:
            continue
        found += [Gone(node.name, each.said.number, each.said.digest) for each in said if each.said.digest not in known]
    return found
