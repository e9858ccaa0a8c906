"""What a node is asking other servers about keys at the moment, and how much of that at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Collection

SERVERS_AT_ONCE = 64
"""Servers that a node asks for keys at the same moment."""
REFRESHES_AT_ONCE = 8


@dataclass(eq=False, slots=True)
class Question:
    """A question that is under way, about some users; ``overtaken`` are those of whom there was news meanwhile."""

    user_ids: Collection[str]
    overtaken: set[str] = field(default_factory=set)


class Asking:
    """What a node is asking other servers (``node.memory(Asking)``). ``proved``: until when (by the monotonic clock) it
    does not ask for a list again because there is no proof of the copy, and how long it waits the next time."""

    def __init__(self) -> None:
        self.questions: set[Question] = set()
        self.refreshing: dict[str, asyncio.Task[bool]] = {}
        self.proved: Lru[str, tuple[float, float]] = Lru(10_000)
        self.servers = asyncio.Semaphore(SERVERS_AT_ONCE)
        self.refreshes = asyncio.Semaphore(REFRESHES_AT_ONCE)

    def overtake(self, user_id: str) -> None:
        """There is news of a user: what was asked before is not to be kept."""
        self.proved.pop(user_id)
        for question in self.questions:
            if user_id in question.user_ids:
                question.overtaken.add(user_id)
