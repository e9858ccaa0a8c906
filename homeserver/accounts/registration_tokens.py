"""Registration tokens: those of the operator's file always hold; those of the database run out.

spec: client-server-api/#token-authenticated-registration
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING

from config.load import read_tokens
from homeserver.protocol.errors import InvalidParam, NotFound
from homeserver.protocol.identifiers import is_opaque
from homeserver.storage import registration_tokens as stored

if TYPE_CHECKING:
    from config.kinds import Secret
    from homeserver.context import Server
    from homeserver.storage.registration_tokens import Token

MAX_LENGTH = 64


@lru_cache(maxsize=8)
def _permanent(secret: Secret) -> frozenset[str]:
    return frozenset(read_tokens(secret))


def _always_holds(server: Server, token: str) -> bool:
    secret = server.settings.registration.tokens
    return secret is not None and token in _permanent(secret)


def _is_token(token: str) -> bool:
    return is_opaque(token) and len(token) <= MAX_LENGTH


async def is_valid(server: Server, token: str) -> bool:
    """Whether somebody could register with the token now."""
    if _always_holds(server, token):
        return True
    if not _is_token(token):
        return False
    found = await server.nodes.directory.engine.read(stored.find, token)
    if found is None or (found.expires_ts is not None and found.expires_ts <= server.clock.now_ms()):
        return False
    return found.uses_allowed is None or found.completed < found.uses_allowed


async def use(server: Server, token: str) -> bool:
    """Count one registration against the token; False when it does not hold (any more)."""
    if _always_holds(server, token):
        return True
    return _is_token(token) and await server.nodes.directory.engine.write(stored.use, token, server.clock.now_ms())


async def give_back(server: Server, token: str) -> None:
    """Undo `use`: no account came of it."""
    if not _always_holds(server, token):
        await server.nodes.directory.engine.write(stored.give_back, token)


async def create(
    server: Server, token: str | None = None, *, uses_allowed: int | None = None, expires_ts: int | None = None
) -> str:
    """Make a token, of random letters unless one is named. Raises InvalidParam when there is one of that name."""
    token = secrets.token_urlsafe(12) if token is None else token
    if not _is_token(token):
        raise InvalidParam(f"A registration token has 1 to {MAX_LENGTH} of the characters A-Z a-z 0-9 . _ ~ -")
    if not await server.nodes.directory.engine.write(stored.create, token, uses_allowed, expires_ts):
        raise InvalidParam("There is a registration token of that name already")
    return token


async def every(server: Server) -> list[Token]:
    """The tokens of the database."""
    return await server.nodes.directory.engine.read(stored.every)


async def delete(server: Server, token: str) -> None:
    """Remove a token of the database. Raises NotFound."""
    if not await server.nodes.directory.engine.write(stored.delete, token):
        raise NotFound("There is no such registration token")
