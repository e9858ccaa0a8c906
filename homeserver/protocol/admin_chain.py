"""Chains of what was done in administration: what an entry says, how it is signed, and what is wrong with a chain.

An entry is canonical JSON, signed by the deployment; it names whose chain it is of, its number there and the hash of
the entry before it. So an entry that was changed, dropped or put in is seen, and by the head of the chain, which is
kept beside it, what was cut off at the end as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidSignature, NotJson
from homeserver.protocol.signing import sign_json, verify_json

if TYPE_CHECKING:
    from homeserver.protocol.signing import SigningKey, VerifyKey

KIND: Final = "org.domicile.admin_log"
"""What an entry's signature is for."""
MACHINE: Final = "operator on the machine"
"""Who acts by the command line: whoever may read the deployment's files."""


class Outcome(StrEnum):
    """How it went. What changes something has two entries: one before it, and one after it."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an entry says. ``chain``: the user whose chain it is of, "" for that of nobody; ``ts``: milliseconds since
    1970; ``who``: a user id, or `MACHINE`; ``begun``: the number of the entry whose end this one tells; ``errcode``:
    why not."""

    chain: str
    seq: int
    previous: str | None
    ts: int
    who: str
    command: str
    arguments: Mapping[str, Any]
    outcome: Outcome
    begun: int | None = None
    errcode: str | None = None


_TEXTS: Final = ("chain", "who", "command", "outcome", "server_name", "type")
_NUMBERS: Final = ("seq", "ts")
_FIELDS: Final = frozenset((*_TEXTS, *_NUMBERS, "previous", "arguments", "begun", "errcode", "signatures"))


def digest(record: bytes) -> str:
    """What the next entry names as ``previous``."""
    return hashlib.sha256(record).hexdigest()


def signed(entry: Entry, server_name: str, key: SigningKey) -> bytes:
    """An entry as it is kept."""
    said = {
        "type": KIND,
        "server_name": server_name,
        "chain": entry.chain,
        "seq": entry.seq,
        "previous": entry.previous,
        "ts": entry.ts,
        "who": entry.who,
        "command": entry.command,
        "arguments": dict(entry.arguments),
        "outcome": entry.outcome.value,
        "begun": entry.begun,
        "errcode": entry.errcode,
    }
    return canonical.encode(sign_json(said, server_name, key))


def verified(record: bytes, server_name: str, key: VerifyKey) -> Entry:
    """What an entry says, once it is proved that this deployment has signed it. Raises InvalidSignature."""
    try:
        said = canonical.parse_object(record)
        if said.keys() != _FIELDS or canonical.encode(said) != record:
            raise InvalidSignature("This is no entry of an administration log")
        verify_json(said, server_name, {key.key_id: key})
        if said["type"] != KIND or said["server_name"] != server_name:
            raise InvalidSignature("It was signed as something else")
        outcome = Outcome(said["outcome"])
    except (BadJson, NotJson, ValueError):
        raise InvalidSignature("This is no entry of an administration log") from None
    return Entry(
        chain=said["chain"],
        seq=said["seq"],
        previous=said["previous"],
        ts=said["ts"],
        who=said["who"],
        command=said["command"],
        arguments=said["arguments"],
        outcome=outcome,
        begun=said["begun"],
        errcode=said["errcode"],
    )


class Following:
    """Reads a chain entry by entry, and says what is wrong with it: one sentence for each fault."""

    def __init__(self, chain: str, server_name: str, key: VerifyKey) -> None:
        self._chain = chain
        self._server_name = server_name
        self._key = key
        self._seq = 0
        self._digest: str | None = None
        self.entry: Entry | None = None
        """The entry that was read last, if it can be believed."""

    def read(self, seq: int, record: bytes) -> Iterator[str]:
        """Read the next entry, which is kept under this number."""
        self.entry = None
        if seq != self._seq + 1:
            yield _gone(self._seq + 1, seq - 1)
        whole, before = seq == self._seq + 1, self._digest
        self._seq, self._digest = seq, digest(record)
        try:
            entry = verified(record, self._server_name, self._key)
        except InvalidSignature:
            yield f"entry {seq} is not what this deployment has signed"
            return
        if (entry.chain, entry.seq) != (self._chain, seq):
            yield f"entry {seq} is another one: number {entry.seq} of {entry.chain or 'nobody in particular'}"
        elif whole and entry.previous != before:
            yield f"entry {seq} does not follow on the one before it"
        else:
            self.entry = entry

    def end(self, entries: int, last: str | None) -> Iterator[str]:
        """The chain ends here; by its head it has so many ``entries``, and ``last`` is the hash of the last."""
        if self._seq < entries:
            yield _gone(self._seq + 1, entries)
        elif self._seq > entries or self._digest != last:
            yield "its head is not that of this chain"


def _gone(first: int, last: int) -> str:
    return f"entry {first} is gone" if first == last else f"entries {first} to {last} are gone"
