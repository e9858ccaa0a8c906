"""What both engines promise: transactions, isolation, trips, values, and errors that mean the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from homeserver.protocol.errors import InvalidParam, NodeUnavailable, ResidencyViolation
from homeserver.storage.engine import (
    ConstraintViolation,
    DatabaseFault,
    Engine,
    NestedTransaction,
    Param,
    Row,
    Transaction,
    UniqueViolation,
    asks_once,
)
from homeserver.storage.migrate import Migration
from tests.support import ON_SQLITE, Databases, aio

SCHEMA = Migration(
    1,
    "notes",
    """
    CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, octets BLOB, weight REAL, CHECK (id < 1000));
    CREATE TABLE stream (id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL);
    INSERT INTO stream (id, position) VALUES (1, 0);
    CREATE TABLE residents (user_nid INTEGER PRIMARY KEY);
    CREATE TABLE rooms (room_nid INTEGER PRIMARY KEY);
    CREATE TABLE devices (user_nid INTEGER NOT NULL REFERENCES residents (user_nid), name TEXT);
    CREATE TABLE tags (
        user_nid INTEGER NOT NULL REFERENCES residents (user_nid),
        room_nid INTEGER NOT NULL REFERENCES rooms (room_nid),
        PRIMARY KEY (user_nid, room_nid)
    );
    CREATE TABLE backups (
        user_nid INTEGER NOT NULL REFERENCES residents (user_nid) DEFERRABLE INITIALLY DEFERRED
    );
    """,
)


async def opened(engines: Databases, node: str = "tehran") -> Engine:
    return await engines.open(node, [SCHEMA])


async def add(tx: Transaction, text: str) -> int:
    row = await tx.one("INSERT INTO notes (text) VALUES (?) RETURNING id", text)
    assert row is not None
    return int(row[0])


async def texts(tx: Transaction) -> list[str]:
    return [text for (text,) in await tx.all("SELECT text FROM notes ORDER BY text")]


async def take_position(tx: Transaction) -> int:
    row = await tx.one("UPDATE stream SET position = position + 1 RETURNING position")
    assert row is not None
    return int(row[0])


async def position(tx: Transaction) -> int:
    row = await tx.one("SELECT position FROM stream")
    assert row is not None
    return int(row[0])


# -- transactions -----------------------------------------------------------------------------


@aio
async def test_what_was_committed_is_read(engines: Databases) -> None:
    engine = await opened(engines)
    assert await engine.write(add, "a") == 1
    assert await engine.write(add, "b") == 2
    assert await engine.read(texts) == ["a", "b"]


@aio
async def test_it_is_still_there_after_closing(engines: Databases) -> None:
    engine = await opened(engines)
    await engine.write(add, "a")
    await engine.close()
    again = await opened(engines)
    assert await again.read(texts) == ["a"]


@aio
async def test_a_failure_undoes_everything(engines: Databases) -> None:
    engine = await opened(engines)

    async def fail(tx: Transaction) -> None:
        await add(tx, "a")
        tx.later("INSERT INTO notes (text) VALUES (?)", [("b",)])
        assert await texts(tx) == ["a", "b"]
        raise KeyError("stop")

    with pytest.raises(KeyError):
        await engine.write(fail)
    assert await engine.read(texts) == []
    assert await engine.write(add, "c") > 0


@aio
async def test_a_transaction_sees_what_it_wrote(engines: Databases) -> None:
    engine = await opened(engines)

    async def both(tx: Transaction) -> list[str]:
        assert tx.node == "tehran"
        await add(tx, "a")
        await tx.many("INSERT INTO notes (text) VALUES (?)", [("b",), ("c",)])
        await tx.many("INSERT INTO notes (text) VALUES (?)", [])
        tx.later("INSERT INTO notes (text) VALUES (?)", [("d",)])
        tx.later("UPDATE notes SET text = text || ? WHERE text = ?", [("!", "d"), ("?", "a")])
        return await texts(tx)

    assert await engine.write(both) == ["a?", "b", "c", "d!"]
    assert await engine.read(texts) == ["a?", "b", "c", "d!"]


@aio
async def test_run_tells_how_many_rows(engines: Databases) -> None:
    engine = await opened(engines)

    async def count(tx: Transaction) -> list[int]:
        await tx.many("INSERT INTO notes (text) VALUES (?)", [("a",), ("b",), ("c",)])
        return [
            await tx.run("UPDATE notes SET octets = ? WHERE text > ?", b"x", "a"),
            await tx.run("INSERT INTO notes (text) VALUES (?) ON CONFLICT (text) DO NOTHING", "a"),
            await tx.run("DELETE FROM notes WHERE text = ? RETURNING id", "b"),
            await tx.run("DELETE FROM notes WHERE text = ?", "z"),
        ]

    assert await engine.write(count) == [2, 0, 1, 0]


@aio
async def test_a_transaction_is_of_no_use_after_its_end(engines: Databases) -> None:
    engine = await opened(engines)
    kept: list[Transaction] = []

    async def keep(tx: Transaction) -> None:
        await texts(tx)
        kept.append(tx)

    await engine.read(keep)
    await engine.write(keep)
    with pytest.raises(KeyError):
        await engine.write(fail_after(keep))
    for tx in kept:
        with pytest.raises(RuntimeError, match="ended"):
            await texts(tx)
        with pytest.raises(RuntimeError, match="ended"):
            tx.later("DELETE FROM notes", [()])
    assert len(kept) == 3


def fail_after(fn: Callable[[Transaction], Awaitable[object]]) -> Callable[[Transaction], Awaitable[None]]:
    async def failing(tx: Transaction) -> None:
        await fn(tx)
        raise KeyError("stop")

    return failing


# -- what follows the commit --------------------------------------------------------------------


@aio
async def test_callbacks_follow_the_commit_in_its_order(engines: Databases) -> None:
    engine = await opened(engines)
    seen: list[int] = []

    async def take(tx: Transaction) -> int:
        taken = await take_position(tx)
        tx.after_commit(lambda: seen.append(taken))
        assert taken - 1 == len(seen), "the one before me has been announced"
        return taken

    answers = await asyncio.gather(*(engine.write(take) for _ in range(20)))
    assert sorted(answers) == seen == list(range(1, 21))


@aio
async def test_no_callback_after_a_roll_back(engines: Databases) -> None:
    engine = await opened(engines)
    seen: list[str] = []

    async def announce(tx: Transaction) -> None:
        await add(tx, "a")
        tx.after_commit(lambda: seen.append("no"))

    with pytest.raises(KeyError):
        await engine.write(fail_after(announce))
    await engine.read(texts)
    assert seen == []


@aio
async def test_a_failing_callback_harms_nobody(engines: Databases) -> None:
    engine = await opened(engines)
    seen: list[str] = []

    async def announce(tx: Transaction) -> int:
        tx.after_commit(lambda: seen.append(str(1 // 0)))
        tx.after_commit(lambda: seen.append("yes"))
        return await add(tx, "a")

    assert await engine.write(announce) == 1
    assert seen == ["yes"]
    assert await engine.read(texts) == ["a"]


@aio
async def test_a_transaction_that_asks_nothing_still_calls_back(engines: Databases) -> None:
    engine = await opened(engines)
    seen: list[str] = []

    async def nothing(tx: Transaction) -> None:
        tx.after_commit(lambda: seen.append("yes"))

    before = engine.trips
    await engine.write(nothing)
    await engine.read(nothing)
    assert seen == ["yes", "yes"]
    assert engine.trips == before


# -- trips --------------------------------------------------------------------------------------


@aio
async def test_how_many_trips_it_takes(engines: Databases) -> None:
    engine = await opened(engines)

    async def queued(tx: Transaction) -> None:
        tx.later("INSERT INTO notes (text) VALUES (?)", [("a",), ("b",)])
        tx.later("UPDATE stream SET position = ?", [(7,)])

    async def queued_then_asked(tx: Transaction) -> None:
        await queued(tx)
        assert await position(tx) == 7
        tx.later("UPDATE stream SET position = ?", [(8,)])

    async def trips(work: Awaitable[object]) -> int:
        before = engine.trips
        await work
        return engine.trips - before

    assert await trips(engine.read(texts)) == 1
    assert await trips(engine.write(queued)) == 1
    await engine.write(clear)
    assert await trips(engine.write(queued_then_asked)) == 2
    assert await trips(engine.write(add, "c")) == 2
    assert await engine.read(texts) == ["a", "b", "c"]
    assert await engine.read(position) == 8


async def clear(tx: Transaction) -> None:
    await tx.run("DELETE FROM notes")


@aio
async def test_a_function_that_asks_once(engines: Databases) -> None:
    engine = await opened(engines)

    @asks_once
    async def glance(tx: Transaction) -> list[str]:
        return await texts(tx)

    @asks_once
    async def glance_twice(tx: Transaction) -> list[str]:
        return await texts(tx) + await texts(tx)

    @asks_once
    async def disturb(tx: Transaction) -> int:
        return await add(tx, "z")

    await engine.write(add, "a")
    before = engine.trips
    assert await engine.read(glance) == ["a"]
    assert engine.trips == before + 1
    with pytest.raises(RuntimeError, match="twice"):
        await engine.read(glance_twice)
    with pytest.raises(DatabaseFault):
        await engine.read(disturb)
    await engine.write(add, "b")
    assert await engine.read(glance) == ["a", "b"]
    assert await engine.write(glance_twice) == ["a", "b", "a", "b"], "the mark is about reads"


@ON_SQLITE
@aio
async def test_what_broke_off_holds_no_snapshot(engines: Databases) -> None:
    engine = await opened(engines)

    @asks_once
    async def broken(tx: Transaction) -> list[Row]:
        return await tx.all("SELECT text FROM notes UNION ALL SELECT CAST(x'ff' AS TEXT)")

    @asks_once
    async def glance(tx: Transaction) -> list[str]:
        return await texts(tx)

    await engine.write(add, "a")
    failures = []
    for text in ("b", "c"):
        with pytest.raises(DatabaseFault) as failure:
            await engine.read(broken)
        failures.append(failure)  # with all that the error refers to
        await engine.write(add, text)
    assert await engine.read(glance) == ["a", "b", "c"]


# -- values ---------------------------------------------------------------------------------------


@aio
async def test_values_come_back_as_they_went_in(engines: Databases) -> None:
    engine = await opened(engines)
    long = "x" * 100_000
    rows: list[tuple[int, str, bytes | None, float | None]] = [
        (1, "", b"", 0.5),
        (2, "سلام 👋 ? % %s $1 'quoted'", bytes(range(256)), -1e300),
        (3, long, None, None),
        (-(2**63), "low", b"\x00", 1.0),
    ]

    async def store(tx: Transaction) -> None:
        tx.later("INSERT INTO notes (id, text, octets, weight) VALUES (?, ?, ?, ?)", rows)

    async def fetch(tx: Transaction) -> list[tuple[object, ...]]:
        return await tx.all("SELECT id, text, octets, weight FROM notes ORDER BY id")

    await engine.write(store)
    found = await engine.read(fetch)
    assert found == sorted(rows)
    assert {type(value) for row in found for value in row} == {int, str, bytes, float, type(None)}


@aio
async def test_what_is_computed_has_the_same_type_everywhere(engines: Databases) -> None:
    engine = await opened(engines)

    async def compute(tx: Transaction) -> list[object]:
        await tx.many("INSERT INTO notes (id, text, weight) VALUES (?, ?, ?)", [(1, "a", 1.5), (2, "b", 2.5)])
        row = await tx.one(
            "SELECT SUM(id), COUNT(*), MAX(text), SUM(weight), MIN(id) = ?, AVG(id) FROM notes WHERE id < ?", 1, 10
        )
        assert row is not None
        return list(row)

    found = await engine.write(compute)
    assert found == [3, 2, "b", 4.0, 1, 1.5]
    assert [type(value) for value in found] == [int, int, str, float, int, float]


@aio
async def test_truth_is_stored_as_a_number(engines: Databases) -> None:
    engine = await opened(engines)

    async def store(tx: Transaction) -> object:
        await tx.run("UPDATE stream SET position = ?", True)
        return await tx.one("SELECT position FROM stream WHERE position = ?", 1)

    assert await engine.write(store) == (1,)


@aio
async def test_text_sorts_by_its_bytes(engines: Databases) -> None:
    engine = await opened(engines)

    async def store(tx: Transaction) -> None:
        tx.later("INSERT INTO notes (text) VALUES (?)", [(text,) for text in ("b", "A", "a", "_", "é", "B", "10", "9")])

    await engine.write(store)
    assert await engine.read(texts) == ["10", "9", "A", "B", "_", "a", "b", "é"]


@aio
async def test_question_marks_and_percent_signs_in_the_statement(engines: Databases) -> None:
    engine = await opened(engines)

    async def ask(tx: Transaction) -> object:
        await add(tx, "50% of ?")
        return await tx.one(
            """SELECT '?', text AS "a?b", x'00ff' FROM notes -- why?
            WHERE text LIKE '%\\%%' ESCAPE '\\' AND text = ? /* and ? */ AND id = ?""",
            "50% of ?",
            1,
        )

    assert await engine.write(ask) == ("?", "50% of ?", b"\x00\xff")


BAD = [
    pytest.param("a\0b", id="NUL"),
    pytest.param("a\ud800", id="surrogate"),
    pytest.param(2**63, id="too big"),
    pytest.param(-(2**63) - 1, id="too small"),
]


@pytest.mark.parametrize("value", BAD)
@aio
async def test_values_that_no_database_stores(engines: Databases, value: Param) -> None:
    engine = await opened(engines)
    column = "text" if isinstance(value, str) else "id"

    async def one(tx: Transaction) -> None:
        await tx.one(f"SELECT 1 FROM notes WHERE {column} = ?", value)

    async def many(tx: Transaction) -> None:
        await tx.many(f"UPDATE notes SET text = 'x' WHERE {column} = ?", [(1 if column == "id" else "a",), (value,)])

    async def later(tx: Transaction) -> None:
        tx.later(f"UPDATE notes SET text = 'x' WHERE {column} = ?", [(value,)])

    for fn in (one, many, later):
        with pytest.raises(InvalidParam):
            await engine.write(fn)
    with pytest.raises(InvalidParam):
        await engine.read(one)
    assert await engine.write(add, "fine") == 1
    assert engine.health().up


# -- refusals ---------------------------------------------------------------------------------------


@aio
async def test_constraints_by_name(engines: Databases) -> None:
    engine = await opened(engines)
    await engine.write(add, "a")

    def run(sql: str, *params: Param) -> Awaitable[int]:
        async def fn(tx: Transaction) -> int:
            return await tx.run(sql, *params)

        return engine.write(fn)

    with pytest.raises(UniqueViolation):
        await run("INSERT INTO notes (text) VALUES (?)", "a")
    with pytest.raises(UniqueViolation):
        await run("INSERT INTO notes (id, text) VALUES (?, ?)", 1, "b")
    for sql in (
        "INSERT INTO notes (text) VALUES (NULL)",
        "INSERT INTO notes (id, text) VALUES (1000, 'x')",
        "UPDATE notes SET text = NULL",
    ):
        with pytest.raises(ConstraintViolation) as caught:
            await run(sql)
        assert not isinstance(caught.value, UniqueViolation)
    with pytest.raises(DatabaseFault):
        await run("INSERT INTO nowhere (text) VALUES (?)", "a")
    with pytest.raises(DatabaseFault):
        await run("THIS IS NO SQL")
    assert await engine.read(texts) == ["a"]


@aio
async def test_no_error_quotes_a_value(engines: Databases) -> None:
    engine = await opened(engines)
    await engine.write(add, "secret-value")

    async def null(tx: Transaction) -> None:
        await tx.run("INSERT INTO notes (id, text, octets) VALUES (?, NULL, ?)", 4711, b"secret-value")

    for work in (engine.write(add, "secret-value"), engine.write(null)):
        with pytest.raises(ConstraintViolation) as caught:
            await work
        fault: BaseException | None = caught.value
        while fault is not None:  # as a traceback would show it
            assert "secret-value" not in str(fault)
            assert "4711" not in str(fault)
            fault = None if fault.__suppress_context__ and fault.__cause__ is None else fault.__cause__


@aio
async def test_an_owner_who_does_not_reside_here_is_refused(engines: Databases) -> None:
    engine = await opened(engines)

    async def settle(tx: Transaction) -> None:
        tx.later("INSERT INTO residents (user_nid) VALUES (?)", [(1,)])
        tx.later("INSERT INTO rooms (room_nid) VALUES (?)", [(1,), (2,)])
        tx.later("INSERT INTO tags (user_nid, room_nid) VALUES (?, ?)", [(1, 1)])

    await engine.write(settle)

    def later(sql: str, *rows: tuple[int, ...]) -> Awaitable[None]:
        async def fn(tx: Transaction) -> None:
            tx.later(sql, rows)

        return engine.write(fn)

    def many(sql: str, *rows: tuple[int, ...]) -> Awaitable[None]:
        async def fn(tx: Transaction) -> None:
            await tx.many(sql, rows)

        return engine.write(fn)

    foreign: list[Awaitable[None]] = [
        later("INSERT INTO devices (user_nid) VALUES (?)", (1,), (2,)),
        many("INSERT INTO devices (user_nid) VALUES (?)", (1,), (2,)),
        many("INSERT INTO devices (user_nid) VALUES (?) ON CONFLICT DO NOTHING", (2,)),
        later("INSERT INTO tags (user_nid, room_nid) VALUES (?, ?)", (2, 1)),
        many("INSERT INTO tags (user_nid, room_nid) VALUES (?, ?) RETURNING user_nid", (2, 1)),
        many("INSERT INTO tags (user_nid, room_nid) VALUES (?, ?)", (1, 2), (2, 1)),
        many("UPDATE tags SET user_nid = ?", (2,)),
        later("INSERT INTO backups (user_nid) VALUES (?)", (2,)),
    ]
    for work in foreign:
        with pytest.raises(ResidencyViolation):
            await work
    assert engine.violations == len(foreign)
    with pytest.raises(ConstraintViolation):
        await later("INSERT INTO tags (user_nid, room_nid) VALUES (?, ?)", (1, 2), (1, 3))
    with pytest.raises(ConstraintViolation):
        await many("DELETE FROM residents WHERE user_nid = ?", (1,))

    assert engine.violations == len(foreign)

    async def count(tx: Transaction) -> list[object]:
        tables = ("devices", "tags", "backups")
        return [(await tx.all(f"SELECT user_nid FROM {table}")) for table in tables]

    assert await engine.read(count) == [[], [(1,)], []]


@aio
async def test_after_a_failed_statement_there_is_only_the_roll_back(engines: Databases) -> None:
    engine = await opened(engines)
    await engine.write(add, "a")

    async def swallow(tx: Transaction) -> None:
        await add(tx, "b")
        with pytest.raises(UniqueViolation):
            await add(tx, "a")
        with pytest.raises(DatabaseFault, match="rolled back"):
            await texts(tx)

    with pytest.raises(DatabaseFault, match="rolled back"):
        await engine.write(swallow)
    assert await engine.read(texts) == ["a"]


@aio
async def test_statements_that_were_sent_together_fail_together(engines: Databases) -> None:
    engine = await opened(engines)
    await engine.write(add, "a")

    async def together(tx: Transaction) -> list[object]:
        return list(await asyncio.gather(*(add(tx, text) for text in "bacd"), return_exceptions=True))

    with pytest.raises(DatabaseFault, match="rolled back"):
        await engine.write(together)
    assert await engine.read(texts) == ["a"]


@aio
async def test_a_queued_write_fails_at_the_commit_with_all_the_rest(engines: Databases) -> None:
    engine = await opened(engines)

    async def twice(tx: Transaction) -> None:
        await add(tx, "a")
        tx.later("INSERT INTO notes (text) VALUES (?)", [("b",), ("a",)])

    with pytest.raises(UniqueViolation):
        await engine.write(twice)
    assert await engine.read(texts) == []


@aio
async def test_a_read_does_not_write(engines: Databases) -> None:
    engine = await opened(engines)
    with pytest.raises(DatabaseFault):
        await engine.read(add, "a")

    async def many(tx: Transaction) -> None:
        await tx.many("INSERT INTO notes (text) VALUES (?)", [("a",)])

    async def later(tx: Transaction) -> None:
        tx.later("INSERT INTO notes (text) VALUES (?)", [("a",)])

    for fn in (many, later):
        with pytest.raises(DatabaseFault):
            await engine.read(fn)
    assert await engine.read(texts) == []


# -- isolation --------------------------------------------------------------------------------------


@aio
async def test_a_read_sees_one_moment(engines: Databases) -> None:
    engine = await opened(engines)
    began, changed = asyncio.Event(), asyncio.Event()

    async def look_twice(tx: Transaction) -> tuple[list[str], int]:
        before = await texts(tx)
        began.set()
        await changed.wait()
        assert await texts(tx) == before
        return before, await position(tx)

    looking = asyncio.create_task(engine.read(look_twice))
    await began.wait()
    await engine.write(add, "a")
    await engine.write(take_position)
    assert await engine.read(texts) == ["a"]
    changed.set()
    assert await looking == ([], 0)


@aio
async def test_a_read_does_not_see_what_is_not_committed(engines: Databases) -> None:
    engine = await opened(engines)
    written, go_on = asyncio.Event(), asyncio.Event()

    async def hesitate(tx: Transaction) -> None:
        await add(tx, "a")
        written.set()
        await go_on.wait()

    writing = asyncio.create_task(engine.write(hesitate))
    await written.wait()
    assert await engine.read(texts) == []
    go_on.set()
    await writing
    assert await engine.read(texts) == ["a"]


@aio
async def test_positions_are_exact_under_concurrency(engines: Databases) -> None:
    engine = await opened(engines)
    taken = await asyncio.gather(*(engine.write(take_position) for _ in range(50)))
    assert sorted(taken) == list(range(1, 51))


@aio
async def test_two_processes_take_each_position_once(engines: Databases) -> None:
    """Each engine stands for a process: they share nothing but the database."""
    first, second = await opened(engines), await opened(engines)
    taken = await asyncio.gather(*(engine.write(take_position) for _ in range(15) for engine in (first, second)))
    assert sorted(taken) == list(range(1, 31))


@aio
async def test_a_claim_is_made_once_and_none_in_vain(engines: Databases) -> None:
    first, second = await opened(engines), await opened(engines)

    async def fill(tx: Transaction) -> None:
        tx.later("INSERT INTO notes (text) VALUES (?)", [(f"key {number:02}",) for number in range(20)])

    async def claim(tx: Transaction) -> str | None:
        row = await tx.one("SELECT text FROM notes ORDER BY id LIMIT 1")
        if row is None:
            return None
        return str(row[0]) if await tx.run("DELETE FROM notes WHERE text = ?", row[0]) else "taken by another"

    await first.write(fill)
    claimed = await asyncio.gather(*(engine.write(claim) for _ in range(11) for engine in (first, second)))
    assert sorted(filter(None, claimed)) == [f"key {number:02}" for number in range(20)]
    assert claimed.count(None) == 2


@aio
async def test_more_reads_at_once_than_connections(engines: Databases) -> None:
    engine = await opened(engines)
    await engine.write(add, "a")
    answers = await asyncio.gather(*(engine.read(texts) for _ in range(60)))
    assert answers == [["a"]] * 60


@aio
async def test_writers_are_served_in_the_order_they_came(engines: Databases) -> None:
    engine = await opened(engines)
    order: list[int] = []

    async def note(tx: Transaction, number: int) -> None:
        order.append(number)
        await take_position(tx)

    await asyncio.gather(*(engine.write(note, number) for number in range(10)))
    assert order == list(range(10))


# -- one transaction, one node ------------------------------------------------------------------------


@aio
async def test_no_transaction_inside_another(engines: Databases) -> None:
    tehran, paris = await opened(engines), await opened(engines, "paris")

    async def nest(tx: Transaction, engine: Engine, kind: str) -> None:
        await texts(tx)
        await (engine.read if kind == "read" else engine.write)(texts)

    for outer in (tehran.read, tehran.write):
        for engine, kind in ((paris, "read"), (paris, "write"), (tehran, "read")):
            with pytest.raises(NestedTransaction):
                await outer(nest, engine, kind)
    assert await paris.read(texts) == []
    assert await tehran.write(add, "a") == 1


@aio
async def test_what_a_transaction_started_may_open_one_afterwards(engines: Databases) -> None:
    engine = await opened(engines)
    ended = asyncio.Event()

    async def afterwards() -> list[str]:
        await ended.wait()
        return await engine.read(texts)

    async def start(tx: Transaction) -> asyncio.Task[list[str]]:
        await add(tx, "a")
        return asyncio.create_task(afterwards())

    task = await engine.write(start)
    ended.set()
    assert await task == ["a"]


@aio
async def test_two_nodes_do_not_see_each_other(engines: Databases) -> None:
    tehran, paris = await opened(engines), await opened(engines, "paris")
    await tehran.write(add, "a")
    assert await paris.read(texts) == []


# -- the end ------------------------------------------------------------------------------------------


@aio
async def test_closing_waits_for_what_runs(engines: Databases) -> None:
    engine = await opened(engines)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def hesitate(tx: Transaction, text: str) -> list[str]:
        if text:
            await add(tx, text)
        started.set()
        await go_on.wait()
        return await texts(tx)

    for work in (engine.write(hesitate, "a"), engine.read(hesitate, "")):
        task = asyncio.create_task(work)
        await started.wait()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        assert await task == ["a"]
        await closing
        with pytest.raises(NodeUnavailable):
            await engine.read(texts)
        with pytest.raises(NodeUnavailable):
            await engine.write(add, "b")
        started.clear()
        go_on.clear()
        await engine.open()
    assert await engine.read(texts) == ["a"]
