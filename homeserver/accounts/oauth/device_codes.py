"""The device authorization grant: a device without a browser shows a code, somebody enters it in one, the device asks
until that is done.

Codes are kept in memory, bounded in number and in time; until somebody allows one they are about nobody, and then they
hold the code of a grant, which rests on that user's node.

spec: client-server-api/#device-authorisation-grant
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.accounts.oauth import grants
from homeserver.accounts.oauth.grants import Allowed
from homeserver.accounts.tokens import digest
from homeserver.protocol.errors import NotFound, OAuthRefusal

if TYPE_CHECKING:
    from homeserver.accounts.oauth.browsers import Visitor
    from homeserver.accounts.oauth.clients import Client
    from homeserver.accounts.oauth.grants import Issued
    from homeserver.context import Server
    from homeserver.protocol.oauth import Scope

MOST: Final = 10_000
INTERVAL: Final = 5.0
"""Seconds between two questions of a device."""
REMEMBERED: Final = 600.0
"""Seconds for which a device is still told that its code has expired."""
ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""What user codes are made of: nothing that reads like something else, and no words (RFC 8628, 6.1)."""
LETTERS: Final = 8
IN_TIME_MS: Final = 10 * 60 * 1000
"""How long what was allowed waits for the device to ask."""


@dataclass(slots=True)
class _Waiting:
    """One device that waits. ``code``: that of the grant, once it is allowed."""

    client: Client
    scope: Scope
    user_code: str
    ends: float
    interval: float = INTERVAL
    next_ask: float = 0.0
    denied: bool = False
    code: str | None = None


class DeviceCodes:
    """Those that wait, by the digest of the device code, the oldest first. One for the deployment."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[bytes, _Waiting] = OrderedDict()
        self.by_user_code: dict[str, bytes] = {}

    def forget(self, key: bytes) -> None:
        """Forget one."""
        found = self.waiting.pop(key, None)
        if found is not None:
            self.by_user_code.pop(found.user_code, None)

    def make_room(self, now: float) -> None:
        """Forget what has ended long ago, and the oldest beyond the bound."""
        while self.waiting:
            key, oldest = next(iter(self.waiting.items()))
            if len(self.waiting) < MOST and oldest.ends + REMEMBERED > now:
                return
            self.forget(key)


class Begun(NamedTuple):
    """What a device is told: its own code, the one that it shows, and for how many seconds both hold."""

    device_code: str
    user_code: str
    expires_in: int


class Asking(NamedTuple):
    """What somebody is asked who has entered a code."""

    client: Client
    scope: Scope


def _codes(server: Server) -> DeviceCodes:
    return server.nodes.directory.memory(DeviceCodes)


def begin(server: Server, client: Client, scope: Scope) -> Begun:
    """Give a device its codes. spec: client-server-api/#device-authorisation-flow"""
    codes, now = _codes(server), server.clock.monotonic()
    codes.make_room(now)
    lifetime = server.settings.oauth.device_code_lifetime.seconds
    user_code = "".join(secrets.choice(ALPHABET) for _ in range(LETTERS))
    while user_code in codes.by_user_code:
        user_code = "".join(secrets.choice(ALPHABET) for _ in range(LETTERS))
    device_code = secrets.token_urlsafe(32)
    codes.waiting[digest(device_code)] = _Waiting(client, scope, user_code, now + lifetime)
    codes.by_user_code[user_code] = digest(device_code)
    return Begun(device_code, shown(user_code), int(lifetime))


def normal(user_code: str) -> str:
    """A user code as it may be typed, as it is kept."""
    return "".join(letter for letter in user_code.upper() if letter in ALPHABET)


def shown(user_code: str) -> str:
    """A user code as people read it: in two halves."""
    code = normal(user_code)
    return f"{code[: LETTERS // 2]}-{code[LETTERS // 2 :]}"


def find(server: Server, user_code: str) -> Asking:
    """What is asked by the code. Raises NotFound, also for one that was answered or has expired."""
    found = _find(server, user_code)
    return Asking(found.client, found.scope)


def _find(server: Server, user_code: str) -> _Waiting:
    codes = _codes(server)
    key = codes.by_user_code.get(normal(user_code))
    found = None if key is None else codes.waiting[key]
    if found is None or found.ends <= server.clock.monotonic() or found.denied or found.code is not None:
        raise NotFound("There is no such code, or it has expired")
    return found


async def allow(server: Server, visitor: Visitor, user_code: str) -> None:
    """Let the device sign in as the visitor. Raises NotFound."""
    found = _find(server, user_code)
    code = await grants.allow(server, visitor, Allowed(found.client, found.scope, lifetime_ms=IN_TIME_MS))
    _find(server, user_code).code = code  # raises when it was answered meanwhile


def deny(server: Server, user_code: str) -> None:
    """Do not let it. Raises NotFound."""
    _find(server, user_code).denied = True


async def redeem(server: Server, client_id: str, device_code: str) -> Issued:
    """The tokens of a device whose code was allowed; the code is used up.

    Raises OAuthRefusal: ``authorization_pending``, ``slow_down``, ``access_denied``, ``expired_token``,
    ``invalid_grant``.

    spec: client-server-api/#device-authorisation-flow
    """
    codes, now, key = _codes(server), server.clock.monotonic(), digest(device_code)
    found = codes.waiting.get(key)
    if found is None or found.client["client_id"] != client_id:
        raise OAuthRefusal("invalid_grant", "That is not a device code that holds")
    if found.denied:
        codes.forget(key)
        raise OAuthRefusal("access_denied", "The user did not allow it")
    if found.ends <= now and found.code is None:
        raise OAuthRefusal("expired_token", "The code has expired; begin again")
    too_soon, found.next_ask = now < found.next_ask, now + found.interval
    if too_soon:
        found.interval += INTERVAL
        found.next_ask = now + found.interval
        raise OAuthRefusal("slow_down", f"Ask only every {found.interval:.0f} seconds")
    if found.code is None:
        raise OAuthRefusal("authorization_pending", "The user has not answered yet")
    codes.forget(key)
    return await grants.redeem(server, client_id, found.code)
