"""What must hold for an order, at every step of it: by the policy of the day on which it was recorded, and of today.

Each condition that does not hold has a word, which is for everybody, and a sentence, which is for who asked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from homeserver.protocol import disclosure_orders
from homeserver.protocol.errors import DisclosureRefused, InvalidSignature
from homeserver.storage import disclosable, disclosures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.disclosure.register import Checked
    from homeserver.protocol.disclosure_orders import Approval, Order
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

CLOCK_MS: Final = 60_000
"""How far a clock may go back without anybody wondering."""


class Why(StrEnum):
    """Why not."""

    CLOCK_SET_BACK = "clock_set_back"
    WRONG_JURISDICTION = "wrong_jurisdiction"
    EXPIRED = "expired"
    BEYOND_CEILING = "beyond_ceiling"
    NO_APPROVERS = "no_approvers"
    ACCOUNT_ELSEWHERE = "account_elsewhere"
    DECLINED = "declined"
    NOT_OPEN = "not_open"
    OTHER_ORDER = "other_order"
    NO_APPROVER = "no_approver"
    BAD_SIGNATURE = "bad_signature"
    APPROVED_ALREADY = "approved_already"
    APPROVALS_MISSING = "approvals_missing"
    SHARES_MISSING = "shares_missing"
    SHARE_REFUSED = "share_refused"
    RECORD_UNREADABLE = "record_unreadable"
    LOG_BEGAN_ANEW = "log_began_anew"


def time_of(server: Server, register: Checked) -> int:
    """How late it is, in milliseconds since 1970: never earlier than the register has known it to be."""
    return max(server.clock.now_ms(), register.time)


def behind(server: Server, register: Checked) -> int | None:
    """How late the register has known it to be, if this machine's clock has been set back behind that."""
    return register.time if server.clock.now_ms() < register.time - CLOCK_MS else None


def moment(ts: int) -> str:
    """A time in milliseconds since 1970 as people read it."""
    return datetime.fromtimestamp(ts / 1000, UTC).isoformat(sep=" ", timespec="minutes").replace("+00:00", " UTC")


def refusal(why: Why, message: str) -> DisclosureRefused:
    """That a condition does not hold."""
    return DisclosureRefused(message, why.value)


async def unmet(
    tx: Transaction, server: Server, node: Node, order: Order, register: Checked, homes: Mapping[str, str]
) -> DisclosureRefused | None:
    """Which condition an order does not meet, beside approvals and shares; None when it meets all. ``homes``: where its
    accounts rest, as the directory says: what has yet to be erased of those who have moved is not disclosed."""
    if (seen := behind(server, register)) is not None:
        words = (
            f"By the clock of this machine it is {moment(server.clock.now_ms())}, and the register of {node.name} has"
            f" seen {moment(seen)}: set the clock right; if it is right, and had run ahead, that takes"
            f" `domicile disclose clock {node.name}`"
        )
        return refusal(Why.CLOCK_SET_BACK, words)
    if (order.server_name, order.node, order.jurisdiction) != (server.name, node.name, node.jurisdiction):
        words = f"The order is of {order.jurisdiction}, and {node.name} is in {node.jurisdiction}"
        return refusal(Why.WRONG_JURISDICTION, words)
    if order.scope.expires <= time_of(server, register):
        return refusal(Why.EXPIRED, "The order has expired")
    return _beyond(server, order) or await _elsewhere(tx, order, homes)


def _beyond(server: Server, order: Order) -> DisclosureRefused | None:
    """Whether it asks for more than the policy lets disclose; that of today, and of the day of the order."""
    today = server.policy.now.disclosure(order.jurisdiction)
    over = [field for field in order.scope.fields if field not in today.fields or field not in order.ceiling.fields]
    if over:
        could = ", ".join(field for field in today.fields if field in order.ceiling.fields) or "nothing"
        words = f"{', '.join(over)} cannot be disclosed in {order.jurisdiction}: the policy names {could}"
        return refusal(Why.BEYOND_CEILING, words)
    if not today.approvers:
        return refusal(Why.NO_APPROVERS, f"The policy names nobody who may approve disclosures in {order.jurisdiction}")
    return None


async def _elsewhere(tx: Transaction, order: Order, homes: Mapping[str, str]) -> DisclosureRefused | None:
    for user_id in order.scope.accounts:
        if homes.get(user_id) != order.node or await disclosable.resident(tx, user_id) is None:
            return refusal(Why.ACCOUNT_ELSEWHERE, f"{user_id} has no account that rests on {order.node}")
    return None


# -- approvals


def approver_refused(server: Server, order: Order, approval: Approval) -> DisclosureRefused | None:
    """Why an approval does not count today; None when it does."""
    if (approval.server_name, approval.order, approval.digest) != (server.name, order.label, order.digest):
        words = f"This is the approval of another order, or of {order.label} before it was narrowed"
        return refusal(Why.OTHER_ORDER, words)
    key = server.policy.now.disclosure(order.jurisdiction).approvers.get(approval.approver)
    if key is None:
        words = f"The policy names no approver {approval.approver} for {order.jurisdiction}"
        return refusal(Why.NO_APPROVER, words)
    try:
        approval.check(key)
    except InvalidSignature as invalid:
        return refusal(Why.BAD_SIGNATURE, invalid.message)
    return None


def needed(server: Server, order: Order) -> int:
    """How many must approve an order: what the policy says today, or said on its day, whichever is more."""
    return max(order.ceiling.approvals, server.policy.now.disclosure(order.jurisdiction).approvals)


async def counting(tx: Transaction, server: Server, order: Order) -> list[Approval]:
    """The approvals of an order that count today; one for each approver."""
    found = [disclosure_orders.read_approval(each) for each in await disclosures.approvals(tx, order.digest)]
    return [each for each in found if approver_refused(server, order, each) is None]


async def unapproved(tx: Transaction, server: Server, order: Order) -> DisclosureRefused | None:
    """Whether approvals are missing."""
    given, least = len(await counting(tx, server, order)), needed(server, order)
    if given < least:
        words = f"{given} of {least} approvals of {order.label} are there"
        return refusal(Why.APPROVALS_MISSING, words)
    return None
