"""Sealed sessions under an order: which epochs it reaches, their secrets for as long as it is opened, and what is told.

A record's fields are told one by one: an address without its time, where the order does not reach the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.disclosure import conditions
from homeserver.disclosure.conditions import Why
from homeserver.protocol import epochs
from homeserver.protocol.epochs import BoxUnopened, EpochSecret, ShareRefused, SharesTooFew
from homeserver.storage import disclosable, sessions
from homeserver.storage import epochs as stored_epochs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from homeserver.protocol.disclosure_orders import Scope
    from homeserver.protocol.epochs import Epoch, SessionRecord
    from homeserver.protocol.errors import DisclosureRefused
    from homeserver.storage.engine import Transaction


async def epochs_of(tx: Transaction, scope: Scope, oldest: int) -> list[Epoch]:
    """The epochs to which something is sealed that is about the accounts of an order, and may be of its period.

    ``oldest``: since when records may be there (milliseconds since 1970). What is to be destroyed is not among them,
    though it has yet to be done: the node was down, or somebody has put an older database there.
    """
    due = await stored_epochs.due(tx, oldest) or 0
    reached = [
        each.epoch
        for each in await stored_epochs.every(tx)
        if each.can_be_opened and each.epoch.number > due and each.born_ts < scope.until and each.ends_ts > scope.since
    ]
    numbers = [epoch.number for epoch in reached]
    holding: set[int] = set()
    for user_id in scope.accounts if numbers else ():
        user_nid = await disclosable.resident(tx, user_id)
        if user_nid is not None:
            holding |= {each.epoch for each in await sessions.of_user(tx, user_nid, numbers)}
    return [epoch for epoch in reached if epoch.number in holding]


class Opened:
    """The secrets of epochs, while an order is opened; a context, which wipes them at its end."""

    def __init__(self) -> None:
        self._secrets: dict[int, EpochSecret] = {}

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for secret in self._secrets.values():
            secret.wipe()
        self._secrets.clear()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the epochs that are open."""
        return sorted(self._secrets)

    def combine(self, wanted: Sequence[Epoch], entered: Mapping[int, Sequence[str]]) -> DisclosureRefused | None:
        """Bring the shares of these epochs together; what is wrong with them, if they do not fit."""
        for epoch in wanted:
            try:
                self._secrets[epoch.number] = epochs.combine(epoch, entered.get(epoch.number, ()))
            except SharesTooFew as few:
                return conditions.refusal(Why.SHARES_MISSING, _sentence(few))
            except ShareRefused as refused:
                return conditions.refusal(Why.SHARE_REFUSED, _sentence(refused))
        return None

    async def records(self, tx: Transaction, scope: Scope, user_id: str) -> list[dict[str, Any]] | DisclosureRefused:
        """What an order tells of an account's sessions in its period, the oldest first. In the transaction that says
        so in the register."""
        user_nid = await disclosable.resident(tx, user_id)
        if user_nid is None or not self._secrets:
            return []
        found: list[SessionRecord] = []
        for each in await sessions.of_user(tx, user_nid, self.numbers):
            try:
                found.append(self._secrets[each.epoch].open(each.box))
            except BoxUnopened as unopened:
                words = f"A sealed record of {user_id} cannot be read: {unopened}"
                return conditions.refusal(Why.RECORD_UNREADABLE, words)
        within = [each for each in found if each.user_id == user_id and scope.since <= each.ts < scope.until]
        return _told(scope, sorted(within, key=lambda each: each.ts))


def _told(scope: Scope, found: Sequence[SessionRecord]) -> list[dict[str, Any]]:
    """Those parts of records that are in scope; what is the same without the others is told once."""
    told: list[dict[str, Any]] = []
    for record in found:
        parts: dict[str, Any] = {}
        if "ip_addresses" in scope.fields:
            parts["ip_address"] = record.address
        if "user_agents" in scope.fields:
            parts["user_agent"] = record.user_agent
        if "last_seen" in scope.fields:
            parts["seen"] = record.ts
        if parts not in told:
            told.append(parts)
    return told


def _sentence(refused: ShareRefused) -> str:
    text = str(refused)
    return text[:1].upper() + text[1:]
