"""One writer at a time and a few readers beside it: how transactions come to their connections, on both engines.

The invariants: writers are served in the order in which they came, and each finds the transaction of the one before
it finished and announced, whatever became of its caller; nobody is given a connection that is of no more use.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Concatenate, Generic, Protocol, TypeVar

from homeserver.protocol.errors import CommitUnknown, NodeUnavailable
from homeserver.runtime.clock import Clock
from homeserver.storage.circuit import Circuit, Unreachable
from homeserver.storage.engine import Health, P, Scope, T, Transaction, Write, asks_once, log, run_callbacks
from homeserver.storage.open_transaction import Kind, OpenTransaction, Tally
from homeserver.storage.setbacks import Conflict, InDoubt, Lost, Setback

WAIT_SECONDS = 10.0
"""How long a read may wait for a connection."""
ATTEMPTS = 10
"""How often a transaction is run before its conflicts count as the node's being unavailable."""
FIRST_BACKOFF = 0.005
"""Seconds before a transaction is run again, at most; doubles up to `LAST_BACKOFF`."""
LAST_BACKOFF = 0.5


class Connection(Protocol):
    """What transactions run on, one at a time."""

    @property
    def usable(self) -> bool:
        """Whether another transaction may have it."""
        ...

    async def close(self) -> None:
        """Let go of what it holds. Raises nothing."""
        ...


C = TypeVar("C", bound=Connection)


