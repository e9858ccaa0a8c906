"""The list of tables against the schema; and the guard: no node takes a row of somebody who is pinned elsewhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib.resources import files

import pytest

from config.residency import DataClass
from homeserver.protocol.errors import ResidencyViolation
from homeserver.storage import migrate, users
from homeserver.storage.engine import Engine, Transaction
from homeserver.storage.tables import TABLES, Table
from tests.support import Databases, aio

MIGRATIONS = migrate.load(files("homeserver.storage") / "schema" / "node")
RESIDENT = [table for table in TABLES.values() if table.resident]
NEVER_LEAVING = {data_class for data_class in DataClass if not data_class.leaves}
SAMPLE = {"INTEGER": 7, "TEXT": "x", "BLOB": b"x"}


@pytest.fixture(scope="module")
def schema() -> Iterator[sqlite3.Connection]:
    """A node's database as the migrations make it."""
    connection = sqlite3.connect(":memory:")
    for migration in MIGRATIONS:
        for statement in migrate.statements(migration.sql, "sqlite"):
            connection.execute(statement)
    yield connection
    connection.close()


def tables(schema: sqlite3.Connection) -> set[str]:
    rows = schema.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name for (name,) in rows}


def columns(schema: sqlite3.Connection, table: str) -> dict[str, str]:
    """The columns of a table and their types."""
    return {row[1]: row[2] for row in schema.execute(f"PRAGMA table_info({table})")}


def references(schema: sqlite3.Connection, table: str) -> dict[str, str]:
    """Which columns of a table reference which other table."""
    return {row[3]: row[2] for row in schema.execute(f"PRAGMA foreign_key_list({table})")}


def test_every_table_is_listed(schema: sqlite3.Connection) -> None:
    assert tables(schema) | {"migrations"} == set(TABLES)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_owners_are_as_listed(schema: sqlite3.Connection, table: Table) -> None:
    if table.name == "migrations":
        return
    named = [column for column in (table.owner, table.via) if column is not None]
    assert set(named) <= columns(schema, table.name).keys()
    expected = {table.owner: "residents"} if table.resident else {}
    assert references(schema, table.name) == expected


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_what_never_leaves_is_guarded(table: Table) -> None:
    assert table.resident or table.data_class not in NEVER_LEAVING


def test_every_class_but_one_has_a_table() -> None:
    """A notification is never stored, it only leaves."""
    stored = {*DataClass, None} - {DataClass.NOTIFICATIONS}
    assert {table.data_class for table in TABLES.values()} == stored


async def insert(tx: Transaction, table: Table, row: dict[str, object]) -> None:
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    values: list[int | str | bytes] = [value for value in row.values() if isinstance(value, int | str | bytes)]
    await tx.run(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", *values)


async def stranger_and_resident(engine: Engine) -> tuple[int, int]:
    """The row ids of a user who is only known here, and of one who lives here."""

    async def make(tx: Transaction) -> tuple[int, int]:
        users.intern(tx, ["@stranger:example.org"])
        resident = await users.settle(tx, "@resident:example.org")
        stranger = await users.nid(tx, "@stranger:example.org")
        assert stranger is not None
        return stranger, resident

    return await engine.write(make)


@aio
async def test_a_strangers_row_is_refused_by_every_guarded_table(
    engines: Databases, schema: sqlite3.Connection
) -> None:
    engine = await engines.open("tehran", MIGRATIONS)
    stranger, resident = await stranger_and_resident(engine)
    for table in RESIDENT:
        assert table.owner is not None
        row = {name: SAMPLE[kind] for name, kind in columns(schema, table.name).items()}
        with pytest.raises(ResidencyViolation):
            await engine.write(insert, table, {**row, table.owner: stranger})
        await engine.write(insert, table, {**row, table.owner: resident})  # only the owner was wrong
    assert engine.violations == len(RESIDENT)
