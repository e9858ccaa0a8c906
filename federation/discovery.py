"""From the name of a server to where it is asked: whom to connect to, for whom its certificate must be, and which
``Host`` it is told.

What others answer on the way (well-known, DNS) is bounded in size, steps and life; a delegation is followed once.

spec: server-server-api/#resolving-server-names
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from federation.caching import lifetime_of
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.identifiers import is_server_name, parse_server_name
from homeserver.runtime import pauses
from homeserver.runtime.addresses import address_of
from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.runtime.lru import Lru
from homeserver.runtime.names import NamesUnavailable
from homeserver.runtime.outbound import Place, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.runtime.names import Service

PORT: Final = 8448
WELL_KNOWN: Final = "/.well-known/matrix/server"
MOST_BYTES: Final = 50 * 1024
REDIRECTS: Final = 5
PATIENCE: Final = 20.0
"""Seconds for each step of asking for a well-known."""

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
LEAST_LIFE, USUAL_LIFE, LONGEST_LIFE = 5 * MINUTE, 24 * HOUR, 48 * HOUR
FIRST_PAUSE, LONGEST_PAUSE = 2 * MINUTE, HOUR
"""After a failure; doubled at each one that follows."""
SERVICES_LIFE: Final = 5 * MINUTE
REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a well-known said, if it said anything: seconds of the monotonic clock until which that holds, at which it
    was said, and how many attempts have failed since."""

    to: str | None
    until: float
    said: float
    failures: int = 0


class Known:
    """What is remembered of discoveries."""

    def __init__(self) -> None:
        self.delegations: Lru[str, Delegation] = Lru(REMEMBERED)
        self.services: Lru[str, tuple[tuple[Target, ...], float]] = Lru(REMEMBERED)


async def find(server: Server, server_name: str) -> Place:
    """Where a server is asked. Raises Unreachable when it cannot be told, also for what is no server name."""
    host, port = _parts(server_name)
    if address_of(host) is not None or port is not None:
        return Place((Target(host, port or PORT),), host, server_name)
    delegate = await _delegate(server, host)
    if delegate is None:
        return await _by_services(server, host)
    host, port = _parts(delegate)
    if address_of(host) is not None or port is not None:
        return Place((Target(host, port or PORT),), host, delegate)
    return await _by_services(server, host)


def _parts(server_name: str) -> tuple[str, int | None]:
    try:
        host, port = parse_server_name(server_name)
    except InvalidParam:
        raise Unreachable(Fault.NAME, "that is no server name") from None
    if port is not None and not 0 < port < 2**16:
        raise Unreachable(Fault.NAME, f"there is no port {port}")
    return host, port


# well-known ---------------------------------------------------------------------------------


async def _delegate(server: Server, host: str) -> str | None:
    """The server name that a host delegates to."""
    known = server.nodes.directory.memory(Known).delegations
    now = server.clock.monotonic()
    before = known.get(host)
    if before is None or before.until <= now:
        known[host] = before = await _ask(server, host, before)
    return before.to


async def _ask(server: Server, host: str, before: Delegation | None) -> Delegation:
    """Ask for the well-known of a host, of which ``before`` was known."""
    try:
        url = f"https://{host}{WELL_KNOWN}"
        answer = await server.outbound.get(url, most=MOST_BYTES, seconds=PATIENCE, redirects=REDIRECTS)
    except Unreachable:
        return _failed(server.clock.monotonic(), before, keep=True)
    now = server.clock.monotonic()
    delegate = _delegate_in(answer.body) if answer.status == 200 else None
    if delegate is None:
        return _failed(now, before, keep=answer.status >= 500)
    life = lifetime_of(answer.headers, server.clock.now_ms() / 1000)
    life = USUAL_LIFE if life is None else min(max(life, LEAST_LIFE), LONGEST_LIFE)
    return Delegation(delegate, now + life, now)


def _delegate_in(body: bytes) -> str | None:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    delegate = found.get("m.server") if isinstance(found, dict) else None
    return delegate if isinstance(delegate, str) and is_server_name(delegate) else None


def _failed(now: float, before: Delegation | None, *, keep: bool) -> Delegation:
    """What holds after an attempt that gave nothing. ``keep``: the host may still mean what it said before."""
    failures = 1 if before is None else before.failures + 1
    until = now + pauses.after(failures, FIRST_PAUSE, LONGEST_PAUSE)
    if keep and before is not None and before.to is not None and now < before.said + LONGEST_LIFE:
        return Delegation(before.to, min(until, before.said + LONGEST_LIFE), before.said, failures)
    return Delegation(None, until, now, failures)


# SRV ----------------------------------------------------------------------------------------


async def _by_services(server: Server, host: str) -> Place:
    """The place of a host without a port: what its SRV records say, else its own addresses."""
    known = server.nodes.directory.memory(Known).services
    now = server.clock.monotonic()
    remembered = known.get(host)
    if remembered is None or remembered[1] <= now:
        try:
            targets = await _targets(server, host)
        except NamesUnavailable as fault:
            raise Unreachable(Fault.NAME, str(fault)) from None
        known[host] = remembered = targets, now + SERVICES_LIFE
    return Place(remembered[0], host, host)


async def _targets(server: Server, host: str) -> tuple[Target, ...]:
    for service in ("_matrix-fed._tcp", "_matrix._tcp"):
        records = await server.outbound.names.services(f"{service}.{host}")
        if records:
            return tuple(Target(record.host, record.port) for record in _ordered(records) if record.host.strip("."))
    return (Target(host, PORT),)


def _ordered(records: Sequence[Service]) -> list[Service]:
    """The records in the order in which to try them: by priority, and among equals at random by weight (RFC 2782)."""
    order = {id(record): random.random() ** (1 / max(record.weight, 0.01)) for record in records}  # noqa: S311
    return sorted(records, key=lambda record: (record.priority, -order[id(record)]))
