"""A node whose database is gone: refused at once, never made anew, back by itself."""

from __future__ import annotations

import asyncio
import os
from contextvars import Context
from pathlib import Path

import psycopg
import pytest

from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.clock import FakeClock
from homeserver.storage.circuit import LAST_RETRY
from homeserver.storage.engine import Engine, Health, Transaction
from homeserver.storage.migrate import Migration
from homeserver.storage.postgres import connection as sessions
from tests.support import POSTGRES, Databases, aio

SCHEMA = Migration(1, "notes", "CREATE TABLE notes (text TEXT NOT NULL)")
SOON = 5.0
"""Seconds; far below what a request may take."""


async def add(tx: Transaction, text: str) -> None:
    await tx.run("INSERT INTO notes (text) VALUES (?)", text)


async def texts(tx: Transaction) -> list[str]:
    return [text for (text,) in await tx.all("SELECT text FROM notes ORDER BY text")]


def on_postgres(tmp_path: Path) -> Databases:
    url = os.environ.get(POSTGRES, "")
    if not url:
        pytest.skip(f"{POSTGRES} is not set")
    return Databases("postgres", tmp_path, url)


async def refused(engine: Engine) -> None:
    async with asyncio.timeout(SOON):
        with pytest.raises(NodeUnavailable):
            await engine.read(texts)
        with pytest.raises(NodeUnavailable):
            await engine.write(add, "lost")


async def back(engine: Engine) -> None:
    """Until the engine says that it is up."""
    up = asyncio.Event()
    engine.watch(lambda health: up.set() if health.up else None)
    if not engine.health().up:
        await up.wait()


@aio
async def test_gone_and_back(engines: Databases) -> None:
    await engines.make_breakable()
    engine = await engines.open(migrations=[SCHEMA])
    changes: list[Health] = []
    engine.watch(changes.append)
    await engine.write(add, "a")
    for letter in "bc":
        await engines.take_away()
        await refused(engine)
        assert not engine.health().up
        assert engine.health().reason
        assert (await engine.probe()).up is False
        await engines.bring_back()
        await back(engine)
        await engine.write(add, letter)
    assert await engine.read(texts) == ["a", "b", "c"]
    assert [health.up for health in changes] == [False, True, False, True]


@aio
async def test_it_looks_for_the_database_while_nobody_asks(engines: Databases) -> None:
    await engines.make_breakable()
    clock = FakeClock()
    engine = engines.engine(migrations=[SCHEMA], clock=clock)
    await engine.open(create=True)
    await engines.take_away()
    await refused(engine)
    since = engine.health().since_ms
    await clock.advance(60)
    assert engine.health() == Health(False, engine.health().reason, since)
    await engines.bring_back()
    await clock.advance(LAST_RETRY)
    await back(engine)
    assert await engine.read(texts) == []


@aio
async def test_a_probe_brings_it_back_at_once(engines: Databases) -> None:
    await engines.make_breakable()
    engine = engines.engine(migrations=[SCHEMA], clock=FakeClock())
    await engine.open(create=True)
    await engines.take_away()
    assert not (await engine.probe()).up
    await engines.bring_back()
    assert (await engine.probe()).up
    await engine.write(add, "a")
    assert await engine.read(texts) == ["a"]


@aio
async def test_down_from_the_start(engines: Databases) -> None:
    await engines.make_breakable()
    first = await engines.open(migrations=[SCHEMA])
    await first.write(add, "a")
    await first.close()
    await engines.take_away()
    engine = engines.engine(migrations=[SCHEMA])
    async with asyncio.timeout(SOON):
        await engine.open()
    await refused(engine)
    await engines.bring_back()
    await back(engine)
    assert await engine.read(texts) == ["a"]


@aio
async def test_a_new_node_that_is_out_of_reach_is_made_when_it_is_reached(tmp_path: Path) -> None:
    engines = on_postgres(tmp_path)
    await engines.make_breakable()
    engine = engines.engine(migrations=[SCHEMA])
    await engines.take_away()
    await engine.open(create=True)
    await refused(engine)
    await engines.bring_back()
    await back(engine)
    assert await engine.read(texts) == []
    await engines.close()


@aio
async def test_a_connection_lost_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    engines = on_postgres(tmp_path)
    await engines.make_breakable()
    engine = await engines.open(migrations=[SCHEMA])
    told: list[str] = []

    async def lose(tx: Transaction) -> None:
        await add(tx, "a")
        tx.after_commit(lambda: told.append("a"))
        await engines.take_away()
        await texts(tx)

    writing = asyncio.create_task(engine.write(lose))
    waiting = asyncio.create_task(engine.write(add, "b"))
    for task in (writing, waiting):
        with pytest.raises(NodeUnavailable):
            await task
    await engines.bring_back()
    await back(engine)
    assert await engine.read(texts) == told == []
    await engines.close()


