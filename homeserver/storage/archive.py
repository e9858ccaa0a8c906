"""All rows of a database, table by table, in a form that means the same on SQLite and on PostgreSQL.

The tables are those that the migrations make, read from the migrations themselves: none can be forgotten. Rows come in
the order of their primary keys, so that the same database gives the same bytes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.runtime.parts import in_parts
from homeserver.storage import belongings, migrate
from homeserver.storage.postgres import dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from homeserver.storage.engine import Param, Row, Transaction

PAGE: Final = 500
"""Rows that are read together."""
PART: Final = 4 * 2**20
"""Bytes of rows from which on a part is full."""
LEDGER: Final = "migrations"
FIRST: Final = ("residents", "users")
"""Tables that others refer to: they come before them."""
ROOM: Final = 1_000_000
PACE: Final = 10_000
"""Positions that a node is trusted not to have taken since it was archived: so many at once, and so many a second."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A table: its columns, and those of its primary key. ``numbered``: the key is one that the database counts."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    numbered: bool


def layouts(migrations: Sequence[migrate.Migration]) -> tuple[Layout, ...]:
    """The tables that migrations make, in the order in which they are written, without the ledger of migrations."""
    with contextlib.closing(sqlite3.connect(":memory:")) as made:
        for migration in migrations:
            for statement in migrate.statements(migration.sql, "sqlite"):
                made.execute(statement)
        names = made.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        found = [_layout(made, name) for (name,) in names]
    return tuple(sorted(found, key=lambda each: (each.table not in FIRST, each.table)))


def _layout(made: sqlite3.Connection, table: str) -> Layout:
    rows = made.execute(f'PRAGMA table_info("{table}")').fetchall()
    key = sorted((row[5], row[1], row[2]) for row in rows if row[5])
    if not key:
        raise ValueError(f"{table} has no primary key by which its rows could be read page by page")
    numbered = len(key) == 1 and key[0][2] == "INTEGER"
    return Layout(table, tuple(row[1] for row in rows), tuple(name for _, name, _ in key), numbered)


async def ledger(tx: Transaction) -> list[tuple[int, str, str]]:
    """The migrations that have been applied: number, name, digest."""
    return [(row[0], row[1], row[2]) for row in await tx.all(migrate.READ)]


async def parts(tx: Transaction, layout: Layout) -> AsyncIterator[tuple[bytes, int]]:
    """The rows of a table as lines of JSON, some MiB at a time, and how many they are."""
    order = ", ".join(layout.key)
    marks = ", ".join("?" * len(layout.key))
    places = [layout.columns.index(name) for name in layout.key]
    lines: list[bytes] = []
    size = 0
    after: Sequence[Param] = ()
    while True:
        behind = f" WHERE ({order}) > ({marks})" if after else ""
        sql = f"SELECT {', '.join(layout.columns)} FROM {layout.table}{behind} ORDER BY {order} LIMIT ?"
        rows = await tx.all(sql, *after, PAGE)
        for row in rows:
            line = orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
            lines.append(line)
            size += len(line)
        if size and (size >= PART or len(rows) < PAGE):
            yield b"".join(lines), len(lines)
            lines, size = [], 0
        if len(rows) < PAGE:
            return
        after = [rows[-1][place] for place in places]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    raise TypeError(f"a database gave a {type(value).__name__}")


def rows_of(layout: Layout, part: bytes) -> list[Row]:
    """The rows in a part. Raises ValueError when they are none of this table."""
    found: list[Row] = []
    for line in part.splitlines():
        values = orjson.loads(line)
        if not isinstance(values, list) or len(values) != len(layout.columns):
            raise ValueError(f"a row of {layout.table} has other columns")
        found.append(tuple(b64decode(each["bytes"]) if isinstance(each, dict) else each for each in values))
    return found


async def occupied(tx: Transaction, tables: Collection[Layout]) -> str | None:
    """A table in which something is; None: nothing has happened in this database."""
    for layout in tables:
        if layout.table == "stream":
            continue
        if await tx.one(f"SELECT 1 FROM {layout.table} LIMIT 1") is not None:
            return layout.table
    return None


async def clear(tx: Transaction, tables: Collection[Layout]) -> None:
    """Take away the rows with which a database is made."""
    for layout in tables:
        if layout.table == "stream":
            await tx.run("DELETE FROM stream")


async def put(tx: Transaction, layout: Layout, rows: Sequence[Row]) -> None:
    """Write rows of a table as they were."""
    for part in in_parts(rows, PAGE):
        await tx.many(_insert(layout), part)


def _insert(layout: Layout) -> str:
    marks = ", ".join("?" * len(layout.columns))
    return f"INSERT INTO {layout.table} ({', '.join(layout.columns)}) VALUES ({marks})"


