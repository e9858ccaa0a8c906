"""A database that is lost while it commits: told apart from one where nothing can have been committed."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest

from homeserver.protocol.errors import CommitUnknown, NodeUnavailable
from homeserver.storage.engine import Engine, Transaction
from homeserver.storage.migrate import Migration
from homeserver.storage.postgres import connection as sessions
from tests.storage.test_unavailable import SCHEMA, add, back, on_postgres, texts
from tests.support import Databases, aio

REFUSED_AT_COMMIT = Migration(
    2,
    "refuse",
    """
    -- only: postgres
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'the disk fails' USING ERRCODE = '58030'; END $$;
    -- only: postgres
    CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.text = 'refuse') EXECUTE FUNCTION refuse();
    """,
)


async def on_a_wire(tmp_path: Path) -> tuple[Databases, Engine]:
    engines = on_postgres(tmp_path)
    await engines.make_breakable()
    return engines, await engines.open(migrations=[SCHEMA, REFUSED_AT_COMMIT])


async def outcome(engines: Databases, engine: Engine, writing: asyncio.Task[None]) -> NodeUnavailable:
    """What a write was told whose database has gone; the database is back afterwards."""
    with pytest.raises(NodeUnavailable) as caught:
        await writing
    await engines.bring_back()
    await back(engine)
    return caught.value


@pytest.mark.parametrize("queued", [False, True])
@aio
async def test_the_answer_to_a_commit_is_lost(tmp_path: Path, queued: bool) -> None:
    engines, engine = await on_a_wire(tmp_path)
    told: list[str] = []

    async def leave(tx: Transaction) -> None:
        if queued:  # BEGIN and COMMIT go in one trip
            tx.later("INSERT INTO notes (text) VALUES (?)", [("a",)])
        else:
            await add(tx, "a")
        tx.after_commit(lambda: told.append("a"))
        engines.silence_answers()

    writing = asyncio.create_task(engine.write(leave))
    await engines.take_away_with_what_is_held()
    assert isinstance(await outcome(engines, engine, writing), CommitUnknown)
    assert await engine.read(texts) == ["a"]
    assert told == []
    await engines.close()


@aio
async def test_a_commit_does_not_arrive(tmp_path: Path) -> None:
    engines, engine = await on_a_wire(tmp_path)

    async def leave(tx: Transaction) -> None:
        await add(tx, "a")
        engines.silence()

    writing = asyncio.create_task(engine.write(leave))
    await engines.take_away_with_what_is_held()
    assert isinstance(await outcome(engines, engine, writing), CommitUnknown)
    assert await engine.read(texts) == []
    await engines.close()


@aio
async def test_a_commit_is_not_answered_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines, engine = await on_a_wire(tmp_path)

    async def leave(tx: Transaction) -> None:
        await add(tx, "a")
        engines.silence_answers()
        monkeypatch.setattr(sessions, "TRIP_SECONDS", 0.2)

    with pytest.raises(CommitUnknown):
        await engine.write(leave)
    assert not engine.health().up
    await engines.close()


@pytest.mark.parametrize("queued", [False, True])
@aio
async def test_the_wire_is_cut_before_the_commit(tmp_path: Path, queued: bool) -> None:
    engines, engine = await on_a_wire(tmp_path)

    async def leave(tx: Transaction) -> None:
        if queued:
            tx.later("INSERT INTO notes (text) VALUES (?)", [("a",)])
        else:
            await add(tx, "a")
        await engines.take_away()

    writing = asyncio.create_task(engine.write(leave))
    assert type(await outcome(engines, engine, writing)) is NodeUnavailable
    assert await engine.read(texts) == []
    await engines.close()


@aio
async def test_the_wire_is_cut_at_a_statement(tmp_path: Path) -> None:
    engines, engine = await on_a_wire(tmp_path)

    async def leave(tx: Transaction) -> None:
        await add(tx, "a")
        engines.silence_answers()
        await texts(tx)

    writing = asyncio.create_task(engine.write(leave))
    await engines.take_away_with_what_is_held()
    assert type(await outcome(engines, engine, writing)) is NodeUnavailable
    assert await engine.read(texts) == []
    await engines.close()


@aio
async def test_a_commit_that_the_server_refuses_has_not_happened(tmp_path: Path) -> None:
    engines, engine = await on_a_wire(tmp_path)
    with pytest.raises(NodeUnavailable) as caught:
        await engine.write(add, "refuse")
    assert type(caught.value) is NodeUnavailable
    await back(engine)
    assert await engine.read(texts) == []
    await engines.close()


@pytest.mark.parametrize(("length", "told"), [(500_000, CommitUnknown), (20_000_000, NodeUnavailable)])
@aio
async def test_a_disk_fails(tmp_path: Path, length: int, told: type[NodeUnavailable]) -> None:
    """A limit on the length of files stands for it: what goes over it is an error of input and output.

    A short text is first written in the COMMIT; a long one does not fit into the cache and is written before.
    """
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])
    await engine.write(add, "a" * 1_000_000)
    log = tmp_path / "tehran" / "node.db-wal"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def fail(tx: Transaction) -> None:
        await texts(tx)
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
        await add(tx, "b" * length)

    try:
        with pytest.raises(NodeUnavailable) as caught:
            await engine.write(fail)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert type(caught.value) is told
    await back(engine)
    assert [text[0] for text in await engine.read(texts)] == ["a"]
    await engine.write(add, "c")
    await engines.close()


@aio
async def test_a_file_is_gone_before_the_commit(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    engine = await engines.open(migrations=[SCHEMA])

    async def queue(tx: Transaction) -> None:
        tx.later("INSERT INTO notes (text) VALUES (?)", [("a",)])
        await engines.take_away()  # BEGIN goes in one hop with the COMMIT, and misses the file

    with pytest.raises(NodeUnavailable) as caught:
        await engine.write(queue)
    assert type(caught.value) is NodeUnavailable
    await engines.close()
