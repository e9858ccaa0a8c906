"""What time does to orders: they expire, and gags end. Done by a job, and noted, so that a clock that is set back later
changes nothing. The job also has a key log that began anew state the register.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from homeserver.disclosure import conditions, register, steps
from homeserver.disclosure.conditions import Why
from homeserver.protocol.disclosure_register import Kind
from homeserver.protocol.errors import NodeUnavailable, RegisterDamaged
from homeserver.storage import disclosures

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.disclosure.steps import Taken
    from homeserver.protocol.disclosure_orders import Order
    from homeserver.protocol.errors import DisclosureRefused
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("disclosure")


async def lapse_all(server: Server) -> None:
    """Do it on all nodes; one that is down, or whose register is damaged, keeps no other waiting."""
    for node in server.nodes:
        await lapse_quietly(server, node)


async def lapse_quietly(server: Server, node: Node) -> None:
    """Do it on a node, if it is there and its register whole; otherwise say so in the log."""
    try:
        await lapse(server, node)
    except NodeUnavailable:
        return
    except RegisterDamaged as damaged:
        log.error("register of disclosures damaged", node=node.name, fault=damaged.message)


async def lapse(server: Server, node: Node) -> None:
    """Note how late it is on a node, and what is over. Raises RegisterDamaged, NodeUnavailable."""
    if not await node.read(register.is_stated):
        await node.write(register.state_again, server)
    if await node.read(disclosures.any_runs):
        await node.write(_lapse, server, node)


async def _lapse(tx: Transaction, server: Server, node: Node) -> None:
    whole = await register.sound(tx, server)
    now = conditions.time_of(server, whole)
    await disclosures.note_time(tx, now)
    for stored in await disclosures.run_out(tx, now):
        found = steps.known(tx, server, node, stored, whole)
        if found.stored.state == disclosures.OPEN and found.order.scope.expires <= now:
            await disclosures.set_state(tx, stored.number, disclosures.EXPIRED)
            await found.note(Kind.EXPIRED, {}, {})
        if stored.gag_until is not None and stored.gag_until <= now:
            await _unseal(found)


async def _unseal(found: Taken) -> None:
    await disclosures.end_gag(found.tx, found.order.number)
    ungagged = found._replace(stored=found.stored._replace(gag_until=None))
    await ungagged.note(Kind.UNSEALED, {}, {})


async def unseal(server: Server, node: Node, number: int) -> Order:
    """End the gag of an order before its time: what the register says of it is told from now on.

    Raises DisclosureRefused when it is under none, NotFound.
    """

    async def take(found: Taken) -> Order | DisclosureRefused:
        if not found.gagged:
            return conditions.refusal(Why.NOT_OPEN, f"The order {found.order.label} is under no gag")
        await _unseal(found)
        return found.order

    return await steps.step(server, node, number, "unsealing", take)
