"""Migrations: whole or not at all, once, and only those that this program knows."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.storage import migrate
from homeserver.storage.engine import Transaction
from homeserver.storage.migrate import Migration, NotCreated, SchemaMismatch, load, pending, split, statements
from homeserver.storage.postgres.dialect import rewrite, translate
from homeserver.storage.sqlite.file import File
from tests.support import Databases, aio

FIRST = Migration(1, "first", "CREATE TABLE one (id INTEGER PRIMARY KEY); INSERT INTO one (id) VALUES (1)")
SECOND = Migration(2, "second", "CREATE TABLE two (id INTEGER PRIMARY KEY); INSERT INTO one (id) VALUES (2)")
THIRD = Migration(3, "third", "CREATE TABLE three (id INTEGER PRIMARY KEY)")


async def ones(tx: Transaction) -> list[int]:
    return [number for (number,) in await tx.all("SELECT id FROM one ORDER BY id")]


async def ledger(tx: Transaction) -> list[tuple[int, str]]:
    return [(number, name) for number, name in await tx.all("SELECT number, name FROM migrations ORDER BY number")]


# -- on the engines -----------------------------------------------------------------------------------


@aio
async def test_pending_migrations_are_applied_once(engines: Databases) -> None:
    first = await engines.open(migrations=[FIRST])
    assert await first.read(ones) == [1]
    await first.close()
    second = engines.engine(migrations=[FIRST, SECOND, THIRD])
    await second.open()
    assert await second.read(ones) == [1, 2]
    assert await second.read(ledger) == [(0, "tehran"), (1, "first"), (2, "second"), (3, "third")]
    await second.close()
    await second.open()
    assert await second.read(ones) == [1, 2]


@aio
async def test_a_migration_that_fails_leaves_nothing(engines: Databases) -> None:
    broken = Migration(2, "broken", SECOND.sql + "; INSERT INTO nowhere VALUES (1)")
    engine = engines.engine(migrations=[FIRST, broken])
    with pytest.raises(SchemaMismatch, match="0002"):
        await engine.open(create=True)
    mended = engines.engine(migrations=[FIRST, SECOND])
    await mended.open()
    assert await mended.read(ones) == [1, 2]
    assert await mended.read(ledger) == [(0, "tehran"), (1, "first"), (2, "second")]


@aio
async def test_a_newer_database_is_refused(engines: Databases) -> None:
    await (await engines.open(migrations=[FIRST, SECOND])).close()
    older = engines.engine(migrations=[FIRST])
    with pytest.raises(SchemaMismatch, match=r"0002 \(second\).*newer"):
        await older.open()
    assert not older.health().up


@aio
async def test_a_changed_migration_is_refused(engines: Databases) -> None:
    await (await engines.open(migrations=[FIRST])).close()
    changed = engines.engine(migrations=[Migration(1, "first", FIRST.sql + " ")])
    with pytest.raises(SchemaMismatch, match="another text"):
        await changed.open()


@aio
async def test_another_nodes_database_is_refused(engines: Databases) -> None:
    await (await engines.open("tehran", [FIRST])).close()
    swapped = engines.engine("tehran", [FIRST])
    swapped.node = "paris"
    with pytest.raises(SchemaMismatch, match="belongs to tehran"):
        await swapped.open(create=True)


@aio
async def test_an_empty_database_is_made_only_on_demand(engines: Databases) -> None:
    engine = engines.engine(migrations=[FIRST])
    await engine.open()
    assert not engine.health().up
    await engine.close()
    await engine.open(create=True)
    assert await engine.read(ones) == [1]


@aio
async def test_several_processes_may_start_at_once(engines: Databases) -> None:
    started = [engines.engine(migrations=[FIRST, SECOND]) for _ in range(4)]
    await asyncio.gather(*(engine.open(create=True) for engine in started))
    assert [await engine.read(ones) for engine in started] == [[1, 2]] * 4


def test_a_file_may_be_made_by_several_at_once(tmp_path: Path) -> None:
    """SQLite lets one of them change the journal, and tells the others that the file is locked."""

    def make(path: Path, together: threading.Barrier) -> None:
        file = File(path, 2**20)
        together.wait()
        file.open(writing=True, create=True).close()

    with ThreadPoolExecutor(8) as pool:
        for number in range(100):
            together, path = threading.Barrier(8), tmp_path / f"{number}" / "node.db"
            for made in [pool.submit(make, path, together) for _ in range(8)]:
                made.result()


@pytest.mark.parametrize("name", ["node", "directory"])
@aio
async def test_the_programs_own_schema_is_accepted(engines: Databases, name: str) -> None:
    migrations = load(files("homeserver.storage") / "schema" / name)
    engine = await engines.open("tehran", migrations)
    assert len(await engine.read(ledger)) == len(migrations) + 1


@aio
async def test_a_trigger_and_statements_for_one_engine(engines: Databases) -> None:
    engine = await engines.open(
        migrations=[
            FIRST,
            Migration(
                2,
                "trigger",
                """
                CREATE TABLE log (text TEXT NOT NULL);
                -- Each row is noted; written twice, as the engines' languages differ.
                -- only: sqlite
                CREATE TRIGGER note AFTER INSERT ON one BEGIN
                    INSERT INTO log (text) VALUES (CASE WHEN new.id > 5 THEN 'big;' ELSE 'small;' END);
                    INSERT INTO log (text) VALUES ('end;');
                END;
                -- only: postgres
                CREATE FUNCTION note() RETURNS trigger AS $body$ BEGIN
                    INSERT INTO log (text) VALUES (CASE WHEN new.id > 5 THEN 'big;' ELSE 'small;' END);
                    INSERT INTO log (text) VALUES ('end;');
                    RETURN new;
                END $body$ LANGUAGE plpgsql;
                -- only: postgres
                CREATE TRIGGER note AFTER INSERT ON one FOR EACH ROW EXECUTE FUNCTION note();
                INSERT INTO one (id) VALUES (9);
                """,
            ),
        ]
    )

    async def log(tx: Transaction) -> list[str]:
        return [text for (text,) in await tx.all("SELECT text FROM log ORDER BY text")]

    assert await engine.read(log) == ["big;", "end;"]


# -- decisions ------------------------------------------------------------------------------------------


def test_what_is_pending() -> None:
    known = [FIRST, SECOND]
    mark = (0, "tehran", "")
    assert [m.number for m in pending("tehran", known, [], create=True)] == [0, 1, 2]
    assert pending("tehran", known, [mark, (1, "first", FIRST.digest)], create=False) == [SECOND]
    with pytest.raises(NotCreated):
        pending("tehran", known, [], create=False)
    with pytest.raises(SchemaMismatch, match="belongs to nobody"):
        pending("tehran", known, [(1, "first", FIRST.digest)], create=True)


def test_files_become_migrations(tmp_path: Path) -> None:
    (tmp_path / "0002_more.sql").write_text("SELECT 2")
    (tmp_path / "0001_first.sql").write_text("SELECT 1")
    (tmp_path / "README.md").write_text("not a migration")
    assert load(tmp_path) == (Migration(1, "first", "SELECT 1"), Migration(2, "more", "SELECT 2"))
    (tmp_path / "0004_gap.sql").write_text("SELECT 4")
    with pytest.raises(ValueError, match="gap"):
        load(tmp_path)
    (tmp_path / "0004_gap.sql").rename(tmp_path / "third.sql")
    with pytest.raises(ValueError, match=r"third\.sql"):
        load(tmp_path)


# -- text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        (" ;; -- nothing; here\n ;", []),
        ("A; B", ["A", "B"]),
        ("A 'x;y''z;' ; B", ["A 'x;y''z;'", "B"]),
        ('A "x;y" ; B', ['A "x;y"', "B"]),
        ("A -- x; y\n ; B /* ; */ ;", ["A -- x; y", "B /* ; */"]),
        ("A $t$ x; $$ y; $t$; B $$;$$", ["A $t$ x; $$ y; $t$", "B $$;$$"]),
        (
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END; B; END; C",
            ["CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN 2 END; B; END", "C"],
        ),
        ("CREATE TABLE begin_end (x INTEGER); C", ["CREATE TABLE begin_end (x INTEGER)", "C"]),
    ],
)
def test_a_script_is_cut_into_statements(script: str, expected: list[str]) -> None:
    assert list(split(script)) == expected


def test_an_unclosed_quote_is_an_error() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        list(split("SELECT 'x; SELECT 1"))


def test_statements_for_the_other_engine_are_left_out() -> None:
    script = "A; -- only: sqlite\nB; /* why */ -- only: postgres\nC; D -- only: what I say\n;"
    assert [s.split()[-1] for s in statements("A; -- only: sqlite\nB;\n-- only: postgres\nC;", "sqlite")] == ["A", "B"]
    assert [s.split()[-1] for s in statements("A; -- only: sqlite\nB;\n-- only: postgres\nC;", "postgres")] == [
        "A",
        "C",
    ]
    assert len(list(split(script))) == 4


@given(st.text(alphabet="abc ;'\"-\n/*$?x%", max_size=60))
def test_pieces_lose_nothing(script: str) -> None:
    try:
        pieces = list(migrate.pieces(script))
    except ValueError:
        return
    assert "".join(text for _, text in pieces) == script


@given(st.lists(st.text(alphabet="ab;'?%$ ", max_size=12), max_size=5))
def test_strings_never_end_a_statement_or_hold_a_parameter(strings: list[str]) -> None:
    quoted = ["'" + text.replace("'", "''") + "'" for text in strings]
    statement = "SELECT " + ", ".join([*quoted, "?"])
    assert list(split(f"{statement}; B")) == [statement, "B"]
    assert translate(statement).decode() == "SELECT " + ", ".join([*quoted, "$1"])


def test_what_postgres_is_told_instead() -> None:
    statement = """CREATE TABLE a ( -- INTEGER stays here
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner INTEGER PRIMARY KEY REFERENCES residents (user_nid),
        one INTEGER PRIMARY KEY CHECK (one = 1),
        text TEXT NOT NULL DEFAULT 'TEXT', "BLOB" BLOB DEFAULT x'0aff', weight REAL
    ) STRICT, WITHOUT ROWID"""
    assert (
        rewrite(statement)
        == r"""CREATE TABLE a ( -- INTEGER stays here
        id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        owner BIGINT PRIMARY KEY REFERENCES residents (user_nid),
        one BIGINT PRIMARY KEY CHECK (one = 1),
        text TEXT COLLATE "C" NOT NULL DEFAULT 'TEXT', "BLOB" BYTEA DEFAULT '\x0aff'::bytea, weight DOUBLE PRECISION
    )"""
    )
    assert rewrite("-- why\nALTER TABLE a ADD COLUMN n INTEGER") == "-- why\nALTER TABLE a ADD COLUMN n BIGINT"
    assert rewrite("UPDATE a SET text = 'INTEGER'") == "UPDATE a SET text = 'INTEGER'"
