"""What takes longer than it may is broken off, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.runtime.clock import FakeClock, SystemClock
from homeserver.runtime.deadlines import within
from tests.support import aio


@aio
async def test_what_takes_longer_is_broken_off() -> None:
    clock, ended = FakeClock(), []

    async def wait(seconds: float) -> str:
        try:
            async with within(clock, 10):
                await clock.sleep(seconds)
                return "done"
        except TimeoutError:
            return "broken off"
        finally:
            ended.append(clock.monotonic())

    short, long = asyncio.ensure_future(wait(9)), asyncio.ensure_future(wait(11))
    await clock.advance(60)
    assert (await short, await long) == ("done", "broken off")
    assert ended == [9, 10]
    assert clock.waiting == 0


@aio
async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    clock = FakeClock()

    async def wait() -> None:
        async with within(clock, 10):
            await clock.sleep(20)

    waiting = asyncio.ensure_future(wait())
    await clock.advance(5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert clock.waiting == 0


@aio
async def test_nothing_is_left_of_the_machines_clock() -> None:
    with pytest.raises(TimeoutError):
        async with within(SystemClock(), 0.001):
            await asyncio.Event().wait()
