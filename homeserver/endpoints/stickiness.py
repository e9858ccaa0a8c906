"""The parameter by which an event is sent that is sticky. Not specified yet (MSC4354)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.stickiness import LONGEST_MS

if TYPE_CHECKING:
    from homeserver.web.messages import Request

DURATION: Final = "org.matrix.msc4354.sticky_duration_ms"


def sticky_of(request: Request) -> int | None:
    """For how many milliseconds a request wants its event to be sticky; None: not at all. Raises InvalidParam."""
    duration = request.query.integer(DURATION, None, low=0)
    if duration is not None and duration > LONGEST_MS:
        raise InvalidParam(f"'{DURATION}' is at most {LONGEST_MS}")
    return duration
