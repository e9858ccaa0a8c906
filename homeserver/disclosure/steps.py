"""What each step of an order says in the register, and the way all steps have: what is refused is written down too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from homeserver.disclosure import register
from homeserver.disclosure.conditions import Why, time_of
from homeserver.disclosure.register import Checked, Step
from homeserver.protocol import disclosure_orders
from homeserver.protocol.disclosure_register import Kind
from homeserver.protocol.errors import DisclosureRefused, NotFound
from homeserver.storage import disclosures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.protocol.disclosure_orders import Order
    from homeserver.storage.disclosures import StoredOrder
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

T = TypeVar("T")


class Taken(NamedTuple):
    """An order as it is when a step is taken with it, in the transaction of the step."""

    tx: Transaction
    server: Server
    node: Node
    order: Order
    stored: StoredOrder
    register: Checked
    homes: Mapping[str, str] = MappingProxyType({})
    """Where the accounts rest, as the directory said before the transaction; nothing where it was not asked."""

    @property
    def gagged(self) -> bool:
        """Whether nothing may be told of it for now."""
        return self.stored.gag_until is not None

    async def note(self, kind: Kind, details: Mapping[str, Any], withheld: Mapping[str, Any]) -> None:
        """Put it into the register."""
        step = Step(kind, self.order.number, self.gagged, details, withheld)
        await register.append(self.tx, self.server, self.node, step, time_of(self.server, self.register))


def told(order: Order) -> dict[str, Any]:
    """What everybody may know of an order, at once or when its gag is over. It names nobody."""
    return {
        "version": order.version,
        "authority": order.authority,
        "legal_basis": order.legal_basis,
        "accounts": len(order.scope.accounts),
        "fields": order.scope.fields,
        "since": order.scope.since,
        "until": order.scope.until,
        "expires": order.scope.expires,
        "gag_until": order.gag_until,
        "policy_serial": order.ceiling.serial,
        "order_sha256": order.digest,
    }


def withheld(order: Order) -> dict[str, Any]:
    """What is for those only who have a right to it."""
    return {"case": order.case, "document_sha256": order.document, "accounts": order.scope.accounts}


async def homes(server: Server, node: Node, number: int) -> Mapping[str, str]:
    """Where the accounts that an order names rest, by the directory; nothing of an order that is not there."""
    stored = await node.read(disclosures.order, number)
    return {} if stored is None else await server.nodes.of_users(disclosure_orders.read(stored.body).scope.accounts)


async def taken(
    tx: Transaction, server: Server, node: Node, number: int, homes: Mapping[str, str] = MappingProxyType({})
) -> Taken:
    """An order of a node, to go on with. Raises NotFound, RegisterDamaged."""
    whole = await register.sound(tx, server)
    stored = await disclosures.order(tx, number)
    if stored is None:
        raise NotFound(f"There is no order {node.name}/{number}")
    return known(tx, server, node, stored, whole)._replace(homes=homes)


def known(tx: Transaction, server: Server, node: Node, stored: StoredOrder, whole: Checked) -> Taken:
    """An order, which has come to what the register says; it is on record there, as `register.sound` has seen."""
    end = whole.following.ends.get(stored.number)
    state = disclosures.OPEN if end is None else end.value
    return Taken(tx, server, node, disclosure_orders.read(stored.body), stored._replace(state=state), whole)


async def followed(server: Server, node: Node) -> None:
    """Make sure that the register of a node can be gone on with: its key log states it. Raises LogSetBack.

    A log that began anew, mostly since its node came back from an archive, does not: then nobody can tell what had
    become of orders that are open, and they end.
    """
    await register.followed(server, node)
    if not await node.read(register.is_stated):
        await node.write(_restated, server, node)


async def _restated(tx: Transaction, server: Server, node: Node) -> None:
    if await register.is_stated(tx):
        return
    whole = await register.state_again(tx, server)
    await end_open(tx, server, node, whole, Why.LOG_BEGAN_ANEW)


async def end_open(tx: Transaction, server: Server, node: Node, whole: Checked, why: Why) -> list[str]:
    """Refuse all orders that are open; returns how they are called."""
    ended = []
    for stored in await disclosures.orders(tx):
        found = known(tx, server, node, stored, whole)
        if found.stored.state == disclosures.OPEN:
            await disclosures.set_state(tx, stored.number, disclosures.REFUSED)
            await found.note(Kind.REFUSED, {"why": why.value}, {})
            ended.append(found.order.label)
    return ended


async def step(
    server: Server, node: Node, number: int, stage: str, take: Callable[[Taken], Awaitable[T | DisclosureRefused]]
) -> T:
    """Take a step with an order, in one transaction. What is refused is in the register when this raises it.

    ``stage``: what was tried. ``take`` changes nothing but the database, and returns the refusal. Raises LogSetBack.
    """

    async def work(tx: Transaction) -> T | DisclosureRefused:
        found = await taken(tx, server, node, number, resting)
        result = await take(found)
        if isinstance(result, DisclosureRefused):
            await found.note(Kind.FAILED, {"stage": stage, "why": result.why}, {"said": result.message})
        return result

    await followed(server, node)
    resting = await homes(server, node, number)
    result = await node.write(work)
    if isinstance(result, DisclosureRefused):
        raise result
    return result
