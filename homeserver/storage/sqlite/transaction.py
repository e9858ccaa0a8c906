"""A transaction on SQLite. BEGIN rides in the hop of its first statement and queued writes in that of the next, so
that a transaction of queued writes only is a single hop, and a reader's snapshot is ended without waiting. A single
statement that reads is a snapshot by itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from homeserver.protocol.errors import ResidencyViolation
from homeserver.storage.engine import DatabaseFault, Param, Row, log
from homeserver.storage.open_transaction import FAILED, READS_ONLY, Kind, OpenTransaction, Tally
from homeserver.storage.setbacks import InDoubt
from homeserver.storage.sqlite.connection import Connection
from homeserver.storage.sqlite.file import File
from homeserver.storage.sqlite.meaning import code, is_foreign, meaning, meaning_of_commit, refuse_nul

V = TypeVar("V")

READ = "BEGIN DEFERRED"
WRITE = "BEGIN IMMEDIATE"


class SqliteTransaction(OpenTransaction[Connection]):
    """The thread writes ``begun``, ``committed`` and ``failure``; the names of what runs in it end in ``_there``."""

    def __init__(self, node: str, connection: Connection, tally: Tally, kind: Kind, file: File) -> None:
        super().__init__(node, connection, tally, kind)
        self._file = file
        self._raw = connection.raw
        self._begun = False
        self._committing = False

    async def all(self, sql: str, *params: Param) -> list[Row]:
        """See `Transaction.all`."""

        def rows_there() -> list[Row]:
            cursor = self._execute_there(sql, params)
            try:
                return cursor.fetchall()
            finally:
                cursor.close()  # also one that broke off is to hold no snapshot

        return await self._hop(rows_there, sql, (params,))

    async def one(self, sql: str, *params: Param) -> Row | None:
        """See `Transaction.one`."""

        def first_there() -> Row | None:
            cursor = self._execute_there(sql, params)
            try:
                row: Row | None = cursor.fetchone()
            finally:
                cursor.close()  # an unfinished SELECT would hold up the COMMIT
            return row

        return await self._hop(first_there, sql, (params,))

    async def run(self, sql: str, *params: Param) -> int:
        """See `Transaction.run`."""

        def count_there() -> int:
            cursor = self._execute_there(sql, params)
            cursor.fetchall()
            return cursor.rowcount

        return await self._hop(count_there, sql, (params,))

    async def many(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """See `Transaction.many`."""
        batch = list(rows)
        if batch:
            await self._hop(lambda: self._execute_many_there(sql, batch), sql, batch)

    async def _commit(self) -> None:
        await self._hop(self._commit_there, "COMMIT", ())

    def undo(self) -> asyncio.Future[None] | None:
        """See `OpenTransaction.undo`. The end of a snapshot is posted, and the next to post finds it ended."""
        self.ended = True
        if not self.asked or self.committed or self._kind is Kind.GLANCE:
            return None
        if self._kind is Kind.WRITE:
            return self.connection.post(self.connection.roll_back)
        self.connection.post_unwatched(self.connection.roll_back)
        return None

    def _hop(self, work: Callable[[], V], sql: str, rows: Sequence[Sequence[Param]]) -> asyncio.Future[V]:
        self._check_call()
        queue = self._take_queue()

        def job_there() -> V:
            current, batch = sql, rows
            if self.failure is not None:  # what was posted together with it; on its own it would commit itself
                raise DatabaseFault(FAILED)
            try:
                self._begin_there()
                for current, batch in queue:
                    self._execute_many_there(current, batch)
                current, batch = sql, rows
                return work()
            except BaseException as fault:
                self.failure = self._explain_there(fault, current, batch)
                if self.failure is fault:
                    raise
                raise self.failure from fault

        self._tally.trips += 1
        self.asked = True
        return self.connection.post(job_there)

    def _begin_there(self) -> None:
        if not self._begun:
            self._file.look()
            if self._kind is not Kind.GLANCE:
                self._raw.execute(WRITE if self._kind is Kind.WRITE else READ)
            self._begun = True

    def _commit_there(self) -> None:
        self._committing = True
        self._raw.execute("COMMIT")
        self.committed = True

    def _execute_there(self, sql: str, params: Sequence[Param]) -> sqlite3.Cursor:
        refuse_nul(params)
        return self._raw.execute(sql, params)

    def _execute_many_there(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        for row in rows:
            refuse_nul(row)
        self._raw.executemany(sql, rows)

    def _explain_there(self, fault: BaseException, sql: str, rows: Sequence[Sequence[Param]]) -> BaseException:
        """After a failure: undo everything, and say what it means."""
        found = meaning_of_commit(fault) if self._committing else meaning(fault)
        if code(fault) == sqlite3.SQLITE_READONLY and self._kind is not Kind.WRITE:
            found = DatabaseFault(READS_ONLY)
        try:
            if code(fault) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY and is_foreign(self._raw, sql, rows):
                self._tally.violations += 1
                log.error("residency violation", node=self.node, sql=sql)
                found = ResidencyViolation(f"A row was refused: its owner does not reside on {self.node}")
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
        except sqlite3.Error as second:
            return found if isinstance(found, InDoubt) else meaning(second)
        return found
