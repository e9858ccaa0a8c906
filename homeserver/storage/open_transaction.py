"""A transaction while it is open: what is queued for the next trip, what waits for the commit, what may still be asked.

The invariants: after a statement has failed there is only the roll-back, and after the end nothing.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

from homeserver.storage.engine import DatabaseFault, Param, Transaction
from homeserver.storage.setbacks import Conflict

C = TypeVar("C")
Queued = tuple[str, list[Sequence[Param]]]
"""A statement and the rows of parameters with which it is executed."""

FAILED = "an earlier statement of this transaction failed: it can only be rolled back"
READS_ONLY = "a read does not write"


class Kind(Enum):
    """What a transaction may do."""

    WRITE = auto()
    READ = auto()
    """Any number of statements on one snapshot."""
    GLANCE = auto()
    """A single statement, which reads."""


@dataclass(slots=True)
class Tally:
    """What an engine counts."""

    trips: int = 0
    violations: int = 0


class OpenTransaction(Transaction, Generic[C]):
    """A `Transaction` on one connection; those of the engines say how a statement gets there."""

    def __init__(self, node: str, connection: C, tally: Tally, kind: Kind) -> None:
        self._node = node
        self.connection = connection
        self._tally = tally
        self._kind = kind
        self._queue: list[Queued] = []
        self.callbacks: list[Callable[[], object]] = []
        self.taken = 0
        self.asked = False
        """Whether anything was sent to the database."""
        self.failure: BaseException | None = None
        self.committed = False
        self.ended = False

    @property
    def node(self) -> str:
        """See `Transaction.node`."""
        return self._node

    def later(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """See `Transaction.later`."""
        self._check()
        if self._kind is not Kind.WRITE:
            raise DatabaseFault(READS_ONLY)
        batch = list(rows)
        if batch:
            self._queue.append((sql, batch))

    def after_commit(self, callback: Callable[[], object]) -> None:
        """See `Transaction.after_commit`."""
        self._check()
        self.callbacks.append(callback)

    async def commit(self) -> None:
        """Make it durable; costs nothing when nothing was asked of the database."""
        self._check()
        if self.asked or self._queue:
            await self._commit()
        else:
            self.committed = True

    @abstractmethod
    async def _commit(self) -> None:
        """Send what is queued and COMMIT; goes on when the caller is cancelled meanwhile."""

    @abstractmethod
    def undo(self) -> asyncio.Future[None] | None:
        """End the transaction, and undo what was not committed: the connection is free when the future is done.

        None when it is free at once. A COMMIT that is on its way is waited for. The future has no exception;
        a connection that does not let itself be cleaned is no longer `usable`.
        """

    def _check(self) -> None:
        if self.ended:
            raise RuntimeError("the transaction has ended")
        if isinstance(self.failure, Conflict):  # swallowed; it must be run again all the same
            raise self.failure
        if self.failure is not None:
            raise DatabaseFault(FAILED)

    def _check_call(self) -> None:
        self._check()
        if self.asked and self._kind is Kind.GLANCE:
            raise RuntimeError("a function that is marked with asks_once has called its transaction twice")

    def _take_queue(self) -> list[Queued]:
        queue, self._queue = self._queue, []
        return queue
