"""kill -9 at any moment: what was said to be durable is there, whole; nothing is there by half."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage.engine import Transaction
from tests.storage.crash_writer import HALVES, SCHEMA, add
from tests.support import POSTGRES, Databases, aio

ROOT = Path(__file__).resolve().parents[2]
KILLS = 12


async def counts(tx: Transaction) -> dict[int, int]:
    return dict(await tx.all("SELECT number, COUNT(*) FROM pairs GROUP BY number"))


async def write_until_killed(address: str, directory: Path, rows: int, delay: float) -> int:
    """Run the writer, kill it ``delay`` seconds after it has acknowledged ``rows`` transactions; the last number."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.storage.crash_writer",
        "tehran",
        address,
        str(directory),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    acknowledged = b""
    while acknowledged.count(b"\n") < rows:
        line = await process.stdout.readline()
        assert line, "the writer ended by itself"
        acknowledged += line if line.strip().isdigit() else b""
    try:
        async with asyncio.timeout(delay):
            await process.wait()
    except TimeoutError:
        process.kill()
    rest = await process.stdout.read()
    await process.wait()
    whole = (acknowledged + rest).rpartition(b"\n")[0]
    return int(whole.rpartition(b"\n")[2])


def check(stored: dict[int, int], acknowledged: int) -> None:
    assert set(stored.values()) == {HALVES}, "every transaction is whole"
    assert sorted(stored) == list(range(len(stored))), "none is missing between others"
    assert len(stored) - 1 in (acknowledged, acknowledged + 1), "all that was acknowledged, and at most one more"


@aio
async def test_killed_while_writing(engines: Databases) -> None:
    chance = random.Random(17)
    for _ in range(KILLS):
        acknowledged = await write_until_killed(
            engines.url("tehran"), engines.directory, chance.randint(1, 8), chance.random() * 0.02
        )
        engine = await engines.open(migrations=[SCHEMA])
        check(await engine.read(counts), acknowledged)
        await engine.close()


@pytest.fixture
def private_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that no other test uses, so that it may be killed."""
    if not os.environ.get(POSTGRES):
        pytest.skip(f"{POSTGRES} is not set")
    monkeypatch.setenv("DOMICILE_POSTGRES_STATE", str(tmp_path / "state"))
    yield run_postgres("start")
    run_postgres("stop")


def run_postgres(command: str) -> str:
    """Start or stop the private server; returns what was printed."""
    done = subprocess.run([ROOT / "scripts" / "postgres", command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@aio
async def test_the_server_is_killed(private_postgres: str, tmp_path: Path) -> None:
    engines = Databases("postgres", tmp_path, private_postgres)
    engine = await engines.open(migrations=[SCHEMA])
    warm = asyncio.Event()
    acknowledged = -1

    async def write() -> None:
        nonlocal acknowledged
        while True:
            await engine.write(add, acknowledged + 1)
            acknowledged += 1
            if acknowledged == 20:
                warm.set()

    writing = asyncio.create_task(write())
    await warm.wait()
    home = Path((tmp_path / "state" / "home").read_text().strip())
    os.kill(int((home / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    with pytest.raises(NodeUnavailable):
        await writing
    while not (await engine.probe()).up:
        await asyncio.to_thread(run_postgres, "start")
    check(await engine.read(counts), acknowledged)
    await engines.close()
