"""Whether a database holds together: what the program relies on, asked of the rows themselves.

The questions read whole tables, and change nothing; nobody waits for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.storage.directory import Kind
from homeserver.storage.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from homeserver.storage.engine import Param, Transaction

PAGE: Final = 1000
"""Names that are read together."""


class Question(NamedTuple):
    """What may be wrong, and the SQL that counts the rows of which it is so."""

    what: str
    sql: str


def _gone(what: str, table: str, column: str, target: str, key: str, only: str = "") -> Question:
    """Rows of a table whose column leads to a row that is not there."""
    return Question(
        what,
        f"SELECT COUNT(*) FROM {table} t LEFT JOIN {target} o ON o.{key} = t.{column}"
        f" WHERE t.{column} IS NOT NULL AND o.{key} IS NULL{only}",
    )


QUESTIONS: Final = (
    _gone("state groups whose parent is not there", "state_groups", "parent_nid", "state_groups", "group_nid"),
    Question(
        "state groups that stand at a wrong depth above their parent",
        "SELECT COUNT(*) FROM state_groups g LEFT JOIN state_groups p ON p.group_nid = g.parent_nid WHERE CASE"
        " WHEN g.depth = 0 THEN g.parent_nid IS NOT NULL"
        " ELSE p.group_nid IS NOT NULL AND p.depth <> (g.depth & (g.depth - 1)) END",
    ),
    _gone(
        "entries of state groups that are not there", "state_group_entries", "group_nid", "state_groups", "group_nid"
    ),
    _gone("entries of state groups without their event", "state_group_entries", "event_nid", "events", "event_nid"),
    _gone("events whose state group is not there", "events", "state_group", "state_groups", "group_nid"),
    _gone("rooms whose state group is not there", "rooms", "state_group", "state_groups", "group_nid"),
    _gone("entries of the current state without their event", "current_state", "event_nid", "events", "event_nid"),
    _gone("memberships without their event", "memberships", "event_nid", "events", "event_nid"),
    _gone("events of rooms that are not there", "events", "room_nid", "rooms", "room_nid"),
    _gone("events of senders without a name", "events", "sender_nid", "users", "user_nid"),
    _gone("residents without a name", "residents", "user_nid", "users", "user_nid"),
    _gone("access tokens without their device", "access_tokens", "device_nid", "devices", "device_nid"),
    _gone("messages to devices that are not there", "to_device", "device_nid", "devices", "device_nid"),
    _gone("keys of devices that are not there", "one_time_keys", "device_nid", "devices", "device_nid"),
    Question(
        "rooms in whose current state is nobody's membership as it is listed",
        "SELECT COUNT(*) FROM current_state s JOIN users u ON u.user_id = s.state_key"
        " LEFT JOIN memberships m ON m.room_nid = s.room_nid AND m.user_nid = u.user_nid"
        " WHERE s.type = 'm.room.member' AND m.user_nid IS NULL",
    ),
    *(
        Question(
            f"positions in {table} that the node has not given out yet",
            f"SELECT COUNT(*) FROM {table} WHERE pos > (SELECT position FROM stream WHERE id = 1)",
        )
        for table in ("events", "outbox", "to_device", "receipts", "account_data", "device_list_changes", "peer_edus")
    ),
)
"""Of a node's database, on either engine."""


def _owned() -> Iterator[Question]:
    for table in TABLES.values():
        if table.resident:
            assert table.owner is not None
            what = f"rows in {table.name} whose owner is no resident"
            yield _gone(what, table.name, table.owner, "residents", "user_nid")


async def unsound(tx: Transaction) -> list[tuple[str, int]]:
    """What does not hold together on a node, and of how many rows."""
    found = []
    for question in (*QUESTIONS, *_owned()):
        row = await tx.one(question.sql)
        if row is not None and row[0]:
            found.append((question.what, int(row[0])))
    return found


async def damage(tx: Transaction) -> list[str]:
    """What SQLite itself finds wrong with its file; no more than ten lines."""
    rows = await tx.all("PRAGMA integrity_check(10)")
    return [str(row[0]) for row in rows if row[0] != "ok"]


async def broken_indexes(tx: Transaction) -> list[str]:
    """The indexes that PostgreSQL does not use, since making them failed."""
    rows = await tx.all(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE NOT i.indisvalid AND c.relnamespace = CURRENT_SCHEMA()::regnamespace"
    )
    return [str(row[0]) for row in rows]


_NAMES: Final = {
    Kind.USER: "SELECT u.user_id FROM users u JOIN residents r ON r.user_nid = u.user_nid",
    Kind.ROOM: "SELECT room_id FROM rooms",
    Kind.ALIAS: "SELECT alias FROM aliases",
    Kind.MEDIA: "SELECT media_id FROM media",
    Kind.THREEPID: "SELECT medium, address FROM threepids",
    Kind.UPSTREAM: "SELECT provider, subject FROM upstream_identities",
}
_ONLY: Final = {Kind.ROOM: ("home = ? AND state_group IS NOT NULL AND ", True)}


async def names(tx: Transaction, kind: Kind, after: Sequence[str]) -> list[tuple[str, ...]]:
    """What rests on this node and is found by a route of that kind: a page of it, behind ``after`` if that is given."""
    sql = _NAMES[kind]
    columns = sql.removeprefix("SELECT ").partition(" FROM ")[0]
    only, by_node = _ONLY.get(kind, ("", False))
    marks = ", ".join(["?"] * (columns.count(",") + 1))
    params: list[Param] = [tx.node] if by_node else []
    start = after or [""] * (columns.count(",") + 1)
    rows = await tx.all(f"{sql} WHERE {only}({columns}) > ({marks}) ORDER BY {columns} LIMIT ?", *params, *start, PAGE)
    return [tuple(map(str, row)) for row in rows]


async def route_counts(tx: Transaction) -> dict[tuple[str, str], int]:
    """Of the directory: how many routes of each kind lead to each node."""
    rows = await tx.all("SELECT kind, node, COUNT(*) FROM routes GROUP BY kind, node")
    return {(row[0], row[1]): int(row[2]) for row in rows}
