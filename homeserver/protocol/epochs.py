"""Epochs of sealed sessions: a pair of X25519 keys whose secret half is split among custodians as soon as it is there.

What is sealed to an epoch is opened by as many shares as its threshold says, and by nothing else. Of the secret nothing
is kept: shares leave here sealed to the keys of their custodians (libsodium sealed boxes), and an epoch knows them by
digest, so that each share that is entered is recognised, or refused by its place.

The shares are those of SLIP-39: 33 words, whose last three tell whether the others were copied well.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final, NamedTuple

import orjson
from nacl.bindings import crypto_box_seal, crypto_box_seal_open, crypto_scalarmult_base, sodium_pad, sodium_unpad
from nacl.exceptions import CryptoError
from nacl.utils import random as random_bytes
from shamir_mnemonic import EncryptedMasterSecret, MnemonicError, recover_ems, split_ems
from shamir_mnemonic.shamir import ShareGroup
from shamir_mnemonic.share import Share as Words

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson
from homeserver.protocol.signing import decode_base64

KEY_BYTES: Final = 32
LEAST: Final = 2
"""Shares that open an epoch, at the least: what one person can open alone is not split."""
MOST: Final = 16
"""Custodians that an epoch can have."""

LONGEST_AGENT: Final = 400
"""Characters of a user agent that are kept."""
_BLOCK: Final = 256
"""What is sealed is filled up to a multiple of so many bytes, so that its length says little."""
_EXPONENT: Final = 0  # a passphrase would be stretched by it, and there is none
_DIGEST_BYTES: Final = 32


class ShareRefused(ValueError):
    """Shares that were entered open nothing; says which, and why."""


class ShareUnreadable(ShareRefused):
    """It is no share, or was not copied well."""


class ShareOfAnother(ShareRefused):
    """It is a share, but of another epoch."""


class ShareFalse(ShareRefused):
    """It looks like a share of this epoch and is none of those that were made."""


class ShareTwice(ShareRefused):
    """The same share was entered already."""


class SharesTooFew(ShareRefused):
    """All that were entered are good, and more are needed."""


class BoxUnopened(ValueError):
    """What was sealed cannot be opened by this key, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class SealedShare:
    """A share as it is kept: ``key`` is the custodian's, ``box`` is sealed to it, ``digest`` tells the share again."""

    key: bytes
    box: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a node: ``number`` counts from 1 and is never given again; ``public_key`` is what records are sealed
    to; ``shares`` by the custodian's name, of which ``threshold`` open it."""

    node: str
    number: int
    public_key: bytes
    threshold: int
    shares: Mapping[str, SealedShare]

    def is_for(self, custodians: Mapping[str, bytes], threshold: int) -> bool:
        """Whether it was split for these custodians, and by this threshold."""
        return self.threshold == threshold and {name: share.key for name, share in self.shares.items()} == dict(
            custodians
        )


class Period(NamedTuple):
    """From when to when at the latest an epoch is used, in milliseconds since 1970."""

    since: int
    until: int


class OpenedShare(NamedTuple):
    """What a custodian finds in the box: which epoch it would open, and the words. ``period``: that of the epoch, which
    nobody can change later who does not have the words; None in boxes of before it was in them."""

    node: str
    epoch: int
    custodian: str
    threshold: int
    words: str
    period: Period | None


def read_key(text: str) -> bytes:
    """An X25519 public key in unpadded Base64. Raises ValueError."""
    try:
        key = b"" if text.endswith("=") else decode_base64(text)
    except BadJson:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("it is no X25519 key of 32 bytes in unpadded Base64")
    return key


def write_key(key: bytes) -> str:
    """A key in unpadded Base64."""
    return b64encode(key).decode().rstrip("=")


def born(node: str, number: int, custodians: Mapping[str, bytes], threshold: int, period: Period) -> Epoch:
    """A new epoch, whose secret is forgotten when this returns.

    ``custodians``: their X25519 public keys by name. Raises ValueError for a threshold or a number of custodians that
    cannot be, and for a key that nothing can be sealed to.
    """
    if not LEAST <= threshold <= len(custodians) <= MOST:
        raise ValueError(f"{threshold} of {len(custodians)} cannot be: at least {LEAST}, of at most {MOST} custodians")
    secret = bytearray(random_bytes(KEY_BYTES))
    try:
        public_key = crypto_scalarmult_base(bytes(secret))
        whole = EncryptedMasterSecret.from_master_secret(
            bytes(secret), b"", _identifier(node, number), extendable=True, iteration_exponent=_EXPONENT
        )
    finally:
        _wipe(secret)
    (parts,) = split_ems(1, [(threshold, len(custodians))], whole)
    shares = {}
    for (name, key), part in zip(custodians.items(), parts, strict=True):
        words = part.mnemonic()
        told: dict[str, Any] = {"node": node, "epoch": number, "custodian": name, "threshold": threshold}
        told |= {"words": words, **period._asdict()}
        try:
            box = crypto_box_seal(canonical.encode(told), key)
        except (CryptoError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"nothing can be sealed to the key of {name}") from error
        shares[name] = SealedShare(key, box, _digest(node, number, words))
    return Epoch(node, number, public_key, threshold, shares)


def open_share(box: bytes, secret_key: bytes) -> OpenedShare:
    """What was sealed to a custodian, opened by their secret key. Raises BoxUnopened."""
    said = _opened(box, secret_key)
    try:
        period = Period(int(said["since"]), int(said["until"])) if "since" in said else None
        return OpenedShare(
            str(said["node"]),
            int(said["epoch"]),
            str(said["custodian"]),
            int(said["threshold"]),
            str(said["words"]),
            period,
        )
    except (KeyError, TypeError, ValueError):
        raise BoxUnopened("what was sealed there is no share") from None


