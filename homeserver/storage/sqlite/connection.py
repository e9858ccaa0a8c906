"""A connection to SQLite and the thread that it lives in: functions are posted, and run there in their order.

That order is the invariant on which the rest is built: what is posted after a COMMIT, a roll-back for instance, finds
it finished, whatever became of whoever waited for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeVar

import aiosqlite

V = TypeVar("V")


class Connection(aiosqlite.Connection):
    """A connection that runs one function of ours in its thread per hop.

    aiosqlite offers one hop per statement. Its queue is used directly, and not its public methods,
    because a transaction needs several statements in one hop, and because the order of the queue is
    what makes a roll-back after a cancelled caller, and the end of a snapshot, safe without waiting.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, 64)
        self._thread.daemon = True  # a process that dies of an error must not hang in this thread
        self.usable = True

    async def connect(self) -> None:
        """Start the thread and open the file in it. Raises what the connector raises."""
        await self

    @property
    def raw(self) -> sqlite3.Connection:
        """For the thread: what the functions that are posted work on."""
        return self._conn

    def post(self, job: Callable[[], V]) -> asyncio.Future[V]:
        """Run ``job()`` in the thread, after all that was posted before."""
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, job))
        return future

    def post_unwatched(self, job: Callable[[], object]) -> None:
        """Like `post`, for what nobody waits for; the job must not raise."""
        self._tx.put_nowait((None, job))

    def roll_back(self) -> None:
        """In the thread: undo what was not committed; one that does not let itself be cleaned is of no more use."""
        try:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
        except sqlite3.Error:
            self.usable = False

    async def close(self) -> None:
        """Close after all that was posted before, and end the thread."""
        self.usable = False
        stopped = self.stop()
        assert stopped is not None
        await stopped
