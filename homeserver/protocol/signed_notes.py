"""Signed notes (C2SP signed-note): a text, and signatures under it by Ed25519 keys that have names.

A note is read into the text and its signatures without believing any; `believed` says which are by keys that one
knows. A signature by a known key that is not valid spoils the whole note; one by an unknown key says nothing.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from homeserver.protocol.signing import SigningKey, VerifyKey, decode_base64

if TYPE_CHECKING:
    from collections.abc import Iterable

ED25519: Final = 1
"""A signature of the text."""
COSIGNATURE: Final = 4
"""A signature of the text and of a time, by a witness (C2SP tlog-cosignature)."""

LARGEST: Final = 1_000_000
"""Bytes of a note."""
MOST_SIGNATURES: Final = 100

_KEY_ID_BYTES: Final = 4
_SIGNATURE_BYTES: Final = 64
_TIME_BYTES: Final = 8
_DASH: Final = "— "


class InvalidNote(ValueError):
    """This is no note, or none that can be believed; says why."""


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A public key of a signer of notes: ``kind`` is ED25519 or COSIGNATURE. Raises InvalidNote for a bad name."""

    name: str
    kind: int
    key: VerifyKey

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise InvalidNote(f"{self.name!r} is no name of a key: it has no spaces and no plus signs")

    @property
    def key_id(self) -> bytes:
        """The four bytes by which a signature says that it is by this key."""
        return sha256(self.name.encode() + b"\n" + self._typed()).digest()[:_KEY_ID_BYTES]

    def _typed(self) -> bytes:
        return bytes([self.kind]) + self.key.raw

    def write(self) -> str:
        """The key as it is written down (``name+id+key``)."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(self._typed()).decode()}"

    @classmethod
    def read(cls, text: str) -> NamedKey:
        """A key that was written down. Raises InvalidNote."""
        name, *rest = text.split("+", 2)
        if len(rest) != 2:
            raise InvalidNote("A key is written name+id+key")
        typed = _unbase64(rest[1], "The key")
        if len(typed) != 33 or typed[0] not in (ED25519, COSIGNATURE):
            raise InvalidNote("The key is not an Ed25519 key for notes or cosignatures")
        found = cls(name, typed[0], VerifyKey("ed25519:note", typed[1:]))
        if found.key_id.hex() != rest[0]:
            raise InvalidNote(f"The key has the id {found.key_id.hex()}, not {rest[0]}")
        return found


def is_name(name: str) -> bool:
    """Whether keys and logs may be called so."""
    return bool(name) and "+" not in name and not any(each.isspace() or not each.isprintable() for each in name)


@dataclass(frozen=True, slots=True)
class Signature:
    """A line under a note. ``raw``: what follows the key id, whatever the kind of the key makes of it."""

    name: str
    key_id: bytes
    raw: bytes

    def write(self) -> str:
        """The line, with its end."""
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.raw).decode()}\n"

    @property
    def cosigned_at(self) -> int:
        """The time in a cosignature, in seconds since 1970. Raises InvalidNote when it is none by its length."""
        if len(self.raw) != _TIME_BYTES + _SIGNATURE_BYTES:
            raise InvalidNote(f"What {self.name} signed is no cosignature")
        return int.from_bytes(self.raw[:_TIME_BYTES], "big")


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a line break, and the signatures under it."""

    text: str
    signatures: tuple[Signature, ...]

    def write(self) -> bytes:
        """The note as it is served."""
        return (self.text + "\n" + "".join(each.write() for each in self.signatures)).encode()

    def with_signatures(self, more: Iterable[Signature]) -> Note:
        """The note with further signatures; each key keeps its last one."""
        by_key = {(each.name, each.key_id): each for each in (*self.signatures, *more)}
        return Note(self.text, tuple(by_key.values()))


