"""Orders to disclose something of accounts: what one says, what it comes to when it is narrowed, and who approves it.

An order is canonical JSON with a random nonce, so that its SHA-256 tells nobody anything who does not hold the order;
that digest is what approvers sign. Content of messages has no place in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidParam, InvalidSignature, NotJson
from homeserver.protocol.plain_text import is_plain
from homeserver.protocol.signing import VerifyKey, decode_base64, encode_base64

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.protocol.signing import SigningKey

ORDER: Final = "org.domicile.disclosure_order"
APPROVAL: Final = "org.domicile.disclosure_approval"

LONGEST: Final = 500
"""Characters of each text that an order has."""
MOST_ACCOUNTS: Final = 100
NONCE_BYTES: Final = 16

_DIGEST: Final = re.compile("[0-9a-f]{64}")


class Scope(NamedTuple):
    """What is to be disclosed: ``fields`` of ``accounts`` (user ids), of a period whose end does not belong to it, and
    until when that can be done. Times are milliseconds since 1970; both lists are in order, and name nothing twice."""

    accounts: tuple[str, ...]
    fields: tuple[str, ...]
    since: int
    until: int
    expires: int

    @classmethod
    def of(cls, accounts: Collection[str], fields: Collection[str], since: int, until: int, expires: int) -> Self:
        """A scope. Raises InvalidParam for one that is empty or too large, or whose period ends before it begins."""
        if not 0 < len(set(accounts)) <= MOST_ACCOUNTS:
            raise InvalidParam(f"An order names between 1 and {MOST_ACCOUNTS} accounts")
        if not fields:
            raise InvalidParam("An order names at least one field")
        if not 0 <= since < until:
            raise InvalidParam("The period of an order ends after it begins")
        return cls(tuple(sorted(set(accounts))), tuple(sorted(set(fields))), since, until, expires)

    def is_within(self, other: Scope) -> bool:
        """Whether it reaches no farther than another in anything."""
        return (
            set(self.accounts) <= set(other.accounts)
            and set(self.fields) <= set(other.fields)
            and other.since <= self.since
            and self.until <= other.until
            and self.expires <= other.expires
        )


class Ceiling(NamedTuple):
    """What the policy said of disclosure when an order was recorded."""

    serial: int
    fields: tuple[str, ...]
    approvals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order, as it was recorded on a node. ``version`` counts from 1, and grows when it is narrowed; ``gag_until``:
    until when nothing may be told of it but that it is there; ``document``: SHA-256 of the paper, in hexadecimal."""

    server_name: str
    node: str
    jurisdiction: str
    number: int
    version: int
    authority: str
    case: str
    legal_basis: str
    document: str
    scope: Scope
    gag_until: int | None
    recorded: int
    ceiling: Ceiling
    nonce: str

    @property
    def label(self) -> str:
        """What an order is called: ``tehran/3``."""
        return f"{self.node}/{self.number}"

    def write(self) -> bytes:
        """Its canonical JSON."""
        return canonical.encode(
            {
                "type": ORDER,
                "server_name": self.server_name,
                "node": self.node,
                "jurisdiction": self.jurisdiction,
                "number": self.number,
                "version": self.version,
                "authority": self.authority,
                "case": self.case,
                "legal_basis": self.legal_basis,
                "document_sha256": self.document,
                "accounts": self.scope.accounts,
                "fields": self.scope.fields,
                "since": self.scope.since,
                "until": self.scope.until,
                "expires": self.scope.expires,
                "gag_until": self.gag_until,
                "recorded": self.recorded,
                "policy": self.ceiling._asdict(),
                "nonce": self.nonce,
            }
        )

    @property
    def digest(self) -> str:
        """What approvers sign: SHA-256, in hexadecimal."""
        return hashlib.sha256(self.write()).hexdigest()

    def narrowed(self, scope: Scope, nonce: str) -> Order:
        """The next version, which reaches less far. Raises InvalidParam when it does not."""
        if scope == self.scope or not scope.is_within(self.scope):
            raise InvalidParam("A narrowing leaves out some of what the order reaches, and adds nothing")
        return replace(self, scope=scope, version=self.version + 1, nonce=nonce)


