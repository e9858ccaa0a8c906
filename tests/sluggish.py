"""A pytest plugin that makes databases, and the way between servers, slow by chance, so that what is a matter of luck
elsewhere goes wrong here.

``python -m pytest -p tests.sluggish tests/rooms`` lets reads and writes of nodes, and what one server asks another,
wait for some milliseconds before and after, in another order for each SLUGGISH=NUMBER. A test that fails under it, or a
product that does, relies on how fast a database or another server is.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from homeserver.storage.nodes import Node

CHANCE: Final = 0.3
"""How likely it is that one waits, before and after."""
LONGEST: Final = 0.012
"""Seconds that it waits at most."""
LIKELY_BETWEEN: Final = 0.5
LONGEST_BETWEEN: Final = 0.06
"""The same of what goes from one server to another."""

_luck = random.Random(os.environ.get("SLUGGISH", "1"))


async def _perhaps(chance: float, longest: float) -> None:
    if _luck.random() < chance:
        await asyncio.sleep(_luck.random() * longest)


def _slow(method: Callable[..., Awaitable[Any]], chance: float, longest: float) -> Callable[..., Awaitable[Any]]:
    async def slow(*args: Any, **kw: Any) -> Any:
        await _perhaps(chance, longest)
        try:
            return await method(*args, **kw)
        finally:
            await _perhaps(chance, longest)

    return slow


def pytest_configure() -> None:
    """Make them slow."""
    from tests.network import Network  # not above: it asks for a reactor, which pytest-twisted chooses

    for place, names, chance, longest in (
        (Node, ("read", "write", "advance"), CHANCE, LONGEST),
        (Network, ("carry",), LIKELY_BETWEEN, LONGEST_BETWEEN),
    ):
        for name in names:
            setattr(place, name, _slow(getattr(place, name), chance, longest))
