"""A caller that goes away leaves no transaction behind, wherever it was when it went."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from homeserver.storage.engine import Engine, Transaction
from homeserver.storage.migrate import Migration
from tests.storage.test_unavailable import on_postgres
from tests.support import Databases, aio

SCHEMA = Migration(1, "pairs", "CREATE TABLE pairs (number INTEGER NOT NULL, half TEXT NOT NULL)")


async def add_pair(tx: Transaction, number: int, told: list[int]) -> None:
    """Three trips: a statement, one with queued writes, the commit."""
    await tx.run("INSERT INTO pairs (number, half) VALUES (?, ?)", number, "left")
    tx.later("INSERT INTO pairs (number, half) VALUES (?, ?)", [(number, "right")])
    await tx.one("SELECT COUNT(*) FROM pairs")
    tx.later("INSERT INTO pairs (number, half) VALUES (?, ?)", [(number, "under")])
    tx.after_commit(lambda: told.append(number))


async def pairs(tx: Transaction) -> list[int]:
    return [number for (number,) in await tx.all("SELECT number FROM pairs ORDER BY number")]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[None]) -> bool:
    """Cancel, and tell whether the task had got to its end."""
    task.cancel()
    await asyncio.wait([task])
    return not task.cancelled()


@aio
async def test_wherever_a_writer_is_cancelled_it_is_all_or_nothing(engines: Databases) -> None:
    engine = await engines.open(migrations=[SCHEMA])
    told: list[int] = []
    finished = []
    for number in range(150):
        task = asyncio.create_task(engine.write(add_pair, number, told))
        if number % 3:
            await turns(number)
        else:  # by time: where a thread or the server is in the middle of its work
            await asyncio.wait([task], timeout=number / 150 * 0.006)
        if await cancel(task):
            finished.append(number)
    stored = await engine.write(pairs)  # in line after the last of them, which may still be on its way
    assert stored == sorted(told * 3), "stored wholly, and told to those who waited, or neither"
    assert set(finished) <= set(told)
    assert 0 < len(told) < 150, "some were caught before their end"


@aio
async def test_cancelled_writers_in_line_do_not_hold_up_the_others(engines: Databases) -> None:
    engine = await engines.open(migrations=[SCHEMA])
    told: list[int] = []
    tasks = [asyncio.create_task(engine.write(add_pair, number, told)) for number in range(60)]
    for number, task in enumerate(tasks):
        if number % 2:
            await turns(number % 7)
            task.cancel()
    await asyncio.wait(tasks)
    assert {number for number in range(60) if number % 2 == 0} <= set(told)
    assert await engine.write(pairs) == sorted(told * 3)


@aio
async def test_cancelled_readers_give_their_connection_back(engines: Databases) -> None:
    engine = await engines.open(migrations=[SCHEMA])
    told: list[int] = []
    await engine.write(add_pair, 1, told)
    for number in range(60):
        task: asyncio.Task[list[int]] = asyncio.create_task(engine.read(pairs))
        await turns(number % 20)
        task.cancel()
        await asyncio.wait([task])
    assert await asyncio.gather(*(engine.read(pairs) for _ in range(20))) == [[1, 1, 1]] * 20


@aio
async def test_readers_cancelled_in_line(engines: Databases) -> None:
    engine = await engines.open(migrations=[SCHEMA])
    tasks = [asyncio.create_task(engine.read(pairs)) for _ in range(40)]
    await turns(2)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert [task.result() for task in tasks[1::2]] == [[]] * 20
    assert await engine.read(pairs) == []


@aio
async def test_readers_cancelled_while_their_connection_is_made(engines: Databases) -> None:
    engine = await engines.open(migrations=[SCHEMA])
    looked, leave = asyncio.Event(), asyncio.Event()

    async def look_and_stay(tx: Transaction, looked: asyncio.Event) -> None:
        await pairs(tx)
        looked.set()
        await leave.wait()

    first = asyncio.create_task(engine.read(look_and_stay, looked))
    await looked.wait()  # so that each of those who come now needs one more
    for number in range(30):
        task = asyncio.create_task(engine.read(look_and_stay, asyncio.Event()))
        await asyncio.wait([task], timeout=number / 30 * 0.006)
        assert not await cancel(task)
    leave.set()
    await first
    assert await asyncio.gather(*(engine.read(pairs) for _ in range(20))) == [[]] * 20


@pytest.mark.parametrize("kind", ["read", "write"])
@aio
async def test_a_driver_that_swallows_a_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As asyncio.wait_for of Python 3.11 does with one that comes together with the answer."""
    engines = on_postgres(tmp_path)
    engine = await engines.open(migrations=[SCHEMA])
    assert await engine.read(pairs) == []  # there is a connection for each kind
    real = psycopg.AsyncConnection.wait

    async def swallow(connection: Any, work: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await real(connection, work, *args, **kwargs)
        if asyncio.current_task() is task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return answer

    async def stay(tx: Transaction) -> None:
        await (pairs(tx) if kind == "read" else tx.run("INSERT INTO pairs (number, half) VALUES (1, 'left')"))
        await asyncio.Event().wait()

    monkeypatch.setattr(psycopg.AsyncConnection, "wait", swallow)
    task = asyncio.create_task(engine.read(stay) if kind == "read" else engine.write(stay))
    await asyncio.wait([task])
    assert task.cancelled()
    assert await engine.write(pairs) == []
    await engines.close()


@aio
async def test_a_snapshot_ends_with_its_reader(engines: Databases) -> None:
    """What was written after a cancelled read is seen by the next read on the same connection."""
    engine = await engines.open(migrations=[SCHEMA])
    told: list[int] = []
    for number in range(12):
        looked = asyncio.Event()

        async def look_and_stay(tx: Transaction, looked: asyncio.Event = looked) -> None:
            await pairs(tx)
            looked.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(engine.read(look_and_stay))
        await looked.wait()
        task.cancel()
        await asyncio.wait([task])
        await engine.write(add_pair, number, told)
        assert await engine.read(pairs) == sorted(told * 3)


@aio
async def test_a_limit_of_time_is_a_cancellation(engines: Databases) -> None:
    engine = await engines.open(migrations=[SCHEMA])

    async def never(tx: Transaction) -> None:
        await tx.run("INSERT INTO pairs (number, half) VALUES (?, ?)", 1, "left")
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.write(never)
    assert await engine.read(pairs) == []
    assert await add_one(engine) == [2, 2, 2]


async def add_one(engine: Engine) -> list[int]:
    await engine.write(add_pair, 2, [])
    return await engine.read(pairs)
