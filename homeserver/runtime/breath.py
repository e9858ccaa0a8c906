"""Long loops that let others run in between: nobody waits because a room is large."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

BREATH: Final = 100
"""Items after which others may run: an event that is read, or looked into, takes some 20 microseconds."""

T = TypeVar("T")


async def unhurried(items: Iterable[T]) -> AsyncIterator[T]:
    """The items one by one, with time for others after every BREATH of them. They must not change meanwhile."""
    for number, item in enumerate(items, 1):
        yield item
        if number % BREATH == 0:
            await asyncio.sleep(0)
