"""Registration by tools that know the deployment's shared secret: a nonce, and an HMAC over what is wanted.

The way of the field's tools, which expect it at ``/_synapse/admin/v1/register``.
"""

from __future__ import annotations

import hmac
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING

from config.load import read_secret
from homeserver.protocol.errors import Forbidden, InvalidParam, NotFound
from homeserver.runtime.passing import Passing

if TYPE_CHECKING:
    from config.kinds import Secret
    from homeserver.context import Server

NONCE_SECONDS = 60.0


class Nonces(Passing[str, str]):
    """The nonces that were given out and not used yet. One for the deployment."""

    most = 1000


@lru_cache(maxsize=8)
def _text(secret: Secret) -> bytes:
    return read_secret(secret).encode()


def _secret(server: Server) -> bytes:
    secret = server.settings.registration.shared_secret
    if secret is None:
        raise NotFound("Shared secret registration is not enabled")
    return _text(secret)


def new_nonce(server: Server) -> str:
    """A nonce for one registration within a minute. Raises NotFound when the route is off."""
    _secret(server)
    nonce = secrets.token_hex(64)
    server.nodes.directory.memory(Nonces).put(nonce, nonce, server.clock.monotonic(), NONCE_SECONDS)
    return nonce


def mac_of(secret: bytes, nonce: str, user: str, password: str, admin: bool, user_type: str | None = None) -> str:
    """The HMAC-SHA1, in hexadecimal, over what is wanted, parts divided by NUL."""
    parts = [nonce, user, password, "admin" if admin else "notadmin"]
    if user_type is not None:
        parts.append(user_type)
    return hmac.new(secret, "\0".join(parts).encode(errors="surrogatepass"), "sha1").hexdigest()


def check(
    server: Server, nonce: str, user: str, password: str, *, admin: bool, user_type: str | None, mac: str
) -> None:
    """Raise InvalidParam unless the nonce is good, Forbidden unless the HMAC is, NotFound when the route is off."""
    secret = _secret(server)
    if any("\0" in part for part in (user, password)):
        raise InvalidParam("Usernames and passwords hold no NUL")
    if server.nodes.directory.memory(Nonces).pop(nonce, server.clock.monotonic()) is None:
        raise InvalidParam("The nonce is not known (any more); get another one")
    wanted = mac_of(secret, nonce, user, password, admin, user_type)
    if not hmac.compare_digest(wanted.encode(), mac.lower().encode(errors="replace")):
        raise Forbidden("HMAC incorrect")
