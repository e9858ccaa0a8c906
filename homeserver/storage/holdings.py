"""How much of somebody's a node holds, table by table.

The statement is made from `storage.tables` and the schema, so that a table that is added is counted; what is left out
is listed here with the reason.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.storage import migrate, users
from homeserver.storage.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from config.residency import DataClass
    from homeserver.storage.engine import Transaction
    from homeserver.storage.tables import Table

MOST_SERVERS: Final = 1000

NOT_COUNTED: Final[Mapping[str, str]] = {
    "users": "the name alone, which all else refers to",
    "event_transactions": "keyed hashes that are kept for some days",
    "relations": "made from the events, which are counted",
    "chores": "work that waits, for seconds mostly",
    "peer_edus": "what is on its way to other servers",
    "application_services": "what is on its way to services",
}


class Held(NamedTuple):
    """How many rows somebody has in a table, and about how many bytes they are; ``data_class``: that of the table."""

    table: str
    data_class: DataClass
    rows: int
    size: int


class Files(NamedTuple):
    """The files that somebody has uploaded."""

    number: int
    size: int


class Company(NamedTuple):
    """Where the rooms are held that somebody is in: by node and by other server, in how many rooms each."""

    nodes: dict[str, int]
    servers: dict[str, int]


def counted() -> Iterator[tuple[Table, DataClass]]:
    """The tables in which rows of users are counted, and their classes."""
    for table in TABLES.values():
        if table.owner is not None and table.data_class is not None and table.name not in NOT_COUNTED:
            yield table, table.data_class


@cache
def _columns() -> dict[str, list[tuple[str, str]]]:
    """Names and types of the columns of each table, as the migrations make them."""
    schema = sqlite3.connect(":memory:")
    for migration in migrate.load(files("homeserver.storage") / "schema" / "node"):
        for statement in migrate.statements(migration.sql, "sqlite"):
            schema.execute(statement)
    found = {
        table.name: [(row[1], row[2]) for row in schema.execute(f"PRAGMA table_info({table.name})")]
        for table, _ in counted()
    }
    schema.close()
    return found


@cache
def statement() -> str:
    """What counts everything in one trip; each of its placeholders stands for the row id of the owner."""
    parts = []
    for table, _ in counted():
        sizes = [
            f"COALESCE(LENGTH({name}), 0)" if kind in ("TEXT", "BLOB") else "8" for name, kind in _columns()[table.name]
        ]
        total = f"CAST(COALESCE(SUM({' + '.join(sizes)}), 0) AS BIGINT)"
        parts.append(f"SELECT '{table.name}', COUNT(*), {total} FROM {table.name} WHERE {table.owner} = ?")
    return " UNION ALL ".join(parts)


async def of_user(tx: Transaction, user_id: str) -> tuple[list[Held], Files]:
    """What a node holds of somebody, by table; nothing of who is not known there."""
    user_nid = await users.nid(tx, user_id)
    if user_nid is None:
        return [], Files(0, 0)
    text = statement()
    found = {row[0]: row[1:] for row in await tx.all(text, *[user_nid] * text.count("?"))}
    held = [Held(table.name, data_class, *found[table.name]) for table, data_class in counted()]
    row = await tx.one(
        "SELECT COUNT(size), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM media WHERE user_nid = ?", user_nid
    )
    return held, Files(0, 0) if row is None else Files(*row)


async def company(tx: Transaction, user_nid: int) -> Company:
    """Where the rooms are held that a resident is in. Of other servers those of the most rooms."""
    nodes = await tx.all(
        "SELECT n.node, COUNT(*) FROM memberships m JOIN room_nodes n ON n.room_nid = m.room_nid"
        " WHERE m.user_nid = ? AND m.membership = 'join' AND n.members > 0 GROUP BY n.node ORDER BY n.node",
        user_nid,
    )
    servers = await tx.all(
        "SELECT p.server, COUNT(*) FROM memberships m JOIN peer_rooms p ON p.room_nid = m.room_nid"
        " WHERE m.user_nid = ? AND m.membership = 'join' AND p.until_pos IS NULL"
        " GROUP BY p.server ORDER BY COUNT(*) DESC, p.server LIMIT ?",
        user_nid,
        MOST_SERVERS,
    )
    return Company({row[0]: row[1] for row in nodes}, {row[0]: row[1] for row in servers})
