"""The engine of a node whose database is in PostgreSQL: connects, and applies migrations.

A call costs one round trip, whatever the statement.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg.sql import SQL, Identifier

from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.clock import Clock
from homeserver.storage import migrate
from homeserver.storage.circuit import Unreachable
from homeserver.storage.engine import Row
from homeserver.storage.one_writer import OneWriter
from homeserver.storage.open_transaction import Kind
from homeserver.storage.postgres.connection import (
    CONNECT_SECONDS,
    LOCK_TIMEOUT,
    Connection,
    Session,
    connect,
    plain_session,
)
from homeserver.storage.postgres.dialect import rewrite, translate
from homeserver.storage.postgres.transaction import PostgresTransaction

CONNECTIONS = 6
"""Connections that read."""

_LOCK = 0x446F6D6963696C65
"""Key of the advisory lock under which one process at a time migrates."""


class PostgresEngine(OneWriter[Connection]):
    """The `Engine` of a node whose database is in PostgreSQL."""

    kind = "postgresql"

    def __init__(
        self,
        node: str,
        url: str,
        migrations: Sequence[migrate.Migration] = (),
        *,
        clock: Clock,
        connections: int = CONNECTIONS,
    ) -> None:
        super().__init__(node, clock=clock, readers=connections)
        self._url = url
        self._migrations = migrations

    def _transaction(self, connection: Connection, kind: Kind) -> PostgresTransaction:
        return PostgresTransaction(self.node, connection, self._tally, kind)

    async def _connection(self, *, writing: bool) -> Connection:
        try:
            return await connect(self._url, self.node, writing=writing)
        except psycopg.Error as fault:
            raise Unreachable(str(fault).strip()) from fault

    async def _reach(self) -> Connection:
        try:
            session = await plain_session(self._url, self.node)
            try:
                await self._prepare(session)
            finally:
                await session.close()  # which gives the lock back too
        except psycopg.OperationalError as fault:
            raise Unreachable(str(fault).strip()) from fault
        return await self._connection(writing=True)

    async def purge(self, tables: Sequence[str]) -> None:
        """See `Engine.purge`."""
        self._circuit.check()
        try:
            session = await plain_session(self._url, self.node)
            try:
                for table in tables:
                    await session.execute(SQL("VACUUM {}").format(Identifier(table)))
            finally:
                await session.close()
        except psycopg.OperationalError as fault:
            raise NodeUnavailable(self.node) from fault

    async def _prepare(self, session: Session) -> None:
        """Apply the pending migrations, each as a whole, one process at a time."""
        await session.execute(LOCK_TIMEOUT)
        await session.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        encoding = await (await session.execute("SHOW server_encoding")).fetchone()
        if encoding != ("UTF8",):
            raise migrate.SchemaMismatch(f"the database of {self.node} must have the encoding UTF8")
        ledger = "SELECT to_regclass('migrations') IS NOT NULL"
        known = await (await session.execute(ledger)).fetchone()
        applied = await (await session.execute(migrate.READ)).fetchall() if known == (True,) else []
        steps = migrate.pending(self.node, self._migrations, applied, create=self._create)
        if steps and not applied:
            await self._make_schema(session)
        for migration in steps:
            try:
                async with session.transaction():
                    await self._apply(session, migration)
            except psycopg.OperationalError:
                raise
            except psycopg.Error as fault:
                raise migrate.failed(self.node, migration, fault) from fault

    async def _apply(self, session: Session, migration: migrate.Migration) -> None:
        cursor = psycopg.AsyncRawCursor(session)
        await cursor.execute(rewrite(migrate.LEDGER).encode())
        for statement in migrate.statements(migration.sql, "postgres"):
            await cursor.execute(rewrite(statement).encode())
        await cursor.execute(translate(migrate.RECORD), (migration.number, migration.name, migration.digest))

    @staticmethod
    async def _make_schema(session: Session) -> None:
        """A ``search_path`` in the address may name a schema that is not there yet."""
        missing = "SELECT current_schema() IS NULL, (current_setting('search_path'))"
        row = await (await session.execute(missing)).fetchone()
        if row is not None and row[0]:
            schema = str(row[1]).split(",")[-1].strip().strip('"')
            await session.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))


async def peek(url: str, table: str, sql: str) -> list[Row]:
    """The rows of a query, read without changing anything; none if ``table`` is not there. Raises Unreachable."""
    try:
        session = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS)
        async with session:
            known = await (await session.execute("SELECT to_regclass(%s) IS NOT NULL", (table,))).fetchone()
            return await (await session.execute(sql.encode())).fetchall() if known == (True,) else []
    except psycopg.Error as fault:
        raise Unreachable(str(fault).strip()) from fault
