"""Opening an order: the fields in its scope are read, the register says so durably, and only then are they answered.

If the answer is lost after that, the register says opened though nothing was shown, and never the other way round. An
order opens once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from config.disclosure import SEALED
from homeserver.disclosure import conditions, sealed, steps
from homeserver.disclosure.conditions import Why
from homeserver.disclosure.requesting import not_open
from homeserver.protocol.disclosure_register import Kind
from homeserver.protocol.errors import DisclosureRefused
from homeserver.storage import disclosable, disclosures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.disclosure.steps import Taken
    from homeserver.protocol.disclosure_orders import Approval, Order
    from homeserver.protocol.epochs import Epoch
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


class Ready(NamedTuple):
    """An order that lacks nothing but the shares of these epochs."""

    order: Order
    approvals: list[Approval]
    epochs: list[Epoch]


async def ready(server: Server, node: Node, number: int) -> Ready:
    """What custodians are shown before they give their shares. Changes nothing.

    Raises NotFound, RegisterDamaged, DisclosureRefused when anything else is missing.
    """
    await steps.followed(server, node)
    return await node.read(_ready, server, node, number, await steps.homes(server, node, number))


async def _ready(tx: Transaction, server: Server, node: Node, number: int, homes: Mapping[str, str]) -> Ready:
    found = await steps.taken(tx, server, node, number, homes)
    refused = await _refused(found)
    if refused is not None:
        raise refused
    return Ready(found.order, await conditions.counting(tx, server, found.order), await _reached(found))


async def open_order(server: Server, node: Node, number: int, entered: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """What an order discloses. ``entered``: the custodians' shares by the number of the epoch; forgotten afterwards.

    Raises NotFound, RegisterDamaged, LogSetBack, and DisclosureRefused, which is in the register then.
    """
    await steps.followed(server, node)
    wanted = await node.read(_epochs, server, node, number, await steps.homes(server, node, number))
    with sealed.Opened() as secrets:
        refused = secrets.combine(wanted, entered)

        async def take(found: Taken) -> dict[str, Any] | DisclosureRefused:
            missing = await _refused(found) or refused or await _unopened(found, secrets)
            return missing if missing is not None else await _open(found, secrets)

        return await steps.step(server, node, number, "opening", take)


async def _epochs(tx: Transaction, server: Server, node: Node, number: int, homes: Mapping[str, str]) -> list[Epoch]:
    """The epochs in an order's scope; none when it is not to be opened anyway."""
    found = await steps.taken(tx, server, node, number, homes)
    return [] if await _refused(found) is not None else await _reached(found)


async def _refused(found: Taken) -> DisclosureRefused | None:
    if found.stored.state != disclosures.OPEN:
        return not_open(found)
    refused = await conditions.unmet(found.tx, found.server, found.node, found.order, found.register, found.homes)
    return refused or await conditions.unapproved(found.tx, found.server, found.order)


async def _unopened(found: Taken, secrets: sealed.Opened) -> DisclosureRefused | None:
    """Whether the order reaches other epochs by now than those whose secrets are there: it opens once, and whole."""
    if [epoch.number for epoch in await _reached(found)] == secrets.numbers:
        return None
    words = f"Meanwhile something has changed about what {found.order.label} reaches; look which shares it takes now"
    return conditions.refusal(Why.SHARES_MISSING, words)


async def _reached(found: Taken) -> list[Epoch]:
    """The epochs that it takes shares of."""
    if not _asks_sealed(found.order):
        return []
    keep = found.server.policy.now.retention(found.node.jurisdiction).sessions.ms
    return await sealed.epochs_of(found.tx, found.order.scope, found.server.clock.now_ms() - keep)


def _asks_sealed(order: Order) -> bool:
    return any(field in SEALED for field in order.scope.fields)


async def _open(found: Taken, secrets: sealed.Opened) -> dict[str, Any] | DisclosureRefused:
    order, records = found.order, 0
    accounts = []
    for user_id in order.scope.accounts:
        told = await _account(found.tx, order, user_id)
        if _asks_sealed(order):
            sessions = await secrets.records(found.tx, order.scope, user_id)
            if isinstance(sessions, DisclosureRefused):
                return sessions
            told["sessions"] = sessions
            records += len(sessions)
        accounts.append(told)
    await disclosures.set_state(found.tx, order.number, disclosures.OPENED)
    details = {
        "accounts": len(accounts),
        "fields": order.scope.fields,
        "since": order.scope.since,
        "until": order.scope.until,
        "epochs": secrets.numbers,
        "records": records,
        "order_sha256": order.digest,
    }
    await found.note(Kind.OPENED, details, {"accounts": order.scope.accounts})
    return {"order": order.label, "accounts": accounts}


async def _account(tx: Transaction, order: Order, user_id: str) -> dict[str, Any]:
    """Those fields in scope that are columns of an account, and no others."""
    told: dict[str, Any] = {"user_id": user_id}
    user_nid, until = await disclosable.resident(tx, user_id), order.scope.until
    if user_nid is None:
        return told
    if "phone_number" in order.scope.fields:
        told["phone_number"] = await disclosable.phone_numbers(tx, user_nid, until)
    if "email_address" in order.scope.fields:
        told["email_address"] = await disclosable.email_addresses(tx, user_nid, until)
    if "registration_time" in order.scope.fields:
        told["registration_time"] = await disclosable.registration_time(tx, user_nid, until)
    return told
