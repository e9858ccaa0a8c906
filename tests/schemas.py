"""Schemas of PostgreSQL with all tables made, which tests take and give back: emptying one is quicker than making one.

A schema that a test has changed otherwise than by its rows is dropped.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.sql import SQL, Composed, Identifier, Placeholder

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_OBJECTS = """
WITH mine AS (SELECT oid, relname, relkind, relchecks FROM pg_class WHERE relnamespace = to_regnamespace(%(schema)s))
SELECT format('%%s %%s %%s', relname, relkind, relchecks) FROM mine
UNION ALL
SELECT format('%%s on %%s', tgname, relname) FROM pg_trigger JOIN mine ON mine.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT format('%%s of %%s', attname, relname) FROM pg_attribute JOIN mine ON mine.oid = attrelid WHERE attnum > 0
ORDER BY 1
"""
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'"
_COUNTERS = "SELECT setval(oid, 1, false) FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'S'"


class Made(NamedTuple):
    """What a schema was when it had just been made: what there is in it, its tables, and the rows of some of them."""

    objects: list[str]
    tables: list[str]
    rows: dict[str, list[tuple[Any, ...]]]


class Schemas:
    """The schemas of one test process on one server. A ``kind`` of schema is what migrations made it."""

    _serial = itertools.count()

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: dict[str, list[str]] = {}
        self._made: dict[str, Made] = {}
        self._open: Connection | None = None  # kept, for it knows the tables: a new one reads the catalogue first

    def take(self, kind: str) -> str:
        """The name of a schema: one that is empty but for its tables, or one that is not there yet."""
        idle = self._idle.get(kind)
        return idle.pop() if idle else f"kept{os.getpid()}_{next(self._serial)}"

    async def remember(self, kind: str, schema: str) -> None:
        """Note what a schema is that has just been made; once for each kind."""
        if kind not in self._made:
            async with self._connection() as connection:
                tables = [name for (name,) in await self._all(connection, _TABLES, [schema])]
                rows = {}
                for table in tables:
                    found = await self._all(connection, SQL("SELECT * FROM {}").format(Identifier(schema, table)))
                    if found:
                        rows[table] = found
                self._made[kind] = Made(await self._objects(connection, schema), tables, rows)

    async def give_back(self, kind: str, schema: str) -> None:
        """Empty a schema for the next test."""
        made = self._made.get(kind)
        async with self._connection() as connection:
            if made is None or await self._objects(connection, schema) != made.objects:
                await connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))
                return
            async with connection.transaction():
                await connection.execute("SET LOCAL session_replication_role = replica")  # no order among the tables
                places = [Identifier(schema, table) for table in made.tables]
                await connection.execute(SQL("; ").join(SQL("DELETE FROM {}").format(place) for place in places))
                await connection.execute(_COUNTERS, [schema])
                for table, rows in made.rows.items():
                    await connection.cursor().executemany(_insertion(schema, table, len(rows[0])), rows)
        self._idle.setdefault(kind, []).append(schema)

    async def drop_all(self) -> None:
        """Leave nothing in the server."""
        async with self._connection() as connection:
            for schema in itertools.chain.from_iterable(self._idle.values()):
                await connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))
            await connection.close()
        self._idle.clear()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """The connection that is kept, or a new one: some tests end the server."""
        if self._open is not None:
            with contextlib.suppress(psycopg.OperationalError):
                await self._open.execute("SELECT 1")
        if self._open is None or self._open.closed:
            self._open = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        try:
            yield self._open
        except BaseException:
            await self._open.close()
            raise

    async def _objects(self, connection: Connection, schema: str) -> list[str]:
        return [name for (name,) in await self._all(connection, _OBJECTS, {"schema": schema})]

    @staticmethod
    async def _all(
        connection: Connection, query: str | Composed, params: Sequence[Any] | dict[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        text = query.encode() if isinstance(query, str) else query
        return await (await connection.execute(text, params)).fetchall()


def _insertion(schema: str, table: str, columns: int) -> Composed:
    values = SQL(", ").join(Placeholder() * columns)
    return SQL("INSERT INTO {} VALUES ({})").format(Identifier(schema, table), values)