class OneWriter(ABC, Generic[C]):
    """The `Engine` of a node but for the database: that is `_reach`, `_connection` and `_transaction`."""

    def __init__(self, node: str, *, clock: Clock, readers: int) -> None:
        self.node = node
        self._tally = Tally()
        self._clock = clock
        self._create = False
        self._door = asyncio.Lock()  # before the line; held by whoever is alone
        self._line = asyncio.Lock()  # of writers, first come, first served; held by a transaction, not by its caller
        self._readers = readers
        self._seats = asyncio.Semaphore(readers)  # likewise
        self._writer: C | None = None  # while nobody writes
        self._idle: list[C] = []  # of readers; the last one used is taken first: it is warm
        self._open: set[C] = set()  # in use or not; one that is not among them is closed when it comes back
        self._aside: set[asyncio.Future[None]] = set()
        self._circuit = Circuit(node, clock, self._connect)

    # What a database is asked for.

    @abstractmethod
    async def _reach(self) -> C:
        """Find the database, bring its schema up to date, and return the first connection that writes.

        Raises Unreachable and SchemaMismatch.
        """

    @abstractmethod
    async def _connection(self, *, writing: bool) -> C:
        """One more connection. Raises Unreachable."""

    @abstractmethod
    def _transaction(self, connection: C, kind: Kind) -> OpenTransaction[C]:
        """A transaction of which the database has not heard yet."""

    # What the rest of the house sees; all of it is documented in `Engine`.

    @property
    def trips(self) -> int:
        """See `Engine.trips`."""
        return self._tally.trips

    @property
    def violations(self) -> int:
        """See `Engine.violations`."""
        return self._tally.violations

    async def open(self, *, create: bool = False) -> None:
        """See `Engine.open`."""
        self._create = create  # until it has been reached once
        await self._circuit.start()

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._circuit.stop()
        async with self._line:
            for _ in range(self._readers):
                await self._seats.acquire()
            writer, self._writer = self._writer, None
            self._retire()
            await self._wait_aside()
            if writer is not None:  # last and alone: only who is alone can take SQLite's log into the file and away
                self._keeps(writer)
                await self._wait_aside()
            for _ in range(self._readers):
                self._seats.release()

    def health(self) -> Health:
        """See `Engine.health`."""
        return self._circuit.health

    def watch(self, callback: Callable[[Health], object]) -> None:
        """See `Engine.watch`."""
        self._circuit.watch(callback)

    async def probe(self) -> Health:
        """See `Engine.probe`."""
        if self._circuit.health.up:
            with contextlib.suppress(NodeUnavailable):
                await self.read(_ask)
        else:
            await self._circuit.attempt()
        return self._circuit.health

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Engine.read`."""
        self._circuit.check()
        with Scope(self.node):
            kind = Kind.GLANCE if getattr(fn, "asks_once", False) else Kind.READ
            tx = self._transaction(await self._take_reader(), kind)
            try:
                result = await fn(tx, *args, **kwargs)
            except Setback as fault:
                raise self._unavailable(fault, tx) from fault
            finally:
                self._when_free(tx, self._end_read)
        run_callbacks(tx.callbacks)
        return result

    async def write(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Engine.write`."""
        self._circuit.check()
        with Scope(self.node):
            async with self._door:
                connection = await self._take_writer()
            return await self._write(connection, fn, *args, **kwargs)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Write]:
        """See `Engine.alone`."""
        async with self._door:
            async with self._line:  # whoever writes has written
                pass
            yield self._write_alone

    async def _write_alone(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`write` for whoever has the door."""
        self._circuit.check()
        with Scope(self.node):
            return await self._write(await self._take_writer(), fn, *args, **kwargs)

    async def _write(
        self, connection: C, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        for attempt in range(ATTEMPTS):
            tx = self._transaction(connection, Kind.WRITE)
            try:
                result = await fn(tx, *args, **kwargs)
                await tx.commit()
                break
            except BaseException as fault:
                if not isinstance(fault, Conflict) or attempt + 1 == ATTEMPTS:
                    self._when_free(tx, self._end_write)
                    if isinstance(fault, Setback):
                        raise self._unavailable(fault, tx) from fault
                    raise
            await self._undo_and_wait(tx, attempt)
        self._when_free(tx, self._end_write)
        return result

    # How a transaction ends.

    def _when_free(self, tx: OpenTransaction[C], end: Callable[[OpenTransaction[C]], None]) -> None:
        """Undo what was not committed, and only then let the next one in, whatever becomes of the caller."""
        undone = tx.undo()
        if undone is None:
            end(tx)
        else:
            undone.add_done_callback(lambda _: end(tx))

    def _end_read(self, tx: OpenTransaction[C]) -> None:
        if self._keeps(tx.connection):
            self._idle.append(tx.connection)
        self._seats.release()

    def _end_write(self, tx: OpenTransaction[C]) -> None:
        try:
            if tx.committed:
                run_callbacks(tx.callbacks)
        finally:
            if self._keeps(tx.connection):
                self._writer = tx.connection
            self._line.release()

    async def _undo_and_wait(self, tx: OpenTransaction[C], attempt: int) -> None:
        """Between two runs of a transaction that met a conflict."""
        try:
            undone = tx.undo()
            if undone is not None:
                await asyncio.shield(undone)
            await self._clock.sleep(random.uniform(0, min(FIRST_BACKOFF * 2**attempt, LAST_BACKOFF)))  # noqa: S311
        except BaseException:
            self._when_free(tx, self._end_write)
            raise

    def _unavailable(self, fault: Setback, tx: OpenTransaction[C]) -> NodeUnavailable:
        """What the caller is told; goes down when the database was lost."""
        if not isinstance(fault, Lost):
            log.warning("the database is pressed", node=self.node, reason=str(fault))
        elif tx.connection in self._open:  # else it was lost before, and has been found again since
            self._lose(str(fault))
        return CommitUnknown(self.node) if isinstance(fault, InDoubt) else NodeUnavailable(self.node)

    # Connections.

    async def _take_reader(self) -> C:
        await self._sit()
        try:
            self._circuit.check()
            return self._idle.pop() if self._idle else await self._make(writing=False)
        except BaseException:
            self._seats.release()
            raise

    async def _sit(self) -> None:
        if not self._seats.locked():
            await self._seats.acquire()
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._seats.acquire()
        except TimeoutError as fault:
            raise NodeUnavailable(self.node) from fault

    async def _take_writer(self) -> C:
        await self._line.acquire()
        try:
            self._circuit.check()
            writer, self._writer = self._writer, None
            return writer or await self._make(writing=True)
        except BaseException:
            self._line.release()
            raise

    def _give_back(self, writer: C) -> None:
        """What `_take_writer` took."""
        if self._keeps(writer):
            self._writer = writer
        self._line.release()

    async def _make(self, *, writing: bool) -> C:
        try:
            connection = await self._connection(writing=writing)
        except Unreachable as fault:
            self._lose(str(fault))
            raise NodeUnavailable(self.node) from fault
        self._open.add(connection)
        return connection

    def _keeps(self, connection: C) -> bool:
        """Whether a connection that nobody uses any more will be used again; closes it when not."""
        if connection in self._open and connection.usable:
            return True
        self._open.discard(connection)
        self._put_aside(connection.close())
        return False

    async def _connect(self) -> None:
        """For the circuit."""
        self._writer = await self._reach()
        self._open.add(self._writer)
        self._create = False

    def _lose(self, reason: str) -> None:
        if self._circuit.health.up:
            self._retire()
            self._circuit.trip(reason)

    def _retire(self) -> None:
        """Close every connection, now or when its transaction has ended."""
        self._open.clear()
        for connection in [*self._idle, self._writer]:
            if connection is not None:
                self._keeps(connection)
        self._idle.clear()
        self._writer = None

    async def _wait_aside(self) -> None:
        while self._aside:
            await asyncio.wait(self._aside)

    def _put_aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with ``work`` whatever becomes of the caller, and outside its transaction."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)


@asks_once
async def _ask(tx: Transaction) -> None:
    await tx.one("SELECT 1")
