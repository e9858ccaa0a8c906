"""What is asked for of media in the query of a request: the same by clients and by other servers.

spec: client-server-api/#content-repository, server-server-api/#content-repository
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from homeserver.web.messages import Query

WAIT_MS: Final = 20_000
"""How long content that is not there yet is waited for, unless whoever asks says otherwise."""
LARGEST: Final = 100_000
"""Pixels; a thumbnail of more is none."""


def wait_ms(query: Query) -> int:
    """How many milliseconds content that is not there yet is waited for. Raises InvalidParam."""
    return query.integer("timeout_ms", WAIT_MS, low=0)


def thumbnail(query: Query) -> tuple[int, int, str]:
    """The thumbnail that is asked for: width and height in pixels, and the method. Raises MissingParam, InvalidParam.

    Whether it may be one that moves is read and not heeded: none does.
    """
    query.require("width")
    query.require("height")
    width = query.integer("width", 0, low=1, high=LARGEST)
    height = query.integer("height", 0, low=1, high=LARGEST)
    method = query.choice("method", ("crop", "scale"), "scale")
    query.boolean("animated")
    return width, height, method
