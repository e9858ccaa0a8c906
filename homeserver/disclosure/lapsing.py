"""What time does to orders: they expire, and gags end. Done by a job, and noted, so that a clock that is set back later
changes nothing. The job also has a key log that began anew state the register.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog

from homeserver.disclosure import conditions, register, steps
from homeserver.disclosure.conditions import Why
from homeserver.disclosure.register import Step
from homeserver.protocol.disclosure_register import Kind
from homeserver.protocol.errors import Conflict, NodeUnavailable, RegisterDamaged
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
    if await register.set_back(server, node) is None:
        await steps.followed(server, node)
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


class SetRight(NamedTuple):
    """That a register goes on from an earlier time: how late it had known it to be (milliseconds since 1970), and which
    orders that has ended."""

    seen: int
    ended: list[str]


async def set_clock_right(server: Server, node: Node, reason: str) -> SetRight:
    """Go on by the clock of now, which had run ahead: what was over by that time is over, what was open ends, and the
    register says since when, and why, to everybody.

    Raises Conflict when the register has seen no later time, LogSetBack, RegisterDamaged.
    """
    await steps.followed(server, node)
    return await node.write(_set_clock_right, server, node, reason)


async def _set_clock_right(tx: Transaction, server: Server, node: Node, reason: str) -> SetRight:
    seen = conditions.behind(server, await register.sound(tx, server))
    if seen is None:
        raise Conflict(f"The register of {node.name} has seen no time that is still to come: there is nothing to do")
    await _lapse(tx, server, node)
    ended = await steps.end_open(tx, server, node, await register.sound(tx, server), Why.CLOCK_SET_BACK)
    now = server.clock.now_ms()
    await register.append(tx, server, node, Step(Kind.CLOCK, 0, False, {"seen": seen, "reason": reason}, {}), now)
    await disclosures.set_time(tx, now)
    return SetRight(seen, ended)


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
