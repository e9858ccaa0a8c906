"""No statement reads a whole table to find its rows, but those that are listed here with the reason.

The statements are taken from the source of the storage functions. What an f-string leaves open is filled in from the
module, or counts as one placeholder, a condition, or nothing: whichever makes it a statement.
"""

from __future__ import annotations

import ast
import importlib
import re
import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from homeserver.storage import directory, migrate

STORAGE = Path(directory.__file__).parent
OPEN = "\0"
"""Stands for what an f-string leaves open."""

FILLINGS = ("?", "WHERE user_nid = ? AND room_nid = ?", "")

CALLS = {"all", "one", "run", "many", "later"}

MAY_SCAN = {
    "SELECT txn_key FROM event_transactions": "once, when the server starts",
    "SELECT txn_key FROM client_transactions WHERE asked_node": "once, when the server starts",
    "SELECT destination, COUNT(*) FROM outbox GROUP BY destination": "for the metrics: as long as the backlog",
    "SELECT server FROM peers WHERE failures": "a job, once an hour",
    "SELECT server FROM peers WHERE gone_since": "seldom: what it says is remembered",
    "SELECT k.user_nid FROM (SELECT user_nid FROM key_replicas": "a job, once an hour",
    "UPDATE remote_device_lists SET stale = 2 WHERE stale = 0": "all of them, after the node missed something",
    "SELECT u.user_id, e.pos FROM erased_users e": "all of them are kept in memory",
    "SELECT 1 FROM media WHERE size IS NOT NULL LIMIT 1": "the first row will do",
    "SELECT 1 FROM residents LIMIT 1": "the first row will do",
    "SELECT COUNT(*) FROM rooms WHERE home = ? AND state_group": "when an operator wants to give up a node",
    "SELECT destination, COUNT(*) FROM outbox WHERE pos < 0": "when an operator wants to give up a node",
    "DELETE FROM policy_approvals": "all of them, when a policy comes into force",
    "SELECT node, generation, size, root, ended_ts, reason FROM ended_logs": "all of them are shown: there are few",
    "SELECT link FROM log_alarms ORDER": "all of them are checked: there are few",
    "SELECT origin, log_key, size, root, note": "all of them are shown: there are few",
    "SELECT origin, size, root, note FROM refused_checkpoints": "a handful for each log that is witnessed",
    "SELECT origin, COUNT(*) FROM refused_checkpoints": "a handful for each log that is witnessed",
    "SELECT DISTINCT server FROM peer_logs": "once, when the server starts",
    "SELECT origin, what, one, other, seen_ts FROM peer_log_contradictions": "all of them are shown: there are few",
    "SELECT name, witness_key, size, root, signature": "as many as the policy has witnesses",
    "SELECT service FROM application_services": "once, when the server starts: there are few",
    "DELETE FROM service_items WHERE pos <= (SELECT pos FROM service_items ORDER": "a job, once an hour",
    "SELECT (SELECT COUNT(*) FROM residents), (SELECT COUNT(*) FROM accounts": "when an operator leaves a jurisdiction",
    "SELECT 1 FROM chores LIMIT 1": "the first row will do",
    "SELECT 1 FROM departures UNION ALL SELECT 1 FROM arrivals LIMIT 1": "the first row will do",
    "DELETE FROM routes WHERE node = ?": "once, when a jurisdiction has been left",
    "UPDATE routes SET node = ? WHERE node = ?": "once, when a jurisdiction has been left",
    "SELECT plan, jurisdiction, nodes, state": "a handful, which an operator has announced",
    "SELECT jurisdiction, since_ts, reason FROM isolations": "a handful, which an operator has declared",
    "SELECT move_id, user_id, source, state, account FROM arrivals ORDER": "there are few",
    "SELECT u.user_id, d.user_nid, d.move_id, d.target, d.state, d.halted, d.wish, d.reason, d.begun_ts, d.changed_ts"
    " FROM departures d JOIN users u ON u.user_nid = d.user_nid ORDER": "there are few",
    "SELECT 1 FROM events e JOIN peer_rooms p ON p.room_nid": "when a room is erased; no writer waits for it",
    "SELECT 1 FROM outbox WHERE room_nid": "when a room is erased: as long as the backlog",
    "SELECT group_nid FROM state_groups WHERE room_nid": "when a room is erased; no writer waits for it",
    "SELECT server, since_pos FROM peer_rooms WHERE room_nid": "when a room is erased; no writer waits for it",
    "SELECT user_nid, user_id FROM users WHERE user_nid IN (SELECT user_nid FROM admin_log": "all of it is checked",
    "SELECT number FROM epochs WHERE destroyed_ts": "there are few",
    "SELECT number, public_key, threshold, shares": "all of them are shown: there are few",
    "SELECT token, uses_allowed, completed, expires_ts FROM registration_tokens ORDER BY": "all of them are shown",
}
"""How statements begin that read whole tables, and why they may."""

