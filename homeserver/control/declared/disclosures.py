"""Disclosure: orders on record, their approvals, and what the register says. What an order names is not in the log of
administration: the register keeps it, where it may rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from config.disclosure import DISCLOSABLE
from homeserver.control.declarations import (
    NUMBER,
    TEXT,
    Declared,
    Kept,
    Schema,
    by_name,
    listed,
    made_of,
    maybe,
    need,
    take,
)
from homeserver.control.declared.accounts import DOWN, LOOKING, OPERATORS
from homeserver.protocol.roles import Role

_FIELDS: Final = listed({"enum": [*DISCLOSABLE]})
_NODE: Final = need("node", "The node where the order is.")
_NUMBER: Final = need("number", "The order's number there.", NUMBER)
_WHY: Final = need("reason", "Why. It is kept, and not told to everybody.", kept=Kept.NOTHING)
_LABEL: Final = made_of(order=TEXT, order_sha256=TEXT)
_STATE: Final[Schema] = {"enum": ["open", "refused", "opened", "expired"]}
_WHOLE: Final = made_of(order={"type": "object"}, order_sha256=TEXT, state=_STATE)

_SCOPE: Final = (
    take("accounts", "Localparts or user ids.", listed(TEXT), Kept.NOTHING),
    take("fields", f"Of {', '.join(DISCLOSABLE)}.", listed(TEXT), Kept.NOTHING),
    take("since", "Where the period begins, in milliseconds since 1970.", NUMBER, Kept.NOTHING),
    take("until", "Where it ends; that moment does not belong to it.", NUMBER, Kept.NOTHING),
    take("expires", "Until when the order can be opened, in milliseconds since 1970.", NUMBER, Kept.NOTHING),
)
_AT_MACHINE: Final = "What is disclosed, and the shares that open it, do not pass over the network"

DECLARED: Final[Mapping[str, Declared]] = {
    "disclose-request": Declared(
        says="Record an order to disclose something, whether it can be carried out or not",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/disclosures"),
        arguments=(
            need("jurisdiction", "The jurisdiction of the authority."),
            take("node", "The node where the accounts rest, if the jurisdiction has several."),
            need("authority", "Who orders it. Everybody is told.", kept=Kept.NOTHING),
            need("case", "The number of the case.", kept=Kept.NOTHING),
            need("legal_basis", "By which law. Everybody is told.", kept=Kept.NOTHING),
            need("document_sha256", "SHA-256 of the document, in hexadecimal.", kept=Kept.NOTHING),
            take(
                "gag_until",
                "Until when nothing may be told but that there is an order, in milliseconds since 1970.",
                NUMBER,
                Kept.NOTHING,
            ),
            *_SCOPE,
        ),
        answer=_WHOLE,
    ),
    "disclose-list": Declared(
        says="All orders without the accounts that they name, and whether the registers are whole",
        roles=LOOKING | {Role.APPROVER},
        changes=False,
        door=("GET", "/disclosures"),
        answer=made_of(
            orders=listed(
                made_of(
                    order=TEXT,
                    state=_STATE,
                    jurisdiction=TEXT,
                    authority=TEXT,
                    fields=_FIELDS,
                    accounts=NUMBER,
                    since=NUMBER,
                    until=NUMBER,
                    expires=NUMBER,
                    approvals=NUMBER,
                    needed=NUMBER,
                    gag_until=maybe(NUMBER),
                )
            ),
            registers=listed(made_of(node=TEXT, entries=NUMBER, digest=maybe(TEXT), fault=maybe(TEXT))),
            nodes_down=DOWN,
        ),
    ),
    "disclose-show": Declared(
        says="One order, whole, as approvers are to read it",
        roles=LOOKING | {Role.APPROVER},
        changes=False,
        door=("GET", "/disclosures/{node}/{number}"),
        arguments=(_NODE, _NUMBER),
        answer=_WHOLE,
    ),
    "disclose-approve": Declared(
        says="Take the approval that an approver of the policy has signed",
        roles=OPERATORS | {Role.APPROVER},
        changes=True,
        door=("POST", "/disclosures/{node}/{number}/approvals"),
        arguments=(
            _NODE,
            _NUMBER,
            need("approval", "What `domicile disclose sign` has written.", {"type": "object"}, Kept.NOTHING),
        ),
        answer=made_of(order=TEXT, given=listed(TEXT), needed=NUMBER),
    ),
    "disclose-narrow": Declared(
        says="Leave out some of what an order reaches; it has to be approved again",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/disclosures/{node}/{number}/narrow"),
        arguments=(_NODE, _NUMBER, _WHY, *_SCOPE),
        answer=_LABEL,
    ),
    "disclose-refuse": Declared(
        says="Say no to an order",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/disclosures/{node}/{number}/refuse"),
        arguments=(_NODE, _NUMBER, _WHY),
        answer=_LABEL,
    ),
    "disclose-unseal": Declared(
        says="End the gag of an order before its time",
        roles=OPERATORS,
        changes=True,
        door=("POST", "/disclosures/{node}/{number}/unseal"),
        arguments=(_NODE, _NUMBER),
        answer=_LABEL,
    ),
    "disclose-clock": Declared(
        says="Have the register go on by a clock that had run ahead and was set right; orders that are open end",
        roles=OPERATORS,
        changes=True,
        why="The clock is that of the machine",
        arguments=(
            need("node", "The node whose register has seen a later time."),
            need("reason", "What had happened to the clock. Everybody is told.", kept=Kept.NOTHING),
        ),
        answer=made_of(node=TEXT, seen=NUMBER, ended=listed(TEXT)),
    ),
    "disclose-shares": Declared(
        says="What custodians need to give their shares for an order that lacks nothing else",
        roles=OPERATORS,
        changes=False,
        why=_AT_MACHINE,
        arguments=(_NODE, _NUMBER),
        answer=made_of(
            order={"type": "object"},
            approvals=listed({"type": "object"}),
            approvers=by_name(TEXT),
            needed=NUMBER,
            epochs=listed(made_of(epoch=NUMBER, threshold=NUMBER, shares=by_name(TEXT))),
        ),
    ),
    "disclose-open": Declared(
        says="Open an order: what it reaches is read, the register says so, and then it is answered",
        roles=OPERATORS,
        changes=True,
        why=_AT_MACHINE,
        arguments=(
            _NODE,
            _NUMBER,
            take("shares", "Words by the number of the epoch.", by_name(listed(TEXT)), Kept.NOTHING),
        ),
        answer=made_of(order=TEXT, accounts=listed({"type": "object"})),
    ),
}
