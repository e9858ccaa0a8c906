"""What disclosures can reach, beyond the layer table: which names of other modules they take, what of the server and of
a node they touch, and, by the database's own word, which columns are read while orders come and go.

Whoever would add a way to events, media, keys or account data would have to change something here.
"""

from __future__ import annotations

import ast
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from config.disclosure import DISCLOSABLE
from homeserver.control.commands import COMMANDS
from homeserver.disclosure import lapsing
from homeserver.storage.sqlite.transaction import SqliteTransaction
from tests.deployment import Deploy
from tests.disclosure.bureau import DAY, Bureau, signed
from tests.disclosure.test_sealed import used, words
from tests.sealing.play import noticing_all
from tests.sources import parsed
from tests.support import ON_SQLITE, Databases, aio
from tests.test_architecture import ROOT

STANDARD = {
    "__future__",
    "asyncio",
    "base64",
    "collections",
    "dataclasses",
    "datetime",
    "enum",
    "hashlib",
    "orjson",
    "secrets",
    "structlog",
    "types",
    "typing",
}
"""What is not ours, and reads neither files nor what a program is made of."""
BY_NAME = {"__import__", "compile", "eval", "exec", "getattr", "globals", "locals", "open", "setattr", "vars"}
"""With these a program reaches what it does not name."""
TOUCHED = {
    "server": {"clock", "identity", "name", "nodes", "policy"},
    "nodes": {"of_users"},
    "node": {"jurisdiction", "memory", "name", "read", "write"},
    "tx": {"node"},
}
"""What is used of the server, of all nodes, of a node and of a transaction."""
READERS = [f"homeserver/storage/{name}.py" for name in ("disclosable", "disclosures", "epochs", "sessions")]
READERS_IMPORT = ("homeserver.storage.engine", "homeserver.protocol.epochs")


def module_file(module: str) -> Path | None:
    """Where a module of ours is, if there is one of that name."""
    path = ROOT / module.replace(".", "/")
    there = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.exists()]
    return there[0] if there else None


@cache
def tree_of(file: Path) -> ast.Module:
    """A module, read."""
    return parsed(file.read_text(encoding="utf-8"))


def defined_in(module: str) -> set[str]:
    """The names that a module of ours defines, and not those that it imports."""
    found = set()
    file = module_file(module)
    assert file is not None, module
    for node in tree_of(file).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {each.id for each in targets if isinstance(each, ast.Name)}
    return found


def is_ours(name: str) -> bool:
    """Whether a module is of this program."""
    return name.partition(".")[0] in ("config", "federation", "homeserver")


