"""The engine of a node whose database is a file of SQLite: connects, and applies migrations.

A call costs one hop to a thread, whatever the statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.clock import Clock
from homeserver.storage import migrate
from homeserver.storage.circuit import Unreachable
from homeserver.storage.engine import DatabaseFault, Transaction, log
from homeserver.storage.one_writer import OneWriter
from homeserver.storage.open_transaction import Kind
from homeserver.storage.setbacks import Lost, Setback
from homeserver.storage.sqlite.connection import Connection
from homeserver.storage.sqlite.file import File
from homeserver.storage.sqlite.meaning import meaning
from homeserver.storage.sqlite.transaction import WRITE, SqliteTransaction

READERS = 3
PURGES = 12
"""How often it is tried to empty the write-ahead log."""
CACHE = 2 * 2**20
"""Bytes of pages that each connection keeps."""


class SqliteEngine(OneWriter[Connection]):
    """The `Engine` of a node whose database is a file."""

    kind = "sqlite"

    def __init__(
        self,
        node: str,
        path: Path,
        migrations: Sequence[migrate.Migration] = (),
        *,
        clock: Clock,
        readers: int = READERS,
        cache: int = CACHE,
    ) -> None:
        super().__init__(node, clock=clock, readers=readers)
        self._file = File(path, cache)
        self._migrations = migrations

    def _transaction(self, connection: Connection, kind: Kind) -> SqliteTransaction:
        return SqliteTransaction(self.node, connection, self._tally, kind, self._file)

    async def _connection(self, *, writing: bool, create: bool = False) -> Connection:
        connection = Connection(lambda: self._file.open(writing=writing, create=create))
        opening = asyncio.ensure_future(connection.connect())
        try:
            await asyncio.shield(opening)
        except (sqlite3.Error, OSError, Lost) as fault:
            raise Unreachable(f"{self._file.path}: {fault}") from fault
        except asyncio.CancelledError:  # the file is open in a moment, and must not stay so
            self._put_aside(_close_once_open(connection, opening))
            raise
        return connection

    async def purge(self, tables: Sequence[str]) -> None:
        """See `Engine.purge`. Waits for readers that still look at what was there before."""
        for attempt in range(PURGES):
            async with self.alone() as write:
                if await write(_nothing) and await self._truncate():
                    return
            await self._clock.sleep(min(0.01 * 2**attempt, 1.0))
        log.warning("the write-ahead log is in use, and was not emptied", node=self.node)

    async def _truncate(self) -> bool:
        """Empty the write-ahead log, if nobody reads what is in it. Nobody may be writing."""
        writer = await self._take_writer()
        try:
            busy: int = await writer.post(lambda: writer.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        except sqlite3.Error as fault:
            raise NodeUnavailable(self.node) from fault
        finally:
            self._give_back(writer)
        return not busy

    async def _reach(self) -> Connection:
        self._file.forget()
        writer = await self._connection(writing=True, create=self._create)
        try:
            await writer.post(lambda: self._prepare(writer.raw))
        except BaseException as fault:
            self._put_aside(writer.close())
            if isinstance(fault, OSError) or isinstance(meaning(fault), Setback):
                raise Unreachable(str(fault)) from fault
            raise
        return writer

    def _prepare(self, raw: sqlite3.Connection) -> None:
        """In the writer's thread: note which file it is, and apply the pending migrations, each as a whole."""
        self._file.recognise()
        while self._pending(raw):
            raw.execute(WRITE)  # another process may be at it too: look again, under the lock
            try:
                for migration in self._pending(raw)[:1]:
                    self._apply(raw, migration)
                raw.execute("COMMIT")
            finally:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
        self._file.remember_log()

    def _pending(self, raw: sqlite3.Connection) -> list[migrate.Migration]:
        known = raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone()
        applied = raw.execute(migrate.READ).fetchall() if known else []
        return migrate.pending(self.node, self._migrations, applied, create=self._create)

    def _apply(self, raw: sqlite3.Connection, migration: migrate.Migration) -> None:
        try:
            raw.execute(migrate.LEDGER)
            for statement in migrate.statements(migration.sql, "sqlite"):
                raw.execute(statement)
            raw.execute(migrate.RECORD, (migration.number, migration.name, migration.digest))
        except (sqlite3.Error, sqlite3.Warning) as fault:
            if isinstance(meaning(fault), DatabaseFault):
                raise migrate.failed(self.node, migration, fault) from fault
            raise


async def _nothing(tx: Transaction) -> bool:
    """Find out that the database is there."""
    return await tx.one("SELECT 1") is not None


async def _close_once_open(connection: Connection, opening: asyncio.Future[None]) -> None:
    with contextlib.suppress(sqlite3.Error, OSError, Lost):
        await opening
        await connection.close()
