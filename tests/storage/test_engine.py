"""What both engines promise."""

from __future__ import annotations

from homeserver.storage.engine import Transaction
from homeserver.storage.migrate import Migration
from tests.support import Databases, aio

NOTES = Migration(1, "notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL, octets BLOB)")


async def add(tx: Transaction, text: str) -> int:
    row = await tx.one("INSERT INTO notes (text) VALUES (?) RETURNING id", text)
    assert row is not None
    return int(row[0])


async def texts(tx: Transaction) -> list[str]:
    return [text for (text,) in await tx.all("SELECT text FROM notes ORDER BY id")]


@aio
async def test_what_was_committed_is_read(engines: Databases) -> None:
    engine = await engines.open(migrations=[NOTES])
    assert await engine.write(add, "a") == 1
    assert await engine.write(add, "b") == 2
    assert await engine.read(texts) == ["a", "b"]
