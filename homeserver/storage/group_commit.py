"""Group commit: what several callers want to write at the same moment is one transaction, with one COMMIT.

The invariant: each caller's work is done wholly or not at all, and after that of those before it, as if it had been
alone; what the database refuses of one takes no other along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage.engine import Transaction

T = TypeVar("T")
Work = Callable[[Transaction], Awaitable[T]]

MOST = 32
"""Callers in one transaction at most."""


@dataclass(eq=False, slots=True)
class _Waiting:
    work: Work[Any]
    done: asyncio.Future[Any]


class GroupCommit:
    """What waits to be written together. ``write`` runs a function in a transaction, as `Node.advance` does."""

    def __init__(self, write: Callable[[Work[list[Any]]], Awaitable[list[Any]]]) -> None:
        self._write = write
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Work[T]) -> T:
        """Run ``work(tx)`` and return its result once it is durable; behind it others may run on the same ``tx``.

        A caller that is cancelled before its work has begun leaves nothing behind; later, all of it or nothing.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(work, loop.create_future())
        self._waiting.append(waiting)
        if self._task is None:  # a task of its own, so that no caller's cancellation is the others'
            self._task = loop.create_task(self._empty(), context=Context())
        result: T = await waiting.done
        return result

    async def _empty(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:MOST]
                del self._waiting[:MOST]
                await self._commit(batch)
        finally:
            self._task = None

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        try:
            results = await self._write(_together(batch))
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, NodeUnavailable):
                for each in batch:  # one of them is to blame
                    await self._commit([each])
                return
            for each in batch:
                if not each.done.done():
                    each.done.set_exception(error)
        else:
            for each, result in zip(batch, results, strict=True):
                if not each.done.done():  # else the caller has been cancelled
                    each.done.set_result(result)


def _together(batch: Sequence[_Waiting]) -> Work[list[Any]]:
    async def write(tx: Transaction) -> list[Any]:
        return [None if each.done.done() else await each.work(tx) for each in batch]

    return write
