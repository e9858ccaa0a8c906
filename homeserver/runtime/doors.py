"""Doors: who comes in is counted, and a door that is closed lets nobody in until it is open again.

For whoever has to be alone with something for a moment: it closes the door, waits until all who are inside have left,
and does what must not be done beside them. Nobody is turned away; they wait outside.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Doors:
    """One door for each name. A name that nobody uses takes no memory.

    ``closings`` counts how often a door was closed: what was found out about a name before may be untrue after it.
    """

    def __init__(self) -> None:
        self.closings = 0
        self._inside: dict[str, int] = {}
        self._closed: dict[str, asyncio.Future[None]] = {}
        self._empty: dict[str, asyncio.Future[None]] = {}

    def is_closed(self, name: str) -> bool:
        """Whether somebody wants to be alone here: who is inside should leave soon."""
        return name in self._closed

    async def opened(self, name: str) -> None:
        """Wait outside while the door is closed."""
        while (closed := self._closed.get(name)) is not None:
            await asyncio.shield(closed)

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Be inside; the door must be open."""
        self._inside[name] = self._inside.get(name, 0) + 1
        try:
            yield
        finally:
            left = self._inside.pop(name) - 1
            if left:
                self._inside[name] = left
            elif (empty := self._empty.pop(name, None)) is not None and not empty.done():
                empty.set_result(None)

    @contextmanager
    def closed(self, name: str) -> Iterator[None]:
        """Keep the door closed. Raises RuntimeError when it is so already."""
        if name in self._closed:
            raise RuntimeError("the door is closed already")
        self.closings += 1
        shut = self._closed[name] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._closed[name]
            shut.set_result(None)

    async def empty(self, name: str) -> None:
        """Wait until nobody is inside; the door must be closed, or others come in."""
        while name in self._inside:
            future = self._empty.get(name)
            if future is None:
                future = self._empty[name] = asyncio.get_running_loop().create_future()
            await asyncio.shield(future)
