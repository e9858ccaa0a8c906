"""Rooms of other servers that we are joining at this moment: what is sent to us for them waits until we are in.

Whoever lets us in sends us events from then on, and those arrive before, or while, we check its answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from homeserver.runtime.deadlines import within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from homeserver.context import Server

PATIENCE: Final = 10.0
"""Seconds that events wait for us to be in their room."""


class _Entering:
    """How many are joining a room, by room id, and who waits for them (``directory.memory(_Entering)``)."""

    def __init__(self) -> None:
        self.joining: Counter[str] = Counter()
        self.waiting: dict[str, asyncio.Event] = {}


@contextmanager
def entering(server: Server, room_id: str) -> Iterator[None]:
    """Somebody is joining a room through another server."""
    memory = server.nodes.directory.memory(_Entering)
    memory.joining[room_id] += 1
    try:
        yield
    finally:
        memory.joining[room_id] -= 1
        if not memory.joining[room_id]:
            del memory.joining[room_id]
            if room_id in memory.waiting:
                memory.waiting.pop(room_id).set()


async def entered(server: Server, room_id: str) -> bool:
    """Wait until nobody is joining a room any more, but no longer than PATIENCE; False when nobody was."""
    memory = server.nodes.directory.memory(_Entering)
    if room_id not in memory.joining:
        return False
    over = memory.waiting.setdefault(room_id, asyncio.Event())
    try:
        async with within(server.clock, PATIENCE):
            await over.wait()
    except TimeoutError:
        return False
    return True
