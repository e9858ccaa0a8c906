"""Answers of web servers that send whoever asks to another place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from homeserver.runtime.exchange import Fault, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUSES: Final = frozenset((301, 302, 303, 307, 308))


def location(status: int, headers: Mapping[str, str]) -> str | None:
    """Where an answer sends on to, in its own words; None when it is no redirect."""
    return headers.get("location") if status in STATUSES else None


def onward(url: str, said: str) -> str:
    """The address to which ``said``, the `location` in an answer from ``url``, leads. Raises Unreachable."""
    try:
        return urljoin(url, said)
    except ValueError:
        raise nowhere() from None


def nowhere() -> Unreachable:
    """The fault of a redirect to what is no address."""
    return Unreachable(Fault.BROKEN, "a redirect to nowhere")


def too_many(most: int) -> Unreachable:
    """The fault of a server that sends on and on."""
    return Unreachable(Fault.BROKEN, f"more than {most} redirects")