@aio
async def test_what_is_written_while_the_file_moves_is_not_lost(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])

    async def move(tx: Transaction) -> None:
        await add(tx, "a")
        await engines.take_away()

    await engine.write(move)
    await refused(engine)
    await engines.bring_back()
    await back(engine)
    assert await engine.read(texts) == ["a"]
    await engines.close()


@aio
async def test_a_lost_file_is_not_made_anew(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])
    await engine.write(add, "a")
    await engines.take_away()
    await refused(engine)
    (tmp_path / "tehran").mkdir()
    assert not (await engine.probe()).up
    (tmp_path / "tehran" / "node.db").touch()
    assert "empty" in (await engine.probe()).reason
    await refused(engine)
    await engines.close()
    fresh = engines.engine(migrations=[SCHEMA])
    await fresh.open()
    await refused(fresh)
    await engines.close()


@aio
async def test_a_file_that_took_the_place_of_ours_is_noticed(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])
    other = await engines.open("paris", [SCHEMA])
    await other.write(add, "of paris")
    await other.close()
    assert await engine.read(texts) == []
    (tmp_path / "paris" / "node.db").rename(tmp_path / "tehran" / "node.db")
    await refused(engine)
    assert "write-ahead log" in (await engine.probe()).reason, "paris's file must not get what tehran's log holds"
    for name in ("node.db-wal", "node.db-shm"):
        (tmp_path / "tehran" / name).unlink()
    assert "belongs to paris" in (await engine.probe()).reason
    await refused(engine)
    await engines.close()


@aio
async def test_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    """Root may read everything, so the file is put where there is no directory but a file."""
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])
    await engines.take_away()
    (tmp_path / "tehran").write_text("not a directory")
    await refused(engine)
    (tmp_path / "tehran").unlink()
    await engines.bring_back()
    assert (await engine.probe()).up
    await engines.close()


@aio
async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    (tmp_path / "tehran").mkdir()
    (tmp_path / "tehran" / "node.db").write_bytes(b"these are not the pages of a database" * 100)
    engine = engines.engine(migrations=[SCHEMA])
    await engine.open(create=True)
    await refused(engine)
    assert "not a database" in engine.health().reason
    await engines.close()


@aio
async def test_another_process_that_holds_the_file_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.storage.sqlite.file.PRAGMAS", ("journal_mode = WAL", "busy_timeout = 50"))
    engines = Databases("sqlite", tmp_path)
    first, second = await engines.open(migrations=[SCHEMA]), await engines.open(migrations=[SCHEMA])

    async def hold(tx: Transaction) -> None:
        await add(tx, "a")
        with pytest.raises(NodeUnavailable):
            await asyncio.create_task(by_another(second), context=Context())

    await first.write(hold)
    assert second.health().up, "busy is not gone"
    await second.write(add, "b")
    assert await first.read(texts) == ["a", "b"]
    await engines.close()


async def by_another(engine: Engine) -> None:
    await engine.write(add, "b")


@aio
async def test_the_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])
    await engine.write(add, "a")
    files = list((tmp_path / "tehran").iterdir())
    assert len(files) == 3
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    await engines.close()


# -- a server that is there and does not answer -----------------------------------------------------------


@aio
async def test_connections_that_the_server_ends(tmp_path: Path) -> None:
    engines = on_postgres(tmp_path)
    name = f"cut{os.getpid()}"  # found by it; the server has connections of other tests too
    engine = await engines.open(name, [SCHEMA])
    await engine.write(add, "a")
    assert await engine.read(texts) == ["a"]  # there is a connection for each kind
    admin = await psycopg.AsyncConnection.connect(os.environ[POSTGRES], autocommit=True)
    async with admin:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        await admin.execute(ended, (f"domicile {name}",))
    await refused(engine)
    await back(engine)
    assert await engine.read(texts) == ["a"]
    await engines.close()


@aio
async def test_a_server_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TRIP_SECONDS", 0.3)
    monkeypatch.setattr(sessions, "CONNECT_SECONDS", 1)
    engines = on_postgres(tmp_path)
    await engines.make_breakable()
    engine = await engines.open(migrations=[SCHEMA])
    await engine.write(add, "a")
    engines.silence()
    await refused(engine)
    assert not (await engine.probe()).up
    await engines.take_away()
    await engines.bring_back()
    await back(engine)
    assert await engine.read(texts) == ["a"]
    await engines.close()