def read(text: bytes) -> Order:
    """An order that was written as canonical JSON. Raises InvalidParam for anything else."""
    try:
        said = canonical.parse_object(text)
        made = _read(said)
        if said["type"] != ORDER or made.write() != canonical.encode(said):
            raise InvalidParam("This is no order")
    except (BadJson, NotJson, KeyError, TypeError, ValueError, AttributeError):
        raise InvalidParam("This is no order") from None
    return made


def _read(said: Mapping[str, Any]) -> Order:
    policy = said["policy"]
    return Order(
        server_name=said["server_name"],
        node=said["node"],
        jurisdiction=said["jurisdiction"],
        number=said["number"],
        version=said["version"],
        authority=said["authority"],
        case=said["case"],
        legal_basis=said["legal_basis"],
        document=said["document_sha256"],
        scope=Scope.of(said["accounts"], said["fields"], said["since"], said["until"], said["expires"]),
        gag_until=said["gag_until"],
        recorded=said["recorded"],
        ceiling=Ceiling(policy["serial"], tuple(policy["fields"]), policy["approvals"]),
        nonce=said["nonce"],
    )


def text_of(name: str, value: str) -> str:
    """A text of an order. Raises InvalidParam when there is none, or too much, or what would be shown otherwise."""
    stripped = " ".join(value.split())
    if not 0 < len(stripped) <= LONGEST:
        raise InvalidParam(f"'{name}' of an order has between 1 and {LONGEST} characters")
    if not is_plain(stripped):
        raise InvalidParam(f"'{name}' of an order has characters that cannot be seen")
    return stripped


def digest_of(value: str) -> str:
    """The digest of a document. Raises InvalidParam."""
    if not _DIGEST.fullmatch(value):
        raise InvalidParam("The digest of the document is a SHA-256, in 64 small hexadecimal digits")
    return value


# -- approvals


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What an approver has signed: that the order with this digest may be carried out."""

    server_name: str
    order: str
    digest: str
    approver: str
    signature: str

    def write(self) -> bytes:
        """Its canonical JSON."""
        return canonical.encode({**self._signed(), "signature": self.signature})

    def _signed(self) -> dict[str, Any]:
        return {
            "type": APPROVAL,
            "server_name": self.server_name,
            "order": self.order,
            "order_sha256": self.digest,
            "approver": self.approver,
        }

    def check(self, key: str) -> None:
        """Raise InvalidSignature unless it was signed by this ed25519 key (unpadded Base64)."""
        try:
            signature = decode_base64(self.signature)
        except BadJson:
            signature = b""
        if not VerifyKey.from_base64("ed25519:1", key).verifies(canonical.encode(self._signed()), signature):
            raise InvalidSignature(f"The approval is not signed with the key of {self.approver}")


def approve(order: Order, approver: str, key: SigningKey) -> Approval:
    """The approval of an order by who holds the key."""
    blank = Approval(
        server_name=order.server_name, order=order.label, digest=order.digest, approver=approver, signature=""
    )
    return replace(blank, signature=key.sign(canonical.encode(blank._signed())))


def read_approval(text: bytes) -> Approval:
    """An approval; nothing is checked of its signature. Raises InvalidParam for what is none."""
    try:
        said = canonical.parse_object(text)
        made = Approval(
            server_name=said["server_name"],
            order=said["order"],
            digest=said["order_sha256"],
            approver=said["approver"],
            signature=said["signature"],
        )
        texts = all(isinstance(value, str) for value in said.values())
        if not texts or said["type"] != APPROVAL or made.write() != canonical.encode(said):
            raise InvalidParam("This is no approval")
    except (BadJson, NotJson, KeyError):
        raise InvalidParam("This is no approval; `domicile disclose sign` makes one") from None
    return made


def nonce(random: bytes) -> str:
    """A nonce as it stands in an order."""
    return encode_base64(random)
