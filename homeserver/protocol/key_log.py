"""What a leaf of a key log says: what the public keys of one user are now, all of them, or what else is to stand there.

A user is named by the output of a verifiable random function of their Matrix id, so that a leaf tells nobody whose it
is who was not given a proof, and nobody can be in the log under two names. Signatures are no part of the digest: they
prove themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import orjson

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson
from homeserver.protocol.signing import decode_base64, encode_base64

DIGEST_BYTES: Final = 32
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_PUT_BESIDE: Final = frozenset(("signatures", "unsigned"))


class Reason(StrEnum):
    """Why a leaf was appended."""

    DEVICE_KEYS = "device_keys"
    """A device has published keys, or others than before."""
    DEVICE_REMOVED = "device_removed"
    """Devices are gone."""
    CROSS_SIGNING = "cross_signing"
    """Cross-signing keys were published, under the master key that was there or as the first."""
    IDENTITY_RESET = "identity_reset"
    """There is another master key than before."""
    DEACTIVATED = "deactivated"
    """The account was closed."""
    ARRIVED = "arrived"
    """The user has come from another node of the deployment, whose log says ``left``."""
    LEFT = "left"
    """The user has gone to another node of the deployment, whose log says ``arrived``."""
    FOUND = "found"
    """The keys were there before there was a log."""


class Kind(StrEnum):
    """What a leaf is about that is about nobody's keys."""

    POLICY = "policy"
    """A version of the residency policy is in force: its serial, and the digest of its record."""
    REGISTER = "register"
    """An entry of the register of disclosures: its number, and the head of the chain with it."""
    RECEIPT = "receipt"
    """Somebody has moved to this node or from it: how many such there have been here, and the digest of the receipt."""
    ALARM = "alarm"
    """A link of the chain of alarms about logs: its number, and its digest."""
    WITHDRAWAL = "withdrawal"
    """A jurisdiction was left: how many were so far, and the digest of the receipt, which has the last heads there."""


class NoLeaf(ValueError):
    """That is no leaf of a key log; says why."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf. ``tag``: whose keys; ``digest``: of `manifest`; ``previous``: the index of the leaf before about the
    same user, in this log; ``time``: seconds since 1970."""

    tag: bytes
    digest: bytes
    previous: int | None
    reason: Reason
    time: int

    def write(self) -> bytes:
        """The bytes that are hashed into the tree: canonical JSON."""
        return canonical.encode(
            {
                "digest": encode_base64(self.digest),
                "previous": self.previous,
                "reason": self.reason.value,
                "time": self.time,
                "user": encode_base64(self.tag),
            }
        )

    @classmethod
    def read(cls, raw: bytes) -> Leaf:
        """What a leaf says. Raises NoLeaf, also for what says the same in other bytes."""
        try:
            found = orjson.loads(raw)
            leaf = cls(
                decode_base64(found["user"]),
                decode_base64(found["digest"]),
                found["previous"],
                Reason(found["reason"]),
                found["time"],
            )
            again = leaf.write()
        except (ValueError, TypeError, KeyError, AttributeError, BadJson) as fault:
            raise NoLeaf(f"that is no leaf of a key log: {fault}") from None
        if any(type(number) is not int or number < 0 for number in (leaf.time, leaf.previous or 0)):
            raise NoLeaf("a number in a leaf is none")
        if len(leaf.tag) != DIGEST_BYTES or len(leaf.digest) != DIGEST_BYTES:
            raise NoLeaf(f"a name or digest in a leaf has {DIGEST_BYTES} bytes")
        if again != raw:
            raise NoLeaf("a leaf is written in another way")
        return leaf


@dataclass(frozen=True, slots=True)
class Statement:
    """One leaf that is about nobody's keys. ``number``: which of its kind; ``digest``: SHA-256 in hexadecimal, of what
    it is about; ``time``: seconds since 1970. Raises NoLeaf for what could not be written."""

    kind: Kind
    number: int
    digest: str
    time: int

    def __post_init__(self) -> None:
        if any(type(number) is not int or number < 0 for number in (self.number, self.time)):
            raise NoLeaf("a number in a leaf is none")
        if not isinstance(self.digest, str) or not _HEX.fullmatch(self.digest):
            raise NoLeaf(f"a digest in such a leaf has {2 * DIGEST_BYTES} hexadecimal digits")

    @property
    def tag(self) -> bytes:
        """By what it is found; longer than any name of a user."""
        return self.kind.value.encode() + b" " + bytes.fromhex(self.digest)

    def write(self) -> bytes:
        """The bytes that are hashed into the tree: canonical JSON."""
        said = {"digest": self.digest, "kind": self.kind.value, "number": self.number, "time": self.time}
        return canonical.encode(said)

    @classmethod
    def read(cls, raw: bytes) -> Statement:
        """What a leaf says. Raises NoLeaf, also for what says the same in other bytes."""
        try:
            found = orjson.loads(raw)
            made = cls(Kind(found["kind"]), found["number"], found["digest"], found["time"])
        except (ValueError, TypeError, KeyError) as fault:
            raise NoLeaf(f"that is no leaf of a key log: {fault}") from None
        if made.write() != raw:
            raise NoLeaf("a leaf is written in another way")
        return made


def read(raw: bytes) -> Leaf | Statement:
    """What a leaf of either form says. Raises NoLeaf."""
    return Statement.read(raw) if b'"kind"' in raw else Leaf.read(raw)


def tag_of(output: bytes) -> bytes:
    """How a user is named in leaves, by what the verifiable random function makes of their Matrix id."""
    return sha256(output).digest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The digests of all public keys of a user, in Base64: by device id, and by usage of cross-signing keys.

    Digests stand for keys because not everybody is shown each of them.
    """

    devices: Mapping[str, str]
    signing: Mapping[str, str]

    @classmethod
    def of(cls, devices: Mapping[str, bytes], signing: Mapping[str, bytes]) -> Manifest:
        """That of keys, which are given as JSON objects."""
        return cls(
            {device_id: encode_base64(_digest(keys)) for device_id, keys in devices.items()},
            {usage: encode_base64(_digest(key)) for usage, key in signing.items()},
        )

    def write(self) -> bytes:
        """The bytes that a leaf has a digest of: canonical JSON."""
        return canonical.encode({"devices": self.devices, "signing": self.signing})

    def covers(self, shown: Manifest, withheld: Collection[str]) -> bool:
        """Whether this speaks of the keys that somebody is shown as they are, and of no more than what is ``withheld``
        from them, and the user-signing key."""
        mine = {usage: digest for usage, digest in self.signing.items() if usage != "user_signing"}
        missing = self.devices.keys() - shown.devices.keys()
        return shown.devices.items() <= self.devices.items() and missing <= set(withheld) and mine == shown.signing

    @classmethod
    def read(cls, raw: bytes) -> Manifest:
        """What was written."""
        found = orjson.loads(raw)
        return cls(found["devices"], found["signing"])


def digest(made: bytes) -> bytes:
    """The digest of a manifest, as it stands in a leaf."""
    return sha256(made).digest()


NO_KEYS: Final = Manifest({}, {}).write()


def _digest(key: bytes) -> bytes:
    held: dict[str, Any] = orjson.loads(key)
    return sha256(canonical.encode({name: held[name] for name in held if name not in _PUT_BESIDE})).digest()
