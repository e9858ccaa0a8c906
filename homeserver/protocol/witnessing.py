"""What a log sends to a witness, and what the witness says to it (C2SP tlog-witness).

A witness signs a checkpoint only when it follows on the last one that it signed. Whoever sends one need not be the log,
so that a bad proof accuses nobody; two checkpoints that the log has signed, and that cannot both be true, do.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from homeserver.protocol import checkpoints, merkle, signed_notes
from homeserver.protocol.branching import Fork
from homeserver.protocol.merkle import HASH_BYTES, InvalidProof
from homeserver.protocol.signed_notes import InvalidNote

if TYPE_CHECKING:
    from homeserver.protocol.checkpoints import Checkpoint, Head
    from homeserver.protocol.signed_notes import NamedKey, Note

MOST_HASHES: Final = 63
"""Hashes that a proof of consistency has at most."""
SIZE_TYPE: Final = "text/x.tlog.size"
"""The content type of the size of the log with which a witness answers."""
_OLD: Final = "old "


def place_of(origin: str) -> str:
    """How a log is called in addresses of a witness."""
    return sha256(origin.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint for a witness. ``old``: the size at which the witness is believed to be; ``proof``: that the log has
    grown from there."""

    old: int
    proof: tuple[bytes, ...]
    note: Note

    def write(self) -> bytes:
        """The body of the request."""
        lines = (f"{_OLD}{self.old}", *(b64encode(each).decode() for each in self.proof), "")
        return "".join(f"{line}\n" for line in lines).encode() + self.note.write()


def read(raw: bytes) -> Submission:
    """The body of a request, of which nothing is believed yet. Raises InvalidNote, which says what is wrong with it."""
    head, blank, note = raw.partition(b"\n\n")
    if not blank:
        raise InvalidNote("There is no blank line between the proof and the checkpoint")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise InvalidNote("The proof is not ASCII") from None
    digits = first.removeprefix(_OLD)
    if not first.startswith(_OLD) or not checkpoints.is_size(digits):
        raise InvalidNote("The first line is written 'old SIZE'")
    if len(lines) > MOST_HASHES:
        raise InvalidNote(f"A proof of consistency has at most {MOST_HASHES} hashes")
    return Submission(int(digits), tuple(_hash(line) for line in lines), signed_notes.read(note))


def _hash(line: str) -> bytes:
    try:
        raw = b64decode(line, validate=True)
    except (NotBase64, ValueError):
        raise InvalidNote("A hash of the proof is not Base64") from None
    if len(raw) != HASH_BYTES or b64encode(raw).decode() != line:
        raise InvalidNote(f"A hash of the proof has {HASH_BYTES} bytes, in Base64")
    return raw


def read_size(raw: bytes) -> int:
    """The size with which a witness answers that it is somewhere else. Raises InvalidNote."""
    text = raw.decode("ascii", "replace").removesuffix("\n")
    if not checkpoints.is_size(text):
        raise InvalidNote("The answer is no size of a log")
    return int(text)


# judging ------------------------------------------------------------------------------------


class NotSigned(Exception):
    """Why a witness does not sign; ``status`` and ``errcode`` are those of the answer."""

    status: int = 400
    errcode: str = "M_INVALID_PARAM"


class UnknownLog(NotSigned):
    """The witness does not witness that log."""

    status, errcode = 404, "M_NOT_FOUND"


class Unbelieved(NotSigned):
    """The log has not signed it."""

    status, errcode = 403, "M_FORBIDDEN"


class Elsewhere(NotSigned):
    """The witness is at another size: ``size``."""

    status = 409

    def __init__(self, size: int) -> None:
        super().__init__(f"The last checkpoint that was signed here has {size} leaves")
        self.size = size


class Behind(Elsewhere):
    """The witness has signed more leaves than these, of which the log alone can tell whether they are among them."""


class Unproved(NotSigned):
    """The proof does not show that the log has grown from what was signed last."""

    status = 422


class Contradicted(NotSigned):
    """The log has signed two checkpoints that cannot both be true, as ``fork`` shows."""

    def __init__(self, status: int, fork: Fork) -> None:
        super().__init__("This contradicts what the log has signed before")
        self.status = status
        self.fork = fork


def judge(submission: Submission, key: NamedKey, held: Head) -> Checkpoint:
    """The checkpoint, if a witness that last signed ``held`` may sign it. Raises NotSigned."""
    try:
        made = checkpoints.opened(submission.note, key)
    except InvalidNote as fault:
        raise Unbelieved(str(fault)) from None
    size, root = made.head
    if size == held.size and root != held.root:
        raise Contradicted(409, Fork(root, ()))
    if submission.old > size:
        raise NotSigned(f"A log of {size} leaves has not grown from {submission.old}")
    if submission.old != held.size:
        raise Behind(held.size) if size < held.size else Elsewhere(held.size)
    try:
        merkle.check_consistency(*held, *made.head, submission.proof)
    except InvalidProof as fault:
        other = merkle.beginning(held.size, size, root, submission.proof)
        if other is not None and other != held.root:
            raise Contradicted(422, Fork(other, submission.proof)) from None
        raise Unproved(str(fault)) from None
    return made
