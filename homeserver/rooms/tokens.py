"""Tokens that say where in time a client is: opaque to clients, two integers to us.

``s<position>_<ephemeral>`` comes from `/sync`, and with a number and a slash before it from sliding sync;
``t<position>`` stands between two events of a timeline. Each names a position of the user's own node, and is accepted
wherever the others are.

Who has moved from another node has positions of that in the tokens of earlier epochs: ``t<position>e<epoch>`` says of
which one is, and those of `/sync` are told by where the epoch began, since positions only grow (rooms/epochs.py).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from homeserver.protocol.errors import InvalidParam

_POSITION = re.compile(r"[0-9]{1,18}")
_FORM = re.compile(r"(?:(?:\d{1,16}/)?s(\d{1,18})_(\d{1,18})|t(-?\d{1,18})(?:e(\d{1,6}))?)")


class Token(NamedTuple):
    """``position``: all durable changes up to it have been seen; ``ephemeral``: those of typing and presence.
    ``epoch``: how often the user had moved when it was given; None: its position tells."""

    position: int
    ephemeral: int = 0
    epoch: int | None = None

    def __str__(self) -> str:
        return f"s{self.position}_{self.ephemeral}"


def parse(text: str) -> Token:
    """Read a token of ours. Raises InvalidParam."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidParam("That is no token of this server: give one back as you were given it")
    synced, ephemeral, between, epoch = found.groups()
    if between is not None:
        return Token(int(between), epoch=int(epoch or 0))
    return Token(int(synced), int(ephemeral))


def position(text: str | None, default: int) -> int:
    """Read a token that is a position and nothing else, of pages of what is no timeline. Raises InvalidParam."""
    if text is None:
        return default
    if _POSITION.fullmatch(text) is None:
        raise InvalidParam("That is no token of a page")
    return int(text)


def between(position: int, epoch: int = 0) -> str:
    """The token of the place behind a position of the timeline, for a user in this epoch."""
    return f"t{position}e{epoch}" if epoch else f"t{position}"
