"""Two processes that write to one PostgreSQL: what conflicts is run again, and only so often."""

from __future__ import annotations

import asyncio
import os
from contextvars import Context
from pathlib import Path

import pytest

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage.engine import Engine, Transaction
from homeserver.storage.migrate import Migration
from homeserver.storage.one_writer import ATTEMPTS
from tests.support import POSTGRES, Databases, aio

SCHEMA = Migration(
    1,
    "counters",
    """
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    INSERT INTO counters (name, value) VALUES ('a', 0);
    INSERT INTO counters (name, value) VALUES ('b', 0);
    """,
)


async def value(tx: Transaction, name: str) -> int:
    row = await tx.one("SELECT value FROM counters WHERE name = ?", name)
    assert row is not None
    return int(row[0])


async def store(tx: Transaction, name: str, number: int) -> None:
    await tx.run("UPDATE counters SET value = ? WHERE name = ?", number, name)


async def elsewhere(engine: Engine, name: str, number: int) -> None:
    """Write in another process's stead, while our own transaction is open."""

    async def write() -> None:
        await engine.write(store, name, number)

    await asyncio.create_task(write(), context=Context())


async def two_processes(tmp_path: Path) -> tuple[Databases, Engine, Engine]:
    if not os.environ.get(POSTGRES):
        pytest.skip(f"{POSTGRES} is not set")
    engines = Databases("postgres", tmp_path, os.environ[POSTGRES])
    return engines, await engines.open(migrations=[SCHEMA]), await engines.open(migrations=[SCHEMA])


@aio
async def test_a_lost_update_is_run_again(tmp_path: Path) -> None:
    engines, ours, theirs = await two_processes(tmp_path)
    runs, told = [], []

    async def increment(tx: Transaction) -> int:
        before = await value(tx, "a")
        runs.append(before)
        tx.after_commit(lambda: told.append(before + 1))
        if len(runs) == 1:
            await elsewhere(theirs, "a", 10)
        await store(tx, "a", before + 1)
        return before + 1

    assert await ours.write(increment) == 11
    assert (runs, told) == ([0, 10], [11])
    assert await theirs.read(value, "a") == 11
    await engines.close()


@aio
async def test_a_write_that_rests_on_what_another_changed_is_run_again(tmp_path: Path) -> None:
    """Write skew: the two touch different rows, but each has read what the other writes."""
    engines, ours, theirs = await two_processes(tmp_path)
    runs = 0

    async def copy_a_to_b(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        read = await value(tx, "a")
        if runs == 1:

            async def copy_b_to_a(tx: Transaction) -> None:
                await store(tx, "a", await value(tx, "b") + 5)

            async def write() -> None:
                await theirs.write(copy_b_to_a)

            await asyncio.create_task(write(), context=Context())
        tx.later("UPDATE counters SET value = ? WHERE name = ?", [(read + 1, "b")])

    await ours.write(copy_a_to_b)
    assert runs == 2
    assert [await ours.read(value, name) for name in "ab"] == [5, 6]
    await engines.close()


@aio
async def test_a_conflict_that_was_swallowed_is_run_again_all_the_same(tmp_path: Path) -> None:
    engines, ours, theirs = await two_processes(tmp_path)
    runs = 0

    async def careless(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        before = await value(tx, "a")
        if runs == 1:
            await elsewhere(theirs, "a", 10)
        try:
            await store(tx, "a", before + 1)
        except Exception:
            assert runs == 1

    await ours.write(careless)
    assert runs == 2
    assert await ours.read(value, "a") == 11
    await engines.close()


@aio
async def test_a_deadlock_is_resolved(tmp_path: Path) -> None:
    engines, ours, theirs = await two_processes(tmp_path)
    both_hold = asyncio.Barrier(2)

    async def cross(tx: Transaction, first: str, second: str, met: list[int]) -> None:
        await tx.run("UPDATE counters SET value = value + 1 WHERE name = ?", first)
        if not met:
            met.append(1)
            await both_hold.wait()
        await tx.run("UPDATE counters SET value = value + 1 WHERE name = ?", second)

    await asyncio.gather(ours.write(cross, "a", "b", []), theirs.write(cross, "b", "a", []))
    assert [await ours.read(value, name) for name in "ab"] == [2, 2]
    await engines.close()


@aio
async def test_endless_conflicts_end(tmp_path: Path) -> None:
    engines, ours, theirs = await two_processes(tmp_path)
    runs = 0

    async def unlucky(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await value(tx, "a")
        await elsewhere(theirs, "a", runs)
        await store(tx, "a", -1)

    with pytest.raises(NodeUnavailable):
        await ours.write(unlucky)
    assert runs == ATTEMPTS
    assert ours.health().up
    assert await ours.read(value, "a") == ATTEMPTS
    await ours.write(store, "a", 0)
    await engines.close()


@aio
async def test_a_caller_that_leaves_between_two_runs(tmp_path: Path) -> None:
    engines, ours, theirs = await two_processes(tmp_path)
    again = asyncio.Event()
    runs = 0

    async def stay(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await value(tx, "a")
        if runs > 1:
            again.set()
            await asyncio.Event().wait()
        await elsewhere(theirs, "a", 10)
        await store(tx, "a", -1)

    task = asyncio.create_task(ours.write(stay))
    await again.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ours.write(store, "b", 7)
    assert [await ours.read(value, name) for name in "ab"] == [10, 7]
    await engines.close()