def read(raw: bytes) -> Note:
    """A note, of which nothing is believed yet. Raises InvalidNote, which says what is wrong with it."""
    if len(raw) > LARGEST:
        raise InvalidNote(f"The note is larger than {LARGEST} bytes")
    try:
        whole = raw.decode()
    except UnicodeDecodeError:
        raise InvalidNote("The note is not UTF-8") from None
    if any(each < " " and each != "\n" for each in whole):
        raise InvalidNote("The note has control characters")
    text, blank, below = whole.rpartition("\n\n")
    if not blank or not text:
        raise InvalidNote("There is no blank line between the text of the note and its signatures")
    if not below or not below.endswith("\n"):
        raise InvalidNote("The note does not end with a line that is a signature")
    lines = below[:-1].split("\n")
    if len(lines) > MOST_SIGNATURES:
        raise InvalidNote(f"The note has more than {MOST_SIGNATURES} signatures")
    return Note(text + "\n", tuple(_read_signature(line) for line in lines))


def read_signatures(raw: bytes) -> list[Signature]:
    """Lines of signatures without the note, as a witness answers. Raises InvalidNote."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidNote("The signatures are not UTF-8") from None
    if not text.endswith("\n"):
        raise InvalidNote("The signatures do not end with a line break")
    lines = text[:-1].split("\n")
    if len(lines) > MOST_SIGNATURES:
        raise InvalidNote(f"There are more than {MOST_SIGNATURES} signatures")
    return [_read_signature(line) for line in lines]


def _read_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not is_name(name):
        raise InvalidNote("A signature is written '— name signature'")
    raw = _unbase64(encoded, f"The signature of {name}")
    if len(raw) <= _KEY_ID_BYTES:
        raise InvalidNote(f"The signature of {name} is too short")
    return Signature(name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])


def _unbase64(text: str, what: str) -> bytes:
    try:
        raw = b64decode(text, validate=True)
    except (NotBase64, ValueError):
        raise InvalidNote(f"{what} is not Base64") from None
    if b64encode(raw).decode() != text:  # the same bytes in two ways
        raise InvalidNote(f"{what} is not Base64 as it is written")
    return raw


# signing ------------------------------------------------------------------------------------


def public_key(name: str, key: SigningKey, kind: int = ED25519) -> NamedKey:
    """The key by which the signatures of ``key`` are believed."""
    return NamedKey(name, kind, key.verify_key)


def sign(text: str, name: str, key: SigningKey) -> Signature:
    """A signature of a text, which must be fit for a note. Raises InvalidNote."""
    _check_text(text)
    return Signature(name, public_key(name, key).key_id, decode_base64(key.sign(text.encode())))


def cosign(text: str, name: str, key: SigningKey, seconds: int) -> Signature:
    """A witness's signature of the text of a checkpoint, at a time in seconds since 1970. Raises InvalidNote."""
    _check_text(text)
    signature = decode_base64(key.sign(_cosigned(text, seconds)))
    return Signature(name, public_key(name, key, COSIGNATURE).key_id, seconds.to_bytes(_TIME_BYTES, "big") + signature)


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(each < " " and each != "\n" for each in text):
        raise InvalidNote("The text of a note ends with a line break and has no control characters")


# believing ----------------------------------------------------------------------------------


def verifies(note: Note, signature: Signature, key: NamedKey) -> bool:
    """Whether this signature is by this key, and of the text of this note."""
    if (signature.name, signature.key_id) != (key.name, key.key_id):
        return False
    if key.kind == ED25519:
        return key.key.verifies(note.text.encode(), signature.raw)
    if len(signature.raw) != _TIME_BYTES + _SIGNATURE_BYTES:
        return False
    return key.key.verifies(_cosigned(note.text, signature.cosigned_at), signature.raw[_TIME_BYTES:])


def believed(note: Note, keys: Iterable[NamedKey]) -> list[tuple[NamedKey, Signature]]:
    """The signatures by known keys, the first of each; none, if nobody known has signed.

    Raises InvalidNote when one that says that it is by a known key is not.
    """
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[tuple[str, bytes], tuple[NamedKey, Signature]] = {}
    for signature in note.signatures:
        who = signature.name, signature.key_id
        key = known.get(who)
        if key is None or who in found:
            continue
        if not verifies(note, signature, key):
            raise InvalidNote(f"The signature of {signature.name} is not valid")
        found[who] = key, signature
    return list(found.values())