def unpack(path: Path, node: str, migrations: Sequence[migrate.Migration], parts: Iterable[tuple[str, bytes]]) -> None:
    """Make a file of SQLite with rows as they were archived, whoever they are of. Raises ValueError."""
    by_name = {layout.table: layout for layout in layouts(migrations)}
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("PRAGMA synchronous = OFF")  # nobody goes on with it after a crash
        made.execute("BEGIN")
        made.execute(migrate.LEDGER)
        for migration in (migrate.Migration(0, node, ""), *migrations):
            for statement in migrate.statements(migration.sql, "sqlite"):
                made.execute(statement)
            made.execute(migrate.RECORD, (migration.number, migration.name, migration.digest))
        if "stream" in by_name:
            made.execute("DELETE FROM stream")
        for table, part in parts:
            if table not in by_name:
                raise ValueError(f"it has a table {table}, which its version had not")
            try:
                made.executemany(_insert(by_name[table]), rows_of(by_name[table], part))
            except sqlite3.Error as fault:
                raise ValueError(f"rows of {table} are none: {fault}") from None
        made.execute("COMMIT")


async def modernise(tx: Transaction, migrations: Sequence[migrate.Migration], engine: str) -> None:
    """Bring rows that an older version archived to the schema of this one. ``engine``: ``sqlite`` or ``postgresql``."""
    on_postgres = engine == "postgresql"
    for migration in migrations:
        for statement in migrate.statements(migration.sql, "postgres" if on_postgres else engine):
            await tx.run(dialect.rewrite(statement) if on_postgres else statement)
        await tx.run(migrate.RECORD, migration.number, migration.name, migration.digest)


def gap(seconds: float) -> int:
    """How far positions jump when a database comes back that is ``seconds`` old."""
    return ROOM + PACE * max(0, int(seconds))


async def settle(tx: Transaction, node: str, jump: int, gone: Collection[int]) -> None:
    """Make a node's database, just restored, fit for those who have seen what came after it.

    Positions go on ``jump`` behind the last one. For the residents it is as if they had moved here from here: tokens
    that were given before, of whichever time, are answered with all there is, and letters that wait are told exactly
    by where they stood. One-time keys may have been given out since, so that none is given out again. Connections of
    sliding sync begin anew; copies of keys of users of other servers are fetched anew. ``gone``: residents who rest on
    other nodes by now; they are erased.
    """
    for user_nid in gone:
        belongings.erase(tx, user_nid, replicas=False)
    row = await tx.one("SELECT position FROM stream WHERE id = 1")
    assert row is not None
    last = int(row[0])
    came = last + jump
    await tx.run("DELETE FROM carried_letters")
    letters = await tx.all(
        "SELECT t.pos, t.user_nid, t.device_nid,"
        " (SELECT COUNT(*) FROM earlier_homes h WHERE h.user_nid = t.user_nid) FROM to_device t ORDER BY t.pos"
    )
    places = {row[0]: came + 1 + number for number, row in enumerate(letters)}
    await tx.many("UPDATE to_device SET pos = ? WHERE pos = ?", [(new, old) for old, new in reversed(places.items())])
    await tx.many(
        "INSERT INTO carried_letters (pos, user_nid, device_nid, epoch, node_pos) VALUES (?, ?, ?, ?, ?)",
        [(places[pos], user_nid, device_nid, epoch, pos) for pos, user_nid, device_nid, epoch in letters],
    )
    await tx.run(
        "INSERT INTO earlier_homes (user_nid, epoch, node, left_pos, came_pos) SELECT r.user_nid,"
        " (SELECT COUNT(*) FROM earlier_homes h WHERE h.user_nid = r.user_nid), ?, ?, ? FROM residents r",
        node,
        last,
        came,
    )
    await tx.run("UPDATE stream SET position = ? WHERE id = 1", came + len(letters))
    await tx.run("UPDATE one_time_keys SET claimed = 1 WHERE claimed = 0")
    await tx.run("DELETE FROM sliding_positions")
    await tx.run("UPDATE remote_device_lists SET stale = 1")


NUMBER: Final[Mapping[str, str]] = {
    "sqlite": "",  # counts from the highest that is there
    "postgresql": "SELECT setval(pg_get_serial_sequence('{0}', '{1}'), (SELECT GREATEST(MAX({1}), 1) FROM {0}))",
}


async def count_on(tx: Transaction, tables: Collection[Layout], engine: str) -> None:
    """Have the database count on from the row ids that were written. ``engine``: ``sqlite`` or ``postgresql``."""
    for layout in tables:
        if layout.numbered and NUMBER[engine]:
            await tx.all(NUMBER[engine].format(layout.table, layout.key[0]))
