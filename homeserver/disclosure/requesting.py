"""Recording orders of authorities, whether they can be carried out or not; narrowing them, and saying no."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

from homeserver.disclosure import conditions, register, steps
from homeserver.disclosure.conditions import Why
from homeserver.disclosure.register import Step
from homeserver.protocol import disclosure_orders
from homeserver.protocol.disclosure_orders import Ceiling, Order, Scope
from homeserver.protocol.disclosure_register import Kind
from homeserver.storage import disclosures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.disclosure.steps import Taken
    from homeserver.protocol.errors import DisclosureRefused
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


class Paper(NamedTuple):
    """What an authority has handed in. ``document``: its SHA-256, in hexadecimal; ``gag_until``: until when it wants
    nothing to be told, in milliseconds since 1970."""

    jurisdiction: str
    authority: str
    case: str
    legal_basis: str
    document: str
    gag_until: int | None


async def request(server: Server, node: Node, paper: Paper, scope: Scope) -> Order:
    """Record an order. Raises LogSetBack, and DisclosureRefused when it cannot be carried out, which is on record."""
    await steps.followed(server, node)
    homes = await server.nodes.of_users(scope.accounts)
    order, refused = await node.write(_request, server, node, paper, scope, homes)
    if refused is not None:
        raise refused
    return order


async def _request(
    tx: Transaction, server: Server, node: Node, paper: Paper, scope: Scope, homes: Mapping[str, str]
) -> tuple[Order, DisclosureRefused | None]:
    whole = await register.sound(tx, server)
    now = conditions.time_of(server, whole)
    today = server.policy.now.disclosure(node.jurisdiction)
    order = Order(
        server_name=server.name,
        node=node.name,
        jurisdiction=paper.jurisdiction,
        number=await disclosures.next_number(tx),
        version=1,
        authority=paper.authority,
        case=paper.case,
        legal_basis=paper.legal_basis,
        document=paper.document,
        scope=scope,
        gag_until=paper.gag_until,
        recorded=now,
        ceiling=Ceiling(server.policy.now.serial, today.fields, today.approvals),
        nonce=_nonce(),
    )
    refused = await conditions.unmet(tx, server, node, order, whole, homes)
    state = disclosures.OPEN if refused is None else disclosures.REFUSED
    gag = None if paper.gag_until is None or paper.gag_until <= now else paper.gag_until
    await disclosures.put_order(tx, order.number, order.write(), state, scope.expires, gag)
    entries = [(Kind.REQUESTED, steps.told(order), steps.withheld(order))]
    if refused is not None:
        entries.append((Kind.REFUSED, {"why": refused.why}, {"said": refused.message}))
    for kind, details, withheld in entries:
        await register.append(tx, server, node, Step(kind, order.number, gag is not None, details, withheld), now)
    return order, refused


def _nonce() -> str:
    return disclosure_orders.nonce(secrets.token_bytes(disclosure_orders.NONCE_BYTES))


class Narrowing(NamedTuple):
    """What is left of a scope; None: all that there is of it."""

    accounts: Sequence[str] | None = None
    fields: Sequence[str] | None = None
    since: int | None = None
    until: int | None = None
    expires: int | None = None

    def of(self, scope: Scope) -> Scope:
        """The narrower scope, or what is meant to be. Raises InvalidParam for one that is empty."""
        return Scope.of(
            *(had if wished is None else wished for wished, had in zip(self, scope, strict=True))  # type: ignore[arg-type]
        )


async def narrow(server: Server, node: Node, number: int, narrowing: Narrowing, reason: str) -> Order:
    """Leave out some of what an order reaches; what was approved before has to be approved again.

    Raises DisclosureRefused for an order that is done with, InvalidParam for what is no narrowing, NotFound.
    """

    async def take(found: Taken) -> Order | DisclosureRefused:
        if found.stored.state != disclosures.OPEN:
            return not_open(found)
        order = found.order.narrowed(narrowing.of(found.order.scope), _nonce())
        await disclosures.put_order(found.tx, number, order.write(), disclosures.OPEN, order.scope.expires, None)
        await found.note(Kind.NARROWED, steps.told(order), {**steps.withheld(order), "reason": reason})
        return order

    return await steps.step(server, node, number, "narrowing", take)


async def decline(server: Server, node: Node, number: int, reason: str) -> Order:
    """Say no to an order. Raises DisclosureRefused for one that is done with, NotFound."""

    async def take(found: Taken) -> Order | DisclosureRefused:
        if found.stored.state != disclosures.OPEN:
            return not_open(found)
        await disclosures.set_state(found.tx, number, disclosures.REFUSED)
        await found.note(Kind.REFUSED, {"why": Why.DECLINED.value}, {"reason": reason})
        return found.order

    return await steps.step(server, node, number, "refusal", take)


def not_open(found: Taken) -> DisclosureRefused:
    """That an order is done with."""
    words = {
        disclosures.REFUSED: "was refused",
        disclosures.OPENED: "was opened already; whoever needs it again needs another order",
        disclosures.EXPIRED: "has expired",
    }
    why = Why.EXPIRED if found.stored.state == disclosures.EXPIRED else Why.NOT_OPEN
    return conditions.refusal(why, f"The order {found.order.label} {words[found.stored.state]}")