def reach_faults(tree: ast.AST) -> Iterator[str]:
    """Ways by which a module of disclosures reaches what it does not say that it reaches."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {each.name}" for each in node.names if each.name.split(".")[0] not in STANDARD)
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            if not is_ours(module):
                yield from [f"imports {module}"] if module.split(".")[0] not in STANDARD else []
                continue
            for each in node.names:
                whole = f"{module}.{each.name}"
                if module_file(whole) is not None:
                    modules[each.asname or each.name] = whole
                elif each.name not in defined_in(module):
                    yield f"takes {each.name} from {module}, which has it from elsewhere"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BY_NAME:
            yield f"uses {node.id}"
        elif isinstance(node, ast.Attribute):
            if node.attr.startswith("__"):
                yield f"uses {node.attr}"
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            name = name.lstrip("_")
            if isinstance(owner, ast.Name) and name in modules:
                if node.attr not in defined_in(modules[name]):
                    yield f"takes {node.attr} by {modules[name]}, which has it from elsewhere"
            elif node.attr not in TOUCHED.get(name, {node.attr}):
                yield f"touches {node.attr} of {name}"


def test_disclosures_reach_nothing_that_they_do_not_name() -> None:
    package = sorted((ROOT / "homeserver" / "disclosure").rglob("*.py"))
    assert len(package) > 5
    assert [(file.name, fault) for file in package for fault in reach_faults(tree_of(file))] == []


def test_what_reads_for_them_imports_nothing_else() -> None:
    for name in READERS:
        for node in ast.walk(tree_of(ROOT / name)):
            assert not isinstance(node, ast.Import) or {each.name for each in node.names} <= STANDARD, name
            if isinstance(node, ast.ImportFrom):
                assert node.module in READERS_IMPORT or str(node.module).split(".")[0] in STANDARD, name
            assert not isinstance(node, ast.Name) or node.id not in BY_NAME, name


@pytest.mark.parametrize(
    "source",
    [
        "import importlib",
        "import sqlite3",
        "from pathlib import Path",
        "def f(): __import__('homeserver.storage.events')",
        "def f(tx): return getattr(tx, 'a' + 'll')",
        "from homeserver.transparency.statements import users",
        "from homeserver.transparency import statements\ndef f(tx): return statements.users.resident(tx, '')",
        "from homeserver.disclosure import register as r\ndef f(tx): return r.heads",
        "from homeserver.context import Nodes",
        "def f(server): return server.settings",
        "def f(found): return found.server.places",
        "def f(server): return server.nodes.directory",
        "def f(node): return node.media",
        "def f(found): return found.node.engine",
        "def f(tx): return tx.one('…')",
        "def f(x): return x.__class__",
    ],
)
def test_a_way_around_is_seen(source: str) -> None:
    assert len(list(reach_faults(ast.parse(source)))) == 1


PERSONS: Mapping[str, set[str]] = {
    "users": {"user_id", "user_nid"},
    "residents": {"user_nid"},
    "accounts": {"created_ts", "user_nid"},
    "threepids": {"added_ts", "address", "medium", "user_nid"},
    "sessions": {"box", "epoch", "user_nid"},
}
"""Of tables with something about people, the columns that are read."""
OF_EPOCHS = {"born_ts", "destroyed_ts", "ends_ts", "number", "public_key", "salt", "seen_ts", "shares", "threshold"}
OWN = ("disclosure_", "key_log")
"""How the tables begin in which the register and what states it are."""


def columns_read(file: Path, statements: set[str]) -> dict[str, set[str]]:
    """What the database reads to carry out statements, by its own word: columns by table."""
    found: dict[str, set[str]] = defaultdict(set)

    def note(action: int, table: str | None, column: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and column:  # without one it asks whether there is a row
            found[str(table)].add(str(column))
        return sqlite3.SQLITE_OK

    with closing(sqlite3.connect(file)) as database:
        database.set_authorizer(note)
        for sql in statements:
            database.execute(f"EXPLAIN {sql}", [None] * sql.count("?"))
    return dict(found)


@ON_SQLITE
@aio
async def test_of_accounts_no_other_column_is_read(
    deploy: Deploy, engines: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    bureau = await Bureau.opened(deploy, fields=DISCLOSABLE)
    noticing_all(bureau.deployment)
    await used(bureau, "sara")
    server, said = bureau.deployment.server, set()
    carry_out, carry_out_many = SqliteTransaction._execute_there, SqliteTransaction._execute_many_there

    def noted(tx: SqliteTransaction, sql: str, params: Any) -> Any:
        said.add((tx.node, sql))
        return carry_out(tx, sql, params)

    def noted_many(tx: SqliteTransaction, sql: str, rows: Any) -> Any:
        said.add((tx.node, sql))
        return carry_out_many(tx, sql, rows)

    async def command(name: str, **arguments: Any) -> dict[str, Any]:
        """Without the log of administration, which has tables of its own."""
        return await COMMANDS[name](server, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteTransaction, "_execute_there", noted)
        patch.setattr(SqliteTransaction, "_execute_many_there", noted_many)
        patch.setattr(bureau, "command", command)
        order = await bureau.request(fields=list(DISCLOSABLE), gag_until=bureau.now + DAY)
        named = bureau.named(order)
        await command("disclose-narrow", **named, reason="less", expires=bureau.now + 2 * DAY)
        order = await command("disclose-show", **named)
        for name in ("parisa", "reza"):
            await command("disclose-approve", **named, approval=signed(order, name))
        assert (await bureau.open(order, shares=await words(bureau, order, "leila", "omid")))["accounts"]
        await command("disclose-unseal", **named)
        await command("disclose-refuse", **bureau.named(await bureau.request("hamid")), reason="no")
        await bureau.request("hamid", expires=bureau.now + DAY)
        await bureau.deployment.clock.advance(2 * DAY / 1000)
        await lapsing.lapse_all(server)
        await command("disclose-list")
        bureau.deployment.clock._start_ms -= DAY
        await command("disclose-clock", node="tehran", reason="it was wrong")
    file = engines.directory / "tehran" / "node.db"
    read = columns_read(file, {sql for node, sql in said if node == "tehran"})
    others = {table: columns for table, columns in read.items() if not table.startswith(OWN)}
    assert others.pop("epochs") <= OF_EPOCHS
    assert others == PERSONS
    assert {table for table in read if table.startswith("disclosure_")} >= {"disclosure_orders", "disclosure_register"}
    assert columns_read(file, {"SELECT u.user_id, password_hash FROM users u, accounts WHERE 1"}) == {
        "users": {"user_id"},
        "accounts": {"password_hash"},
    }
