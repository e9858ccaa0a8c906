"""Long computations apart from the event loop: in a thread, one at a time, so that others are served meanwhile.

What they read must not change while they run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Apart:
    """Whose turn it is to compute (``node.memory(Apart)``)."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore()

    async def run(self, compute: Callable[[], T]) -> T:
        """What ``compute`` returns. Raises what it raises."""
        async with self._turn:
            return await asyncio.to_thread(compute)
