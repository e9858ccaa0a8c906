"""A process to be killed: writes rows in transactions, and prints the number of each once it is durable.

python -m tests.storage.crash_writer NODE ADDRESS DIRECTORY
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from homeserver.runtime.clock import SystemClock
from homeserver.storage.connect import engine_for
from homeserver.storage.engine import Transaction
from homeserver.storage.migrate import Migration

SCHEMA = Migration(1, "pairs", "CREATE TABLE pairs (number INTEGER NOT NULL, filling BLOB NOT NULL)")
HALVES = 40
"""Rows of a transaction: it is several pages long, so that a kill can fall into it."""


async def add(tx: Transaction, number: int) -> None:
    """One transaction, in two trips."""
    await tx.run("INSERT INTO pairs (number, filling) VALUES (?, ?)", number, bytes(1000))
    tx.later("INSERT INTO pairs (number, filling) VALUES (?, ?)", [(number, bytes(1000))] * (HALVES - 1))


async def last(tx: Transaction) -> int:
    """The highest number stored so far; -1 for none."""
    row = await tx.one("SELECT MAX(number) FROM pairs")
    return -1 if row is None or row[0] is None else int(row[0])


async def write_for_ever(node: str, address: str, directory: str) -> None:
    """Write until killed."""
    engine = engine_for(node, address, [SCHEMA], root=Path(directory), clock=SystemClock())
    await engine.open(create=True)
    for number in itertools.count(await engine.read(last) + 1):
        await engine.write(add, number)
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(write_for_ever(*sys.argv[1:]))
