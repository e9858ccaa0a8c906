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
    """What a node is asking other servers (``node.memory(Asking)``). ``proved``: when it has asked for a list because
    there was no proof of the copy."""

    def __init__(self) -> None:
        self.questions: set[Question] = set()
        self.refreshing: dict[str, asyncio.Task[bool]] = {}
        self.proved: Lru[str, float] = Lru(10_000)
        self.servers = asyncio.Semaphore(SERVERS_AT_ONCE)
        self.refreshes = asyncio.Semaphore(REFRESHES_AT_ONCE)

    def overtake(self, user_id: str) -> None:
        """There is news of a user: what was asked before is not to be kept."""
        for question in self.questions:
            if user_id in question.user_ids:
                question.overtaken.add(user_id)
