"""Tokens that say where in time a client is: opaque to clients, two integers to us.

``s<position>_<ephemeral>`` comes from `/sync`, and with a number and a slash before it from sliding sync;
``t<position>`` stands between two events of a timeline. Each names a position of the user's own node, and is accepted
wherever the others are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from homeserver.protocol.errors import InvalidParam

_POSITION = re.compile(r"[0-9]{1,18}")
_FORM = re.compile(r"(?:(?:\d{1,16}/)?s(\d{1,18})_(\d{1,18})|t(-?\d{1,18}))")


class Token(NamedTuple):
    """``position``: all durable changes up to it have been seen; ``ephemeral``: those of typing and presence."""

    position: int
    ephemeral: int = 0

    def __str__(self) -> str:
        return f"s{self.position}_{self.ephemeral}"


def parse(text: str) -> Token:
    """Read a token of ours. Raises InvalidParam."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidParam("That is no token of this server")
    synced, ephemeral, between = found.groups()
    return Token(int(between)) if between is not None else Token(int(synced), int(ephemeral))


def position(text: str | None, default: int) -> int:
    """Read a token that is a position and nothing else, of pages of what is no timeline. Raises InvalidParam."""
    if text is None:
        return default
    if _POSITION.fullmatch(text) is None:
        raise InvalidParam("That is no token of a page")
    return int(text)


def between(position: int) -> str:
    """The token of the place behind a position of the timeline."""
    return f"t{position}"
