"""Checkpoints of a log (C2SP tlog-checkpoint): which log, how many leaves, which root, and who signed that.

The text of a checkpoint is what the log and its witnesses sign, byte for byte; so it is kept as it was read, and two
texts that say the same do not exist: what is not written in the one way is refused.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.protocol import merkle, signed_notes
from homeserver.protocol.signed_notes import COSIGNATURE, ED25519, InvalidNote, NamedKey, Note, Signature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.protocol.signing import SigningKey

_DIGITS: Final = frozenset("0123456789")


class Head(NamedTuple):
    """How far a log is: so many leaves under this root."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says. ``origin``: which log; ``extensions``: further lines, which are signed too.

    Raises InvalidNote for what could not be written.
    """

    origin: str
    head: Head
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_line(self.origin, "The origin")
        for line in self.extensions:
            _check_line(line, "A line behind the root")
        if not 0 <= self.head.size <= merkle.LARGEST:
            raise InvalidNote(f"A log does not have {self.head.size} leaves")
        if len(self.head.root) != merkle.HASH_BYTES:
            raise InvalidNote(f"The root has {len(self.head.root)} bytes, not {merkle.HASH_BYTES}")
        if self.head.size == 0 and self.head.root != merkle.EMPTY_ROOT:
            raise InvalidNote("A log without leaves has another root")

    @property
    def text(self) -> str:
        """What is signed."""
        lines = (self.origin, str(self.head.size), b64encode(self.head.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    def extension(self, word: str) -> str | None:
        """What the first line behind the root says that begins with this word and a space."""
        return next((line[len(word) + 1 :] for line in self.extensions if line.startswith(word + " ")), None)


def _check_line(line: str, what: str) -> None:
    if not line or any(each < " " for each in line):
        raise InvalidNote(f"{what} is empty, or has a control character")


def read(text: str) -> Checkpoint:
    """What the text of a note says, if that is a checkpoint. Raises InvalidNote, which says why it is none."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop():
        raise InvalidNote("A checkpoint has a line for its log, one for the size and one for the root")
    origin, size, root, *extensions = lines
    if not is_size(size):
        raise InvalidNote(f"{size[:30]!r} is no size of a log")
    try:
        hashed = b64decode(root, validate=True)
    except (NotBase64, ValueError):
        raise InvalidNote("The root is not Base64") from None
    found = Checkpoint(origin, Head(int(size), hashed), tuple(extensions))
    if found.text != text:
        raise InvalidNote("The root is not Base64 as it is written")
    return found


def is_size(text: str) -> bool:
    """Whether this is a size of a log, as it is written."""
    return bool(text) and _DIGITS.issuperset(text) and (text[0] != "0" or text == "0") and len(text) <= 19


def signed(checkpoint: Checkpoint, key: SigningKey) -> Note:
    """A checkpoint under the signature of its log, whose key is called like the log. Raises InvalidNote."""
    return Note(checkpoint.text, (signed_notes.sign(checkpoint.text, checkpoint.origin, key),))


def opened(note: Note, key: NamedKey) -> Checkpoint:
    """What a note says that is signed by the log to which ``key`` belongs.

    Raises InvalidNote when it is not, when the signature is not valid, or when it is of another log.
    """
    if key.kind != ED25519:
        raise InvalidNote(f"The key of {key.name} is not one of a log")
    if not signed_notes.believed(note, [key]):
        raise InvalidNote(f"There is no signature of {key.name}")
    found = read(note.text)
    if found.origin != key.name:
        raise InvalidNote(f"{key.name} signed a checkpoint of {found.origin}")
    return found


# witnesses ----------------------------------------------------------------------------------


def cosigned(note: Note, name: str, key: SigningKey, seconds: int) -> Signature:
    """A witness's signature of a checkpoint; ``seconds``: the time, since 1970. Raises InvalidNote if it is none."""
    read(note.text)
    return signed_notes.cosign(note.text, name, key, seconds)


def witnesses(note: Note, keys: Iterable[NamedKey]) -> dict[NamedKey, int]:
    """Which of these witnesses have signed, and when (seconds since 1970).

    Raises InvalidNote when what is said to be the signature of one of them is not.
    """
    known = [key for key in keys if key.kind == COSIGNATURE]
    return {key: signature.cosigned_at for key, signature in signed_notes.believed(note, known)}
