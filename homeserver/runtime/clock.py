"""The only place that tells the time or sleeps: a `Clock` is passed to whatever needs one.

`SystemClock` is the machine's; `FakeClock` stands still until a test advances it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that has been put off."""

    def cancel(self) -> None:
        """Forget the call; without effect when it was made already."""
        ...


class Clock(Protocol):
    """What tells the time and waits."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC: for what is shown or stored. It may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment: for measuring and for deadlines. It never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long; a duration of zero or less lets others run once."""
        ...

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` in the running event loop after that many seconds."""
        ...


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` after that many seconds."""
        return asyncio.get_running_loop().call_later(seconds, callback, *args)


class _FakeTimer:
    """A call due at a moment of a `FakeClock`."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        """Forget the call."""
        self.callback = None
        self.args = ()


class FakeClock:
    """A clock for tests that moves only when told to. ``asleep``: the tasks for which nothing goes on until it does."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = now_ms
        self._elapsed = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []  # a heap by due time, then by order of the calls
        self.asleep: set[asyncio.Task[Any] | None] = set()

    def now_ms(self) -> int:
        """The start plus what was advanced, in milliseconds."""
        return self._start_ms + round(self._elapsed * 1000)

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()

        def wake() -> None:
            self.asleep.discard(task)
            if not done.done():
                done.set_result(None)

        timer = self.call_later(seconds, wake)
        self.asleep.add(task)
        try:
            await done
        finally:
            self.asleep.discard(task)
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` once the clock has been advanced that far."""
        timer = _FakeTimer(callback, args)
        heapq.heappush(self._timers, (self._elapsed + max(seconds, 0.0), next(self._order), timer))
        return timer

    @property
    def waiting(self) -> int:
        """How many timers are still to fire."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    async def advance(self, seconds: float) -> None:
        """Move on by that many seconds; what falls due runs in order, each at its own moment.

        After each timer the event loop turns a few times, so that what a timer woke can set its
        next timer and have it fire within the same advance.
        """
        goal = self._elapsed + seconds
        await self._turn()
        while self._timers and self._timers[0][0] <= goal:
            due, _, timer = heapq.heappop(self._timers)
            self._elapsed = max(self._elapsed, due)
            if timer.callback is not None:
                callback, args = timer.callback, timer.args
                timer.cancel()
                callback(*args)
                await self._turn()
        self._elapsed = goal
        await self._turn()

    @staticmethod
    async def _turn() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
