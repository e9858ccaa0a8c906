"""Why residents were pinned to their node: the evidence, as it was when they got their account."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class PinEvidence(NamedTuple):
    """Why somebody was pinned. ``how``: phone, token, phone and token, choice, default, admin, service, provider;
    ``rule``: the conditions of the pin rule that matched, or ""; ``ts``: milliseconds since 1970."""

    how: str
    rule: str
    ts: int


def put(tx: Transaction, user_nid: int, evidence: PinEvidence) -> None:
    """Queue why a new resident is pinned here."""
    tx.later("INSERT INTO pins (user_nid, how, rule, ts) VALUES (?, ?, ?, ?)", [(user_nid, *evidence)])


async def find(tx: Transaction, user_nid: int) -> PinEvidence | None:
    """Why a resident was pinned; None for who came before evidence was kept."""
    row = await tx.one("SELECT how, rule, ts FROM pins WHERE user_nid = ?", user_nid)
    return None if row is None else PinEvidence(*row)
