"""Leaving a jurisdiction. What cannot be taken back is done at the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.control.declarations import (
    ANYTHING,
    FLAG,
    NUMBER,
    TEXT,
    Declared,
    Schema,
    by_name,
    listed,
    made_of,
    maybe,
    need,
    one_of,
    take,
)
from homeserver.control.declared.policy import ALL, EDITORS

_JURISDICTION: Final = need("jurisdiction", "The jurisdiction that is left, such as IR.")
_FOR_EVER: Final = "it cannot be taken back"

_LEFT: Final[Schema] = made_of(residents=NUMBER, accounts=NUMBER, files=NUMBER, bytes=NUMBER)
_EXAMINED: Final[Schema] = made_of(
    jurisdiction=TEXT,
    ends_ts=NUMBER,
    nodes=by_name(_LEFT),
    obstacles=listed(TEXT),
    digest=TEXT,
    approvals=made_of(needed=NUMBER, given=listed(TEXT)),
)
_WITHDRAWAL: Final[Schema] = made_of(
    plan=TEXT,
    jurisdiction=TEXT,
    nodes=listed(TEXT),
    state=TEXT,
    announced_ts=NUMBER,
    ends_ts=NUMBER,
    account=by_name(ANYTHING),
    receipt=maybe(TEXT),
    servers_waiting=NUMBER,
)
_PROGRESS: Final[Schema] = made_of({"step": TEXT, "moved": NUMBER, "to_move": NUMBER, "jurisdiction": TEXT}, done=FLAG)

DECLARED: Final[Mapping[str, Declared]] = {
    "residency-withdraw-status": Declared(
        says="How far the withdrawals from jurisdictions are, and the receipts of those that have ended",
        roles=ALL,
        changes=False,
        door=("GET", "/residency/leaving"),
        arguments=(take("jurisdiction", "Only this one."),),
        answer=made_of(withdrawals=listed(_WITHDRAWAL)),
    ),
    "residency-withdraw": Declared(
        says="Announce that a jurisdiction is left, if that still is what was seen; or say what it would come to",
        roles=EDITORS,
        changes=True,
        looks_if="dry_run",
        door=("POST", "/residency/leaving"),
        arguments=(
            _JURISDICTION,
            need("until", "When accounts may be closed, in milliseconds since 1970.", NUMBER),
            take("plan", "The digest of what was seen."),
            take("dry_run", "Say what it would come to, and do nothing.", FLAG),
        ),
        answer=one_of(_EXAMINED, _WITHDRAWAL),
    ),
    "residency-withdraw-call-off": Declared(
        says="Stay in a jurisdiction after all",
        roles=EDITORS,
        changes=True,
        door=("DELETE", "/residency/leaving/{jurisdiction}"),
        arguments=(_JURISDICTION,),
        answer=made_of(),
    ),
    "residency-withdraw-close": Declared(
        says="Close the accounts that are left in a jurisdiction whose day has come",
        roles=frozenset(),
        changes=True,
        why=_FOR_EVER,
        arguments=(_JURISDICTION,),
        answer=_PROGRESS,
    ),
    "residency-withdraw-progress": Declared(
        says="Wait a moment for the end of closing accounts",
        roles=ALL,
        changes=False,
        door=("GET", "/residency/leaving/closing"),
        answer=_PROGRESS,
    ),
    "residency-withdraw-erase": Declared(
        says="Destroy what the nodes of a jurisdiction held, which no policy has any more",
        roles=frozenset(),
        changes=True,
        why=_FOR_EVER,
        arguments=(_JURISDICTION,),
        answer=made_of(receipt=TEXT),
    ),
}
