"""A pytest plugin that makes databases slow by chance, so that what is a matter of luck elsewhere goes wrong here.

``python -m pytest -p tests.sluggish tests/rooms`` lets reads and writes of nodes wait for some milliseconds before and
after, in another order for each SLUGGISH=NUMBER. A test that fails under it, or a product that does, relies on how fast
a database is.
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

_luck = random.Random(os.environ.get("SLUGGISH", "1"))


async def _perhaps() -> None:
    if _luck.random() < CHANCE:
        await asyncio.sleep(_luck.random() * LONGEST)


def _slow(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def slow(*args: Any, **kw: Any) -> Any:
        await _perhaps()
        try:
            return await method(*args, **kw)
        finally:
            await _perhaps()

    return slow


def pytest_configure() -> None:
    """Make them slow."""
    for name in ("read", "write", "advance"):
        setattr(Node, name, _slow(getattr(Node, name)))
