"""All open connections of the process: how many there may be, how long each may take, and the end of them all.

One timer looks at every connection once a second, instead of a timer for each; it rests while there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from homeserver.runtime.clock import Clock, Timer
from homeserver.web.heads import Heads
from homeserver.web.unrecognised import Unrecognised

INTERVAL = 1.0
MOST_UNRECOGNISED = 256 * 1024 * 1024
"""Bytes, where the settings say nothing else: a dozen of the largest bodies, and many thousands of usual ones."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, and the bytes that must come in them.

    ``receive``: for a head, for the first request of a connection, and for each ``least`` bytes of a body.
    ``idle``: without a request. ``write``: for the client to take what it was sent.
    ``linger``: for the client to hear that the rest of its body is not wanted.
    """

    receive: float = 30.0
    least: int = 64 * 1024
    idle: float = 75.0
    write: float = 60.0
    linger: float = 3.0


class Member(Protocol):
    """A connection, as it is seen from here."""

    def check(self, now: float) -> None:
        """End what has taken too long at ``now``, by the monotonic clock."""
        ...

    def stop(self) -> None:
        """Answer what has been asked, and close."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


class Connections:
    """The connections of all listeners, and the requests that are being answered, whoever still waits for them.

    ``unrecognised`` are the bodies of whom nobody knows yet who sends them.
    """

    def __init__(
        self,
        clock: Clock,
        patience: Patience | None = None,
        capacity: int = 20_000,
        unrecognised: Unrecognised | None = None,
    ) -> None:
        self.clock = clock
        self.patience = patience or Patience()
        self.capacity = capacity
        self.unrecognised = unrecognised or Unrecognised(MOST_UNRECOGNISED)
        self.heads = Heads(clock.now_ms())
        self._members: set[Member] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty: asyncio.Future[None] | None = None  # somebody waits for the end of all

    def __len__(self) -> int:
        return len(self._members)

    @property
    def full(self) -> bool:
        """Whether no further connection may be opened."""
        return len(self._members) >= self.capacity

    @property
    def answering(self) -> int:
        """How many requests are being answered."""
        return len(self._tasks)

    def add(self, member: Member) -> None:
        """A connection has been opened."""
        self._members.add(member)
        if self._timer is None:
            self._look()

    def discard(self, member: Member) -> None:
        """A connection has been closed."""
        self._members.discard(member)
        self._note_end()

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Answer a request, which goes on when its connection does not.

        Each has a task of its own: running the first step at once would save 4 of some 40 microseconds, but
        without `asyncio.current_task`, on which time limits and groups of tasks depend.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self, grace: float) -> None:
        """Let requests end within ``grace`` seconds, then end them."""
        for member in tuple(self._members):
            member.stop()
        await self._ended(grace)
        for member in tuple(self._members):
            member.abort()
        for task in self._tasks:
            task.cancel()
        await self._ended(1.0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _ended(self, seconds: float) -> None:
        if not self._members and not self._tasks:
            return
        empty = self._empty = asyncio.get_running_loop().create_future()
        timer = self.clock.call_later(seconds, self._give_up, empty)
        try:
            await empty
        finally:
            timer.cancel()
            self._empty = None

    @staticmethod
    def _give_up(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._note_end()

    def _note_end(self) -> None:
        if self._empty is not None and not self._members and not self._tasks:
            self._give_up(self._empty)

    def _look(self) -> None:
        self._timer = None
        self.heads.tick(self.clock.now_ms())
        now = self.clock.monotonic()
        for member in tuple(self._members):
            member.check(now)
        if self._members:
            self._timer = self.clock.call_later(INTERVAL, self._look)