class SessionRecord(NamedTuple):
    """From where a device of a user was used, and when: ``ts`` in milliseconds since 1970, ``address`` and
    ``user_agent`` as its requests had them (the latter cut to LONGEST_AGENT characters), "" where they had none."""

    user_id: str
    device_id: str
    address: str
    user_agent: str
    ts: int


def seal(node: str, number: int, public_key: bytes, record: SessionRecord) -> bytes:
    """A record, sealed to the public key of an epoch of a node. Whoever seals cannot open it again."""
    said = {**record._asdict(), "user_agent": record.user_agent[:LONGEST_AGENT], "node": node, "epoch": number}
    return crypto_box_seal(sodium_pad(canonical.encode(said), _BLOCK), public_key)


class EpochSecret:
    """The secret half of an epoch's keys, for as long as records are opened; as a context it is wiped at its end."""

    __slots__ = ("_key", "epoch")

    def __init__(self, epoch: Epoch, key: bytearray) -> None:
        self.epoch = epoch
        self._key = key

    def open(self, box: bytes) -> SessionRecord:
        """A record that was sealed to the epoch. Raises BoxUnopened."""
        said = _opened(box, bytes(self._key), padded=True)
        try:
            where = str(said["node"]), int(said["epoch"])
            record = SessionRecord(
                str(said["user_id"]),
                str(said["device_id"]),
                str(said["address"]),
                str(said["user_agent"]),
                int(said["ts"]),
            )
        except (KeyError, TypeError, ValueError):
            raise BoxUnopened("what was sealed there is no record") from None
        if where != (self.epoch.node, self.epoch.number):
            raise BoxUnopened("the record says that it is of another epoch")
        return record

    def wipe(self) -> None:
        """Overwrite it. What Python has copied meanwhile is out of reach, and goes when its memory is used again."""
        _wipe(self._key)

    def __enter__(self) -> EpochSecret:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()


def recognise(epoch: Epoch, entered: Sequence[str]) -> list[str]:
    """The custodians whose shares these are, in the order in which they were entered. Any case, any white space.

    Raises ShareUnreadable, ShareOfAnother, ShareFalse, ShareTwice: for the first that is not right, by its place.
    """
    owners = {share.digest: name for name, share in epoch.shares.items()}
    found: list[str] = []
    for place, text in enumerate(entered, 1):
        words = " ".join(text.lower().split())
        try:
            share = Words.from_mnemonic(words)
        except MnemonicError:
            raise ShareUnreadable(
                f"share {place} was not copied well: its words do not agree with each other"
            ) from None
        except (ValueError, KeyError):
            raise ShareUnreadable(f"share {place} is no share") from None
        owner = owners.get(_digest(epoch.node, epoch.number, words))
        if owner is None and share.identifier != _identifier(epoch.node, epoch.number):
            raise ShareOfAnother(f"share {place} is of another epoch, not of epoch {epoch.number} of {epoch.node}")
        if owner is None:
            raise ShareFalse(f"share {place} is none of those that were made for epoch {epoch.number} of {epoch.node}")
        if owner in found:
            raise ShareTwice(f"share {place} is that of {owner}, which was entered as share {found.index(owner) + 1}")
        found.append(owner)
    return found


def combine(epoch: Epoch, entered: Sequence[str]) -> EpochSecret:
    """The secret of an epoch from shares that were entered. Raises what `recognise` raises, and SharesTooFew."""
    owners = recognise(epoch, entered)
    if len(owners) < epoch.threshold:
        raise SharesTooFew(
            f"{len(owners)} of the {epoch.threshold} shares that open epoch {epoch.number} of {epoch.node} are there"
        )
    group = ShareGroup()
    for text in entered[: epoch.threshold]:
        group.add(Words.from_mnemonic(" ".join(text.lower().split())))
    try:
        key = bytearray(recover_ems({0: group}).decrypt(b""))
    except MnemonicError:
        raise ShareFalse(f"the shares do not make the secret of epoch {epoch.number} of {epoch.node}") from None
    if crypto_scalarmult_base(bytes(key)) != epoch.public_key:
        _wipe(key)
        raise ShareFalse(f"the shares do not make the secret of epoch {epoch.number} of {epoch.node}")
    return EpochSecret(epoch, key)


def _opened(box: bytes, key: bytes, *, padded: bool = False) -> dict[str, Any]:
    try:
        clear = crypto_box_seal_open(box, crypto_scalarmult_base(key), key)
        said = orjson.loads(sodium_unpad(clear, _BLOCK) if padded else clear)
    except (CryptoError, ValueError, TypeError):
        raise BoxUnopened("it cannot be opened: another key, or not as it was sealed") from None
    if not isinstance(said, dict):
        raise BoxUnopened("what was sealed there is no object")
    return said


def _digest(node: str, number: int, words: str) -> bytes:
    """What tells a share again. The words hold 256 random bits: nobody finds them by trying."""
    said = f"{node}\n{number}\n{words}".encode()
    return blake2b(said, digest_size=_DIGEST_BYTES, person=b"epoch share").digest()


def _identifier(node: str, number: int) -> int:
    """The 15 bits that all shares of an epoch begin with, by which those of another are told apart."""
    return int.from_bytes(blake2b(f"{node}\n{number}".encode(), digest_size=2, person=b"epoch").digest(), "big") >> 1


def _wipe(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))
