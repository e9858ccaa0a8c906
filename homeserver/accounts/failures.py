"""Wrong passwords are counted by account, whoever tries them from wherever; beyond a rate the answer is to wait.

Memory is bounded: what was tried longest ago is forgotten first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from homeserver.protocol.errors import LimitExceeded
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Server

ACCOUNTS_REMEMBERED = 50_000


class _Failures:
    """For each account the moment (monotonic seconds) at which nothing is held against it. One for the deployment."""

    def __init__(self) -> None:
        self.settled_at: Lru[bytes, float] = Lru(ACCOUNTS_REMEMBERED)


def check(server: Server, whose: str) -> None:
    """Raise LimitExceeded when too many passwords have been tried on this account."""
    limits = server.settings.rate_limits
    if not limits.enabled:
        return
    settled_at = server.nodes.directory.memory(_Failures).settled_at.get(_tag(server, whose)) or 0.0
    held = settled_at - server.clock.monotonic()
    wait = held - (limits.login_failure.burst - 1) / limits.login_failure.per_second
    if wait > 1e-9:  # smaller is rounding
        raise LimitExceeded(math.ceil(wait * 1000))


def count(server: Server, whose: str) -> None:
    """A wrong password has been tried."""
    failures = server.nodes.directory.memory(_Failures).settled_at
    tag, now = _tag(server, whose), server.clock.monotonic()
    each = 1 / server.settings.rate_limits.login_failure.per_second
    failures[tag] = max(failures.get(tag) or 0.0, now) + each


def _tag(server: Server, whose: str) -> bytes:
    return server.identity.tag("login_failure", whose)
