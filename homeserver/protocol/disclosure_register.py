"""The register of disclosures of a node: what its entries say, to whom, and what is wrong with a chain of them.

An entry is canonical JSON, signed by the node; it names its number, its kind, the order that it is about, the hash of
the entry before it, and two salted hashes: of its *details*, which are for everybody, at once or when a gag is over,
and of what is *withheld* for ever but from who has a right to it. So all of an entry stands firm from the beginning,
and is shown part by part.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidSignature, NotJson
from homeserver.protocol.signing import sign_json, verify_json

if TYPE_CHECKING:
    from homeserver.protocol.signing import SigningKey, VerifyKey

ENTRY: Final = "org.domicile.disclosure_register"
HEAD: Final = "org.domicile.disclosure_register_head"
SALT_BYTES: Final = 32


class Kind(StrEnum):
    """What has happened with an order."""

    REQUESTED = "requested"
    APPROVED = "approved"
    NARROWED = "narrowed"
    REFUSED = "refused"
    OPENED = "opened"
    EXPIRED = "expired"
    FAILED = "failed"
    """An attempt to approve or open it was refused; the order stays as it is."""
    UNSEALED = "unsealed"
    CLOCK = "clock"
    """The clock had run ahead, and was set right: time goes on from an earlier moment. It is about no order: 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an entry says for everybody at once. ``ts``: milliseconds since 1970, never less than that of the entry
    before, unless the clock was set right; ``gagged``: whether its details are not told as yet; ``details`` and
    ``withheld``: hashes, see `hidden`."""

    node: str
    jurisdiction: str
    seq: int
    previous: str | None
    ts: int
    kind: Kind
    order: int
    gagged: bool
    details: str
    withheld: str


class Hidden(NamedTuple):
    """What a hash in an entry is of: a JSON object, canonical, and a salt."""

    salt: bytes
    text: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of both, in hexadecimal."""
        return hashlib.sha256(self.salt + self.text).hexdigest()


def hidden(said: Mapping[str, Any], salt: bytes) -> Hidden:
    """What is hashed into an entry. ``salt``: 32 random bytes, without which nobody can try what it may be of."""
    return Hidden(salt, canonical.encode(said))


ENDS: Final = frozenset((Kind.REFUSED, Kind.OPENED, Kind.EXPIRED))
"""After these an order is done with."""

_FIELDS: Final = frozenset((*Entry.__dataclass_fields__, "type", "server_name", "signatures"))


def digest(record: bytes) -> str:
    """What the next entry names as ``previous``."""
    return hashlib.sha256(record).hexdigest()


def signed(entry: Entry, server_name: str, key: SigningKey) -> bytes:
    """An entry as it is kept, and shown."""
    said = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
    said = {**said, "kind": entry.kind.value, "type": ENTRY, "server_name": server_name}
    return canonical.encode(sign_json(said, server_name, key))


def verified(record: bytes, server_name: str, key: VerifyKey) -> Entry:
    """What an entry says, once it is proved that the node has signed it. Raises InvalidSignature."""
    try:
        said = canonical.parse_object(record)
        if said.keys() != _FIELDS or said["type"] != ENTRY or canonical.encode(said) != record:
            raise InvalidSignature("This is no entry of a register of disclosures")
        verify_json(said, server_name, {key.key_id: key})
        if said["server_name"] != server_name:
            raise InvalidSignature("It was signed as something else")
        kind = Kind(said["kind"])
    except (BadJson, NotJson, ValueError):
        raise InvalidSignature("This is no entry of a register of disclosures") from None
    return Entry(**{**{name: said[name] for name in Entry.__dataclass_fields__}, "kind": kind})


def signed_head(said: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """How far a register is, and what it counts, as the node says it."""
    return sign_json({**said, "type": HEAD, "server_name": server_name}, server_name, key)


class Following:
    """Reads a register entry by entry, and says what is wrong with it: one sentence for each fault."""

    def __init__(self, node: str, server_name: str, key: VerifyKey) -> None:
        self._node = node
        self._server_name = server_name
        self._key = key
        self.seq = 0
        self.digest: str | None = None
        self.ts = 0
        self.counts: Counter[Kind] = Counter()
        self._sealed: set[int] = set()
        self.digests: dict[int, str] = {}
        """The digest of each order, as it is on record."""
        self.ends: dict[int, Kind] = {}
        """What has become of orders that are done with."""

    @property
    def gagged(self) -> int:
        """How many orders there are of which nothing may be told as yet."""
        return len(self._sealed)

    def read(self, seq: int, record: bytes, details: Hidden, withheld: Hidden) -> Iterator[str]:
        """Read the next entry, which is kept under this number, with what it hashes."""
        if seq != self.seq + 1:
            yield _gone(self.seq + 1, seq - 1)
        before = self.digest if seq == self.seq + 1 else None
        self.seq, self.digest = seq, digest(record)
        try:
            entry = verified(record, self._server_name, self._key)
        except InvalidSignature:
            yield f"entry {seq} is not what this node has signed"
            return
        if (entry.node, entry.seq) != (self._node, seq):
            yield f"entry {seq} is another one: number {entry.seq} of {entry.node}"
        elif entry.previous != before:
            yield f"entry {seq} does not follow on the one before it"
        elif (entry.details, entry.withheld) != (details.digest, withheld.digest):
            yield f"what is kept of entry {seq} is not what was signed"
        elif entry.ts < self.ts and entry.kind is not Kind.CLOCK:
            yield f"entry {seq} is older than the one before it"
        self._count(entry, details)

    def _count(self, entry: Entry, details: Hidden) -> None:
        self.ts = entry.ts if entry.kind is Kind.CLOCK else max(self.ts, entry.ts)
        self.counts[entry.kind] += 1
        if entry.kind is Kind.UNSEALED:
            self._sealed.discard(entry.order)
        elif entry.gagged:
            self._sealed.add(entry.order)
        if entry.kind in (Kind.REQUESTED, Kind.NARROWED) and entry.details == details.digest:
            self.digests[entry.order] = canonical.parse_object(details.text)["order_sha256"]
        if entry.kind in ENDS:
            self.ends[entry.order] = entry.kind

    def end(self, entries: int, last: str | None) -> Iterator[str]:
        """The register ends here; by its head it has so many ``entries``, and ``last`` is the hash of the last."""
        if self.seq < entries:
            yield _gone(self.seq + 1, entries)
        elif self.seq > entries or self.digest != last:
            yield "its head is not that of this register"


def _gone(first: int, last: int) -> str:
    return f"entry {first} is gone" if first == last else f"entries {first} to {last} are gone"