READ_ALL = {"aftermath", "archive", "audit", "disclosures", "forgotten", "soundness"}
"""Modules whose business is to read everything, while nobody waits for it; a register of disclosures is short."""


def filled_in(node: ast.expr, names: dict[str, object]) -> str | None:
    """The text of a statement."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for piece in node.values:
        if isinstance(piece, ast.Constant):
            parts.append(str(piece.value))
        elif isinstance(piece, ast.FormattedValue):
            parts.append(known(piece.value, names))
    return "".join(parts)


def known(node: ast.expr, names: dict[str, object]) -> str:
    """What stands for an expression in the text of a statement."""
    called = node.func if isinstance(node, ast.Call) else node
    name = called.id if isinstance(called, ast.Name) else ""
    if name.endswith("marks"):
        return "?"
    found = names.get(name)
    return found if isinstance(found, str) else OPEN


def statements() -> Iterator[tuple[str, str]]:
    """Every statement of a node's storage, with the name of its module."""
    for path in sorted(STORAGE.glob("*.py")):
        names = vars(importlib.import_module(f"homeserver.storage.{path.stem}"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CALLS):
                continue
            sql = filled_in(call.args[0], names) if call.args else None
            if sql is not None and " " in sql:
                yield path.stem, sql


@pytest.fixture(scope="module")
def schemas() -> Iterator[list[sqlite3.Connection]]:
    """The databases of a node and of the directory as the migrations make them."""
    made = []
    for kind in ("node", "directory"):
        connection = sqlite3.connect(":memory:")
        for migration in migrate.load(files("homeserver.storage") / "schema" / kind):
            for statement in migrate.statements(migration.sql, "sqlite"):
                connection.execute(statement)
        made.append(connection)
    yield made
    for connection in made:
        connection.close()


def plan(schemas: list[sqlite3.Connection], sql: str) -> list[str] | None:
    """How a statement finds its rows; None when what was filled in makes no statement."""
    for schema in schemas:
        for text in (sql.replace(OPEN, filling) for filling in FILLINGS):
            try:
                return [row[3] for row in schema.execute("EXPLAIN QUERY PLAN " + text, [None] * text.count("?"))]
            except sqlite3.Error:
                continue
    return None


def scanned(schemas: list[sqlite3.Connection], sql: str) -> list[str]:
    """The tables that a statement reads from end to end."""
    tables = {name for schema in schemas for (name,) in schema.execute("SELECT name FROM sqlite_schema")}
    found = []
    for step in plan(schemas, sql) or ():
        match = re.match(r"SCAN (\w+)", step)
        if match is not None:
            source = re.search(rf"\b(\w+)(?: AS)? {match[1]}\b", sql)
            found += [name for name in (match[1], source[1] if source else "") if name in tables][:1]
    return found


def test_no_statement_reads_a_whole_table(schemas: list[sqlite3.Connection]) -> None:
    found = {
        (module, sql, tuple(tables))
        for module, sql in statements()
        if module not in READ_ALL
        if (tables := scanned(schemas, sql)) and not any(sql.strip().startswith(start) for start in MAY_SCAN)
    }
    assert found == set()


MAY_LOOK_THROUGH_ROOMS = {
    "SELECT event_nid, event_id FROM events WHERE room_nid = ? LIMIT": "a part of a room that is erased",
    "SELECT m.room_nid, r.room_id, m.membership, m.event_nid, m.pos": "MAX takes the end of the index",
}
"""How statements begin that find events by their room alone, and why they may."""


def test_no_statement_looks_through_a_whole_room(schemas: list[sqlite3.Connection]) -> None:
    """A room may have a million events; what looks through them costs that for each event that comes."""
    found = {
        (module, sql)
        for module, sql in statements()
        if module not in READ_ALL
        if any(re.search(r"INDEX events_\w+ \(room_nid=\?\)", step) for step in plan(schemas, sql) or ())
        if not any(sql.strip().startswith(start) for start in MAY_LOOK_THROUGH_ROOMS)
    }
    assert found == set()


def test_nearly_every_statement_was_looked_at(schemas: list[sqlite3.Connection]) -> None:
    all_of_them = list(statements())
    unread = [sql for _, sql in all_of_them if plan(schemas, sql) is None]
    assert len(all_of_them) > 200
    assert len(unread) < len(all_of_them) / 15, unread


def test_a_whole_table_that_is_read_is_noticed(schemas: list[sqlite3.Connection]) -> None:
    assert scanned(schemas, "SELECT 1 FROM pushers WHERE definition = ?") == ["pushers"]
    assert scanned(schemas, "SELECT 1 FROM residents r JOIN pushers p USING (user_nid) WHERE p.definition = ?") != []
    assert scanned(schemas, "SELECT 1 FROM pushers WHERE user_nid = ?") == []
