"""Statements that the driver prepares on a connection: what an error leaves of them is not relied on."""

from __future__ import annotations

import pytest

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage.engine import Transaction, UniqueViolation
from tests.support import Databases, aio

OFTEN = 12
"""How often a statement is run; it is prepared on the way."""


@aio
async def test_a_statement_that_an_error_kept_from_being_prepared_is_prepared_later(engines: Databases) -> None:
    engine = await engines.open()

    async def create(tx: Transaction) -> None:
        await tx.run("CREATE TABLE words (word TEXT PRIMARY KEY, times INTEGER)")
        await tx.run("INSERT INTO words VALUES ('taken', 0)")

    async def count(tx: Transaction, name: str) -> None:
        tx.later(f"UPDATE words SET times = times + 1 WHERE word <> '{name}'", [()])

    async def fail(tx: Transaction, name: str) -> None:
        tx.later("INSERT INTO words VALUES (?, 1)", [("taken",)])
        await count(tx, name)

    await engine.write(create)
    for before in range(OFTEN):  # the preparation of one of these statements falls into the failing transaction
        for _ in range(before):
            await engine.write(count, f"{before}")
        with pytest.raises(UniqueViolation):
            await engine.write(fail, f"{before}")
        for _ in range(OFTEN):
            await engine.write(count, f"{before}")


@aio
async def test_a_server_that_forgot_what_was_prepared_counts_as_lost(engines: Databases) -> None:
    if engines.kind != "postgres":
        pytest.skip("SQLite prepares in the program")
    engine = await engines.open()

    async def ask(tx: Transaction) -> int:
        row = await tx.one("SELECT 1 + ?", 1)
        assert row is not None
        return int(row[0])

    async def forget(tx: Transaction) -> None:
        await tx.run("DO 'BEGIN EXECUTE ''DEALLOCATE ALL''; END'")  # behind the driver's back

    for _ in range(OFTEN):
        assert await engine.write(ask) == 2
    await engine.write(forget)
    with pytest.raises(NodeUnavailable):
        await engine.write(ask)
    await engine.probe()
    assert await engine.write(ask) == 2
