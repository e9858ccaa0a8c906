"""The form of access and refresh tokens, of authorization codes, and of what a browser holds that is signed in.

``dom_`` (or another kind: ``domr_`` for refresh tokens), the directory's keyed hash of the owner's localpart, ``_`` and
256 random bits, in URL-safe base64. The hash says on which node to look without asking all of them, wherever the owner
has moved to; it says nothing to anybody else. Only a digest of a token is stored.

Of the refresh tokens of an OAuth session, 96 of the bits are the same, and 32 count them: so one that was exchanged
long ago can be told from one that never was ours, though nothing is kept of it.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode
from hashlib import sha256
from typing import Final, NamedTuple

from homeserver.protocol.errors import UnknownToken
from homeserver.protocol.signing import encode_base64_url

ACCESS: Final = "dom"
REFRESH: Final = "domr"
CODE: Final = "domc"
BROWSER: Final = "doms"

_FORM: Final = re.compile(r"(dom[rcs]?)_([A-Za-z0-9_-]{22})_([A-Za-z0-9_-]{43})")
_SECRET: Final = 12
_COUNT: Final = 4
LAST_GENERATION: Final = 2 ** (8 * _COUNT) - 1


class Read(NamedTuple):
    """A token taken apart: whose it is (the hash of their localpart), and the digest under which it is stored."""

    owner: bytes
    digest: bytes


class Lineage(NamedTuple):
    """What the refresh tokens of one OAuth session share, and which of them one is."""

    secret: bytes
    generation: int

    @property
    def digest(self) -> bytes:
        """What is stored of the secret."""
        return sha256(self.secret).digest()

    def next(self) -> Lineage:
        """That of the token that comes after."""
        return self._replace(generation=min(self.generation + 1, LAST_GENERATION))


def begin_lineage() -> Lineage:
    """The lineage of a session's first refresh token."""
    return Lineage(secrets.token_bytes(_SECRET), 0)


def make(kind: str, owner: bytes, lineage: Lineage | None = None) -> tuple[str, bytes]:
    """A new token for the owner of this directory hash (16 bytes), and its digest."""
    bits = secrets.token_bytes(32)
    if lineage is not None:
        bits = lineage.secret + lineage.generation.to_bytes(_COUNT, "big") + bits[_SECRET + _COUNT :]
    token = f"{kind}_{encode_base64_url(owner)}_{encode_base64_url(bits)}"
    return token, digest(token)


def lineage_of(token: str) -> Lineage:
    """The lineage of a refresh token that was taken apart; of one that has none, something that is nobody's."""
    bits = urlsafe_b64decode(token[-43:] + "=")
    return Lineage(bits[:_SECRET], int.from_bytes(bits[_SECRET : _SECRET + _COUNT], "big"))


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return sha256(token.encode()).digest()


def read(kind: str, token: str) -> Read:
    """Take a token apart. Raises UnknownToken for what never was one of ours."""
    form = _FORM.fullmatch(token)
    if form is None or form[1] != kind:
        raise UnknownToken("Unrecognised access token" if kind == ACCESS else "Unrecognised refresh token")
    return Read(urlsafe_b64decode(form[2] + "=="), digest(token))
