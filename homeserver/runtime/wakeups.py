"""Who waits for what: a listener names keys, and whoever changes something wakes them.

No wake-up is lost between looking and waiting, because one listens first and looks second:

    with wakeups.listen(keys) as listener:
        while not (found := await look()):
            if not await listener.wait(seconds):
                break

What is woken is a hint; the truth is where one looks. An idle listener costs a dictionary entry for
each key, and a timer while it waits with a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator, Set
from types import TracebackType

from homeserver.runtime.clock import Clock


class Listener:
    """One who waits. Owned by the task that called `Wakeups.listen`; only that task may wait on it."""

    __slots__ = ("_future", "_keys", "_wakeups", "_woken")

    def __init__(self, wakeups: Wakeups, keys: Iterable[Hashable]) -> None:
        self._wakeups = wakeups
        self._keys = tuple(dict.fromkeys(keys))
        self._woken: set[Hashable] = set()
        self._future: asyncio.Future[None] | None = None

    def __enter__(self) -> Listener:
        for key in self._keys:
            self._wakeups.listeners.setdefault(key, {})[self] = None
        self._wakeups.count += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wakeups.count -= 1
        for key in self._keys:
            waiting = self._wakeups.listeners[key]
            del waiting[self]
            if not waiting:
                del self._wakeups.listeners[key]

    @property
    def woken(self) -> Set[Hashable]:
        """The keys woken of which `wait` has not told yet."""
        return self._woken

    async def wait(self, seconds: float | None = None) -> set[Hashable]:
        """The keys woken since `Wakeups.listen`, or since this was last called; waits until there is one.

        The answer is empty when ``seconds`` have passed, and at once when the server is stopping.
        """
        if not self._woken and not self._wakeups.stopping and (seconds is None or seconds > 0):
            self._future = asyncio.get_running_loop().create_future()
            timer = None if seconds is None else self._wakeups.clock.call_later(seconds, self.rouse)
            try:
                await self._future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        elif self._wakeups.stopping:
            await asyncio.sleep(0)  # or who waits in a loop would let nobody end it
        woken, self._woken = self._woken, set()
        return woken

    def wake(self, key: Hashable) -> None:
        """Note that a key was woken. For `Wakeups`."""
        self._woken.add(key)
        self.rouse()

    def rouse(self) -> None:
        """End the waiting. For `Wakeups`, and for the timer."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Wakeups:
    """All who wait in this process. To be used from the event loop's thread only."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.listeners: dict[Hashable, dict[Listener, None]] = {}
        self.count = 0
        """How many listen now."""
        self.stopping = False

    def listen(self, keys: Iterable[Hashable]) -> Listener:
        """Listen to ``keys`` from the ``with`` on until its end."""
        return Listener(self, keys)

    async def wait(self, keys: Iterable[Hashable], deadline: float | None = None) -> set[Hashable]:
        """Wait until one of ``keys`` is woken, or ``deadline`` (of ``clock.monotonic()``) has come: `Listener.wait`.

        For whoever has nothing to look at: what was woken before the call is not seen.
        """
        with self.listen(keys) as listener:
            return await listener.wait(None if deadline is None else deadline - self.clock.monotonic())

    def wake(self, key: Hashable) -> None:
        """Wake all who listen to ``key`` now."""
        for listener in self.listeners.get(key, ()):
            listener.wake(key)

    def stop(self) -> None:
        """Let everybody go with empty hands, now and from now on: the server is stopping."""
        self.stopping = True
        for listener in list(self._everybody()):
            listener.rouse()

    def _everybody(self) -> Iterator[Listener]:
        for waiting in self.listeners.values():
            yield from waiting
