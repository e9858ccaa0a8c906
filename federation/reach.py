"""Which servers could not be reached a short while ago: nobody is made to wait for them again and again.

After a failure a server is left alone, longer each time; then one question finds out whether it is back, while the
others are still refused at once. Whatever it answers, and any request of its own, ends that. In memory only: what is to
be sent has its own pauses, which are kept (sender.py).
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import ServerUnreachable
from homeserver.rooms.outgoing import Lines
from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from homeserver.context import Server

FIRST_PAUSE: Final = 2.0
"""Seconds after the first failure, unless that took longer itself; doubles each time."""
LONGEST_PAUSE: Final = 600.0
"""Seconds, or fewer if `federation.longest_backoff` says so: users ask, and a server may be back."""
PROBE: Final = 10.0
"""Seconds that a question which finds out whether a server is back keeps others from asking."""
LONG_ENOUGH: Final = 5.0
"""Seconds without an answer that count as a failure: whoever waits for less says nothing about the server."""
MOST_IN_VAIN: Final = 2
"""A server that reaches us so often while we do not reach it is treated as one that is silent."""
SOON: Final = 1.0
"""Seconds after an attempt before a server that was heard from is tried again."""
MOST_FAILURES: Final = 20
REMEMBERED: Final = 10_000

_FAILURES: Final = frozenset((Fault.NAME, Fault.DENIED, Fault.CONNECTION, Fault.CERTIFICATE))
_GATEWAY: Final = frozenset((502, 503, 504))
"""Statuses by which what stands before a server says that it is away."""


@dataclass(slots=True)
class Absence:
    """A server that could not be reached, ``failures`` times in a row and at ``failed`` the last time; it is left alone
    up to ``until`` (seconds of the monotonic clock; 0: it was heard from since, and may be asked).

    ``in_vain``: how often it was heard from and then not reached.
    """

    failures: int = 0
    failed: float = 0.0
    until: float = 0.0
    in_vain: int = 0


class Absences:
    """The servers that could not be reached (``directory.memory(Absences)``)."""

    def __init__(self) -> None:
        self.held: Lru[str, Absence] = Lru(REMEMBERED)


def _absences(server: Server) -> Lru[str, Absence]:
    return server.nodes.directory.memory(Absences).held


def is_away(server: Server, destination: str) -> bool:
    """Whether a server is left alone now."""
    absence = _absences(server).get(destination)
    return absence is not None and server.clock.monotonic() < absence.until


def away_last(server: Server, names: Iterable[str]) -> list[str]:
    """Servers in an order in which to try them: each once, and at the end those that are left alone now."""
    return sorted(dict.fromkeys(names), key=lambda name: is_away(server, name))


def check(server: Server, destination: str) -> None:
    """Raise ServerUnreachable for a server that is left alone now. Who is let through is going to ask it."""
    absence = _absences(server).get(destination)
    if absence is None:
        return
    now = server.clock.monotonic()
    if now < absence.until:
        server.telemetry.counter(
            "domicile_federation_not_asked", "Questions to servers that could not be reached a short while ago."
        ).inc()
        raise ServerUnreachable(f"{destination} could not be reached a short while ago")
    if absence.until:
        absence.until = now + PROBE


def failed(server: Server, destination: str, began: float, fault: Fault) -> None:
    """A request to a server, made at ``began`` (monotonic), has come to nothing."""
    now = server.clock.monotonic()
    waited = now - began
    if fault not in _FAILURES and not (fault is Fault.TIMEOUT and waited >= LONG_ENOUGH):
        return  # it may be there
    held = _absences(server)
    absence = held.get(destination) or Absence()
    if absence.failures and began < absence.failed:
        return  # made before it was known: nothing new
    if absence.failures and not absence.until:
        absence.in_vain += 1
    longest = min(LONGEST_PAUSE, server.settings.federation.longest_backoff.seconds)
    absence.until = now + min(max(FIRST_PAUSE, waited) * 2.0**absence.failures, longest)
    absence.failures, absence.failed = min(absence.failures + 1, MOST_FAILURES), now
    held[destination] = absence


@contextmanager
def noticed(server: Server, destination: str, began: float) -> Iterator[None]:
    """Remember of a server that it could not be reached, or was waited for in vain, since ``began`` (monotonic)."""
    try:
        yield
    except Unreachable as unreachable:
        failed(server, destination, began, unreachable.fault)
        raise
    except asyncio.CancelledError:
        failed(server, destination, began, Fault.TIMEOUT)  # whoever asked waits no longer
        raise


def answered(server: Server, destination: str, status: int, errcode: object) -> None:
    """A server has answered with a status; or what stands before it has, which knows no ``errcode``."""
    if status in _GATEWAY and not (isinstance(errcode, str) and errcode):
        failed(server, destination, server.clock.monotonic(), Fault.CONNECTION)
        return
    _absences(server).pop(destination)
    _try_lines(server, destination)


def remember(server: Server, destination: str, failures: int, seconds: float) -> None:
    """A server could not be reached before this process began; it was to be left alone for so many more seconds."""
    held = _absences(server)
    if destination not in held:
        now = server.clock.monotonic()
        held[destination] = Absence(min(failures, MOST_FAILURES), now, now + min(max(seconds, 0.0), LONGEST_PAUSE))


def heard_from(server: Server, origin: str) -> None:
    """A server has made a request that it signed: if it could not be reached before, it is tried again."""
    absence = _absences(server).get(origin)
    if absence is not None and absence.in_vain < MOST_IN_VAIN and server.clock.monotonic() - absence.failed >= SOON:
        absence.until = 0.0
    _try_lines(server, origin)


def _try_lines(server: Server, name: str) -> None:
    """Have what waits for a server sent now, if it is left alone."""
    for node in server.nodes:
        lines = node.memory(Lines)
        line = lines.held.get(name)
        if line is None or line.timer is None or lines.start is None:
            continue
        if server.clock.monotonic() - line.tried >= SOON:
            line.timer.cancel()
            line.timer = None
            lines.start(line)
