"""The orders of a deployment, for those who keep it: what has become of each, and whether the registers are whole."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.disclosure import conditions, register, steps
from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage import disclosures

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.disclosure.opening import Ready
    from homeserver.disclosure.steps import Taken
    from homeserver.protocol.disclosure_orders import Order
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


async def of_all(server: Server) -> dict[str, Any]:
    """All orders without the accounts that they name, how far the registers are, and which nodes could not be asked;
    no orders of a node whose register is not what was written."""
    orders: list[dict[str, Any]] = []
    registers: list[dict[str, Any]] = []
    down = []
    for node in server.nodes:
        try:
            found, state = await node.read(_of_node, server, node)
            set_back = await register.set_back(server, node)
        except NodeUnavailable:
            down.append(node.name)
            continue
        orders += found
        state["fault"] = state["fault"] or set_back
        registers.append({"node": node.name, **state})
    return {"orders": orders, "registers": registers, "nodes_down": down}


async def _of_node(tx: Transaction, server: Server, node: Node) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    checked = await register.check(tx, server)
    fault = checked.faults[0] if checked.faults else None
    orders = [] if fault else await disclosures.orders(tx)
    found = [await _shown(tx, server, steps.known(tx, server, node, each, checked)) for each in orders]
    return found, {"entries": checked.head.entries, "digest": checked.head.digest or None, "fault": fault}


async def _shown(tx: Transaction, server: Server, found: Taken) -> dict[str, Any]:
    order, stored = found.order, found.stored
    now = conditions.time_of(server, found.register)
    over = stored.state == disclosures.OPEN and order.scope.expires <= now  # the job has yet to come to it
    return {
        "order": order.label,
        "state": disclosures.EXPIRED if over else stored.state,
        "jurisdiction": order.jurisdiction,
        "authority": order.authority,
        "fields": order.scope.fields,
        "accounts": len(order.scope.accounts),
        "since": order.scope.since,
        "until": order.scope.until,
        "expires": order.scope.expires,
        "approvals": len(await conditions.counting(tx, server, order)),
        "needed": conditions.needed(server, order),
        "gag_until": stored.gag_until,
    }


async def one(server: Server, node: Node, number: int) -> dict[str, Any]:
    """A whole order, as approvers read it. Raises NotFound, RegisterDamaged."""
    found = await node.read(steps.taken, server, node, number)
    return {"order": orjson.loads(found.order.write()), "order_sha256": found.order.digest, "state": found.stored.state}


def for_custodians(server: Server, ready: Ready) -> dict[str, Any]:
    """What custodians are given: the order, who has approved it by which keys, and their sealed shares."""
    keys = server.policy.now.disclosure(ready.order.jurisdiction).approvers
    return {
        "order": orjson.loads(ready.order.write()),
        "approvals": [orjson.loads(each.write()) for each in ready.approvals],
        "approvers": {each.approver: keys[each.approver] for each in ready.approvals},
        "needed": conditions.needed(server, ready.order),
        "epochs": [
            {
                "epoch": epoch.number,
                "threshold": epoch.threshold,
                "shares": {name: b64encode(share.box).decode() for name, share in epoch.shares.items()},
            }
            for epoch in ready.epochs
        ],
    }


def label(order: Order) -> dict[str, Any]:
    """What is answered when a step was taken with an order."""
    return {"order": order.label, "order_sha256": order.digest}
