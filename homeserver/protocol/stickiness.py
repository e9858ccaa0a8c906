"""Sticky events: those that every member is given once while they last, whatever else is left out of a timeline. Not
specified yet (MSC4354).

They last no longer than `LONGEST_MS` from when they were sent, or were here if their server says that this is to come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELD: Final = "msc4354_sticky"
"""The property of an event, in the formats of servers and of clients."""

DURATION: Final = "duration_ms"

LONGEST_MS: Final = 3_600_000


def as_shown(pdu: Mapping[str, Any]) -> dict[str, int] | None:
    """The property as clients see it; None for an event in federation format that is not sticky.

    What another server has put there besides, or instead, is no business of clients.
    """
    found = pdu.get(FIELD)
    duration = found.get(DURATION) if isinstance(found, dict) else None
    if not isinstance(duration, int) or isinstance(duration, bool) or duration < 0:
        return None
    return {DURATION: min(duration, LONGEST_MS)}


def expiry(duration_ms: int, origin_server_ts: int, now_ms: int) -> int:
    """Until when an event is sticky that is here since ``now_ms`` (milliseconds since 1970)."""
    return min(origin_server_ts, now_ms) + min(duration_ms, LONGEST_MS)
