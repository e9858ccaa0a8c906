"""How long an answer of HTTP may be kept, by its own word (RFC 9111)."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_AGE: Final = re.compile(r'max-age="?([0-9]{1,12})"?')


def lifetime_of(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer with these headers (names in lower case) may be kept; None when they say nothing.

    ``now`` is in seconds since 1970.
    """
    directives = [directive.strip().lower() for directive in headers.get("cache-control", "").split(",")]
    if {"no-store", "no-cache"} & set(directives):
        return 0.0
    for directive in directives:
        if found := _MAX_AGE.fullmatch(directive):
            return float(found[1])
    if "expires" not in headers:
        return None
    try:
        return max(parsedate_to_datetime(headers["expires"]).timestamp() - now, 0.0)
    except (ValueError, OverflowError, OSError):
        return 0.0  # "0" and the like: it has expired
