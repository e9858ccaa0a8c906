"""The form of access and refresh tokens.

``dom_`` (``domr_`` for refresh tokens), the directory's keyed hash of the owner's localpart, ``_`` and 256 random
bits, in URL-safe base64. The hash says on which node to look without asking all of them, wherever the owner has moved
to; it says nothing to anybody else. Only a digest of a token is stored.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final, NamedTuple

from homeserver.protocol.errors import UnknownToken

ACCESS: Final = "dom"
REFRESH: Final = "domr"

_FORM: Final = re.compile(r"(domr?)_([A-Za-z0-9_-]{22})_[A-Za-z0-9_-]{43}")


class Read(NamedTuple):
    """A token taken apart: whose it is (the hash of their localpart), and the digest under which it is stored."""

    owner: bytes
    digest: bytes


def make(kind: str, owner: bytes) -> tuple[str, bytes]:
    """A new token for the owner of this directory hash (16 bytes), and its digest."""
    token = f"{kind}_{urlsafe_b64encode(owner).decode()[:22]}_{secrets.token_urlsafe(32)}"
    return token, digest(token)


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return sha256(token.encode()).digest()


def read(kind: str, token: str) -> Read:
    """Take a token apart. Raises UnknownToken for what never was one of ours."""
    form = _FORM.fullmatch(token)
    if form is None or form[1] != kind:
        raise UnknownToken("Unrecognised access token" if kind == ACCESS else "Unrecognised refresh token")
    return Read(urlsafe_b64decode(form[2] + "=="), digest(token))
