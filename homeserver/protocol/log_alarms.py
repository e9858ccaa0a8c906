"""Alarms about a log: what was seen, the two signed checkpoints that prove it, and what its operator said of it later.

They are links of a chain, each naming the digest of the one before it. Nothing ends an alarm but a further link, so
that both stay visible; and since the digests go into key logs, the chain cannot be cut short unseen.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol import branching, canonical, checkpoints, merkle, signed_notes
from homeserver.protocol.errors import BadJson
from homeserver.protocol.merkle import InvalidProof
from homeserver.protocol.signed_notes import InvalidNote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from homeserver.protocol.signed_notes import NamedKey


class Kind(StrEnum):
    """What a link of the chain says."""

    TWO_HISTORIES = "two_histories"
    """The log has signed two checkpoints of which the second does not go on from the first."""
    SET_BACK = "set_back"
    """The log is behind a checkpoint that it has signed and that a witness holds."""
    ENDED = "ended"
    """An operator has said what became of an alarm."""
    LOST = "lost"
    """An operator has said why links are gone that key logs state."""


class Side(StrEnum):
    """Who saw it."""

    LOG = "log"
    WITNESS = "witness"


class NoAlarm(ValueError):
    """That is no link of a chain of alarms; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link. ``time``: seconds since 1970; ``previous``: the digest of the link before, empty in the first.

    Of an alarm: ``held`` is the checkpoint that a witness has signed, or one that goes on from that, ``shown`` the
    other. ``other``: the root that the first leaves of the larger of both have (of ``shown``, where they are as large),
    as many as are in the smaller, in Base64, and ``proof``, that they have it: a proof of consistency between that and
    the larger. ``key``: what both are believed by. ``witness``: who holds ``held``, where the log saw it. Of an ending:
    ``ends`` is the number of the alarm; of what is lost, ``proof`` has the digests, too.
    """

    number: int
    previous: str
    time: int
    kind: Kind
    origin: str
    side: Side = Side.LOG
    key: str = ""
    held: str = ""
    shown: str = ""
    other: str = ""
    proof: tuple[str, ...] = ()
    witness: str = ""
    ends: int = 0
    reason: str = ""

    def write(self) -> bytes:
        """The bytes of which `digest` is taken: canonical JSON."""
        return canonical.encode({**asdict(self), "kind": self.kind.value, "side": self.side.value})

    def shown_json(self) -> dict[str, Any]:
        """As JSON, with its digest, for whoever wants to check it."""
        return {**orjson.loads(self.write()), "sha256": digest(self.write())}


def digest(written: bytes) -> str:
    """The digest of a link, in hexadecimal."""
    return sha256(written).hexdigest()


_PLAIN: Final = (str, int, tuple, Kind, Side)


def read(raw: bytes) -> Link:
    """What a link says. Raises NoAlarm, also for what says the same in other bytes."""
    try:
        found = orjson.loads(raw)
        link = Link(
            **{
                **found,
                "kind": Kind(found["kind"]),
                "side": Side(found["side"]),
                "proof": tuple(found["proof"]),
            }
        )
        if any(type(each) not in _PLAIN for each in (*asdict(link).values(), *link.proof)):
            raise NoAlarm("a link has words, numbers and hashes, and nothing else")
        again = link.write()
    except (ValueError, TypeError, KeyError, AttributeError, BadJson) as fault:
        raise NoAlarm(f"that is no alarm: {fault}") from None
    if again != raw:
        raise NoAlarm("an alarm is written in another way")
    return link


def number_of(raw: bytes, otherwise: int) -> int:
    """The number that a link says it has; ``otherwise``, where it says none."""
    try:
        return read(raw).number
    except NoAlarm:
        return otherwise


def chain_faults(links: Sequence[bytes]) -> Iterator[str]:
    """What is wrong with a chain, one sentence each; what was cut off at its end it cannot show."""
    previous = ""
    for number, raw in enumerate(links, start=1):
        try:
            link = read(raw)
        except NoAlarm as fault:
            yield f"the link {number} is none: {fault}"
        else:
            if link.number != number or link.previous != previous:
                yield f"the link {number} does not follow on the one before it"
        previous = digest(raw)


def open_alarms(links: Sequence[Link]) -> list[Link]:
    """The alarms that nobody has ended."""
    ended = {link.ends for link in links if link.kind is Kind.ENDED}
    return [link for link in links if link.kind in _ALARMS and link.number not in ended]


_ALARMS: Final = (Kind.TWO_HISTORIES, Kind.SET_BACK)


def check(link: Link) -> None:
    """Raise NoAlarm unless the checkpoints in an alarm prove what it says, to anybody who believes its ``key``."""
    try:
        key = signed_notes.NamedKey.read(link.key)
        held, shown = _opened(link.held, key), _opened(link.shown, key)
        if link.origin != held.origin:
            raise NoAlarm("the checkpoints are of another log")
        if link.kind is Kind.SET_BACK:
            if held.head.size <= shown.head.size:
                raise NoAlarm("the log is not behind the other checkpoint")
            return
        other, *proof = (_unbase64(each) for each in (link.other, *link.proof))
        smaller, larger = branching.in_order(held.head, shown.head)
        merkle.check_consistency(smaller.size, other, *larger, proof)
    except (InvalidNote, InvalidProof) as fault:
        raise NoAlarm(str(fault)) from None
    if other == smaller.root:
        raise NoAlarm("the two checkpoints agree")


def _opened(text: str, key: NamedKey) -> checkpoints.Checkpoint:
    return checkpoints.opened(signed_notes.read(text.encode()), key)


def _unbase64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise NoAlarm("the proof is not Base64") from None


def base64(raw: bytes) -> str:
    """A hash as it stands in an alarm."""
    return b64encode(raw).decode()
