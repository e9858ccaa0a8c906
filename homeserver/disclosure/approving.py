"""Approvals of an order: each is a signature of an approver's own key, made where the key is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.disclosure import conditions, steps
from homeserver.disclosure.conditions import Why
from homeserver.disclosure.requesting import not_open
from homeserver.protocol import disclosure_orders
from homeserver.protocol.disclosure_register import Kind
from homeserver.storage import disclosures

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.disclosure.steps import Taken
    from homeserver.protocol.errors import DisclosureRefused
    from homeserver.storage.nodes import Node


async def approve(server: Server, node: Node, number: int, text: bytes) -> dict[str, Any]:
    """Take an approval. Returns who has approved, and how many have to.

    Raises InvalidParam for what is none, NotFound, DisclosureRefused.
    """
    approval = disclosure_orders.read_approval(text)

    async def take(found: Taken) -> dict[str, Any] | DisclosureRefused:
        if found.stored.state != disclosures.OPEN:
            return not_open(found)
        refused = await conditions.unmet(found.tx, server, node, found.order, found.register, found.homes)
        refused = refused or conditions.approver_refused(server, found.order, approval)
        if refused is not None:
            return refused
        if approval.approver in [each.approver for each in await conditions.counting(found.tx, server, found.order)]:
            words = f"{approval.approver} has approved {found.order.label} already"
            return conditions.refusal(Why.APPROVED_ALREADY, words)
        await disclosures.put_approval(found.tx, approval.digest, approval.approver, text)
        counting = await conditions.counting(found.tx, server, found.order)
        least = conditions.needed(server, found.order)
        await found.note(
            Kind.APPROVED,
            {"approvals": len(counting), "needed": least, "order_sha256": approval.digest},
            {"approver": approval.approver, "signature": approval.signature},
        )
        return {"order": found.order.label, "given": [each.approver for each in counting], "needed": least}

    return await steps.step(server, node, number, "approval", take)
