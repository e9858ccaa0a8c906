"""The list of what users own against the schema: nothing of anybody's is forgotten when they move."""

from __future__ import annotations

import sqlite3

import pytest

from homeserver.storage.belongings import BELONGINGS, CARRIED, IN_ROOMS, Belonging
from homeserver.storage.tables import TABLES
from tests.storage.test_tables import columns, schema

__all__ = ["schema"]

ROW_IDS = {"devices": "device_nid", "one_time_keys": "key_nid", "delayed_events": "delayed_nid", "reports": "report_id"}
"""Columns that the database fills in itself, and that say nothing elsewhere."""


def test_every_table_with_an_owner_is_dealt_with() -> None:
    owned = {table.name for table in TABLES.values() if table.owner is not None}
    assert owned == BELONGINGS.keys() | IN_ROOMS
    assert not BELONGINGS.keys() & IN_ROOMS


def test_nothing_that_rests_with_its_owner_alone_is_left_to_the_rooms() -> None:
    assert [name for name in IN_ROOMS if TABLES[name].resident] == []


@pytest.mark.parametrize("belonging", CARRIED, ids=lambda each: each.table)
def test_every_column_is_carried(schema: sqlite3.Connection, belonging: Belonging) -> None:
    found = columns(schema, belonging.table).keys() - {belonging.owner, ROW_IDS.get(belonging.table, "")}
    if belonging.table == "pushers":
        assert found == set(belonging.columns)
    else:
        assert found - {"pos"} == set(belonging.columns) - {"pos"}
        assert ("pos" in found) == ("pos" in belonging.columns)


@pytest.mark.parametrize("belonging", CARRIED, ids=lambda each: each.table)
def test_the_order_tells_the_rows_of_an_owner_apart(schema: sqlite3.Connection, belonging: Belonging) -> None:
    """By the primary key, or as good as: else a page would begin behind rows that were not read."""
    keys = {row[1] for row in schema.execute(f"PRAGMA table_info({belonging.table})") if row[5]}
    one_each = keys <= {belonging.owner}
    assert one_each or keys <= {belonging.owner, *belonging.order}


@pytest.mark.parametrize("belonging", BELONGINGS.values(), ids=lambda each: each.table)
def test_an_owner_is_found_without_reading_the_table(schema: sqlite3.Connection, belonging: Belonging) -> None:
    """The rows are read and deleted while others wait, and the database looks for them when a resident goes."""
    sql = f"SELECT 1 FROM {belonging.table} WHERE {belonging.owner} = ?"
    plans = [row[3] for row in schema.execute(f"EXPLAIN QUERY PLAN {sql}", [1])]
    assert [plan for plan in plans if plan.startswith("SCAN")] == []
