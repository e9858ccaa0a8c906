"""The engine of a node whose database is a file of SQLite: connects, and applies migrations.

A call costs one hop to a thread, whatever the statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from homeserver.runtime.clock import Clock
from homeserver.storage import migrate
from homeserver.storage.circuit import Unreachable
from homeserver.storage.engine import DatabaseFault
from homeserver.storage.one_writer import OneWriter
from homeserver.storage.open_transaction import Kind
from homeserver.storage.setbacks import Lost, Setback
from homeserver.storage.sqlite.connection import Connection
from homeserver.storage.sqlite.file import File
from homeserver.storage.sqlite.meaning import meaning
from homeserver.storage.sqlite.transaction import WRITE, SqliteTransaction

READERS = 3
CACHE = 2 * 2**20
"""Bytes of pages that each connection keeps."""


class SqliteEngine(OneWriter[Connection]):
    """The `Engine` of a node whose database is a file."""

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


async def _close_once_open(connection: Connection, opening: asyncio.Future[None]) -> None:
    with contextlib.suppress(sqlite3.Error, OSError, Lost):
        await opening
        await connection.close()
