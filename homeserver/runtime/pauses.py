"""Pauses after failures: each is twice as long as the one before, up to a longest one; and those who failed together do
not all come back together."""

from __future__ import annotations

import random
from typing import Final

NODE_RETRY: Final = 1.0
"""Seconds until a node whose database is down is asked again."""

LEAST_SPREAD: Final = 0.75
"""A pause is between this part of its length and all of it."""

MOST_FAILURES: Final = 60
"""Failures in a row are counted up to here."""


def after(failures: int, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row (1, 2, …)."""
    return min(first * 2.0 ** (min(failures, MOST_FAILURES) - 1), longest)


def spread(seconds: float) -> float:
    """Somewhat less, by chance."""
    return seconds * random.uniform(LEAST_SPREAD, 1.0)  # noqa: S311 - not all at once, nothing more
