"""A transaction on PostgreSQL. BEGIN and queued writes ride in the trip of the next statement, as a pipeline.

A write is serialisable; a read is one unchanging snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextvars import Context

import psycopg

from homeserver.protocol.errors import ResidencyViolation
from homeserver.storage.engine import Param, Row
from homeserver.storage.open_transaction import Kind, OpenTransaction, Queued, Tally
from homeserver.storage.postgres import connection as sessions
from homeserver.storage.postgres.connection import Connection
from homeserver.storage.postgres.dialect import translate
from homeserver.storage.postgres.meaning import meaning, meaning_of_commit

READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "BEGIN ISOLATION LEVEL SERIALIZABLE"

Cursor = psycopg.AsyncCursor[Row]


class PostgresTransaction(OpenTransaction[Connection]):
    """Statements of one transaction take turns on its connection."""

    def __init__(self, node: str, connection: Connection, tally: Tally, kind: Kind) -> None:
        super().__init__(node, connection, tally, kind)
        self._session = connection.session
        self._turn = asyncio.Lock()
        self._committing: asyncio.Task[None] | None = None
        self._undone: asyncio.Task[None] | None = None

    async def all(self, sql: str, *params: Param) -> list[Row]:
        """See `Transaction.all`."""
        return await (await self._trip(sql, (params,))).fetchall()

    async def one(self, sql: str, *params: Param) -> Row | None:
        """See `Transaction.one`."""
        return await (await self._trip(sql, (params,))).fetchone()

    async def run(self, sql: str, *params: Param) -> int:
        """See `Transaction.run`."""
        return (await self._trip(sql, (params,))).rowcount

    async def many(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """See `Transaction.many`."""
        batch = list(rows)
        if batch:
            await self._trip(sql, batch)

    async def _commit(self) -> None:
        """In a task of its own, which a caller that is cancelled meanwhile leaves behind."""
        self._committing = asyncio.create_task(self._commit_aside())
        await asyncio.shield(self._committing)

    async def _commit_aside(self) -> None:
        await self._trip("COMMIT", ((),))
        self.committed = True

    def undo(self) -> asyncio.Future[None] | None:
        """See `OpenTransaction.undo`."""
        self.ended = True
        on_its_way = self._committing is not None and not self._committing.done()
        if self._undone is None and (on_its_way or not self.connection.idle):
            self._undone = asyncio.get_running_loop().create_task(self._undo(), context=Context())
        return self._undone

    async def _undo(self) -> None:
        if self._committing is not None and not self._committing.done():
            await asyncio.wait([self._committing])
        if not self.connection.idle:
            await (self.connection.roll_back() if self._kind is Kind.WRITE else self.connection.end_snapshot())

    async def _trip(self, sql: str, rows: Sequence[Sequence[Param]]) -> Cursor:
        self._check_call()
        async with self._turn:
            self._check_call()
            queue = self._take_queue()
            self._tally.trips += 1
            explain = meaning_of_commit if sql == "COMMIT" and not self.connection.hung_up else meaning
            task = asyncio.current_task()
            cancellations = 0 if task is None else task.cancelling()
            try:
                with self.connection.limit(sessions.TRIP_SECONDS):
                    cursor = await self._send(queue, sql, rows)
            except (psycopg.Error, UnicodeEncodeError, OverflowError) as fault:
                self.failure = explain(fault, self.node)
                self._tally.violations += isinstance(self.failure, ResidencyViolation)
            except BaseException as fault:
                self.failure = fault
                raise
            if task is not None and task.cancelling() > cancellations:  # the driver has swallowed it
                self.failure = asyncio.CancelledError()
            if self.failure is not None:
                raise self.failure  # not from the driver's error, which quotes the values of the row
            return cursor

    async def _send(self, queue: Sequence[Queued], sql: str, rows: Sequence[Sequence[Param]]) -> Cursor:
        if self._kind is Kind.GLANCE:
            self.asked = True
            return await self._execute(sql, rows)
        if self.asked and not queue:
            return await self._execute(sql, rows)
        async with self._session.pipeline():
            if not self.asked:
                self.asked = True
                await self._session.execute(WRITE if self._kind is Kind.WRITE else READ, prepare=False)
            for queued, batch in queue:
                await self._execute(queued, batch)
            return await self._execute(sql, rows)

    async def _execute(self, sql: str, rows: Sequence[Sequence[Param]]) -> Cursor:
        cursor = psycopg.AsyncRawCursor(self._session)
        translated = translate(sql)
        if len(rows) == 1:
            prepare = False if sql == "COMMIT" else None
            return await cursor.execute(translated, rows[0] or None, prepare=prepare, binary=True)
        await cursor.executemany(translated, rows)
        return cursor
