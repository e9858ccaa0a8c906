"""The clock that tests use behaves like a clock."""

from __future__ import annotations

import asyncio

from homeserver.runtime.clock import FakeClock, SystemClock
from tests.support import aio


@aio
async def test_timers_fire_in_order_and_at_their_moment() -> None:
    clock = FakeClock(now_ms=1_000_000)
    seen: list[tuple[str, int]] = []
    for name, seconds in (("late", 3.0), ("early", 1.0), ("beyond", 9.0)):
        clock.call_later(seconds, lambda name=name: seen.append((name, clock.now_ms())))
    await clock.advance(5)
    assert seen == [("early", 1_001_000), ("late", 1_003_000)]
    assert clock.now_ms() == 1_005_000
    assert clock.monotonic() == 5
    assert clock.waiting == 1


@aio
async def test_a_cancelled_timer_stays_silent() -> None:
    clock = FakeClock()
    seen: list[int] = []
    clock.call_later(1, seen.append, 1).cancel()
    clock.call_later(1, seen.append, 2)
    await clock.advance(2)
    assert seen == [2]


@aio
async def test_sleeps_in_a_row_pass_within_one_advance() -> None:
    clock = FakeClock()

    async def tick() -> list[float]:
        moments = []
        for _ in range(3):
            await clock.sleep(2)
            moments.append(clock.monotonic())
        return moments

    ticking = asyncio.create_task(tick())
    await clock.advance(7)
    assert await ticking == [2, 4, 6]


@aio
async def test_a_cancelled_sleep_leaves_no_timer() -> None:
    clock = FakeClock()
    sleeping = asyncio.create_task(clock.sleep(10))
    await clock.advance(1)
    assert clock.asleep == {sleeping}
    sleeping.cancel()
    await asyncio.wait([sleeping])
    assert clock.waiting == 0
    assert not clock.asleep


@aio
async def test_the_system_clock_calls_later() -> None:
    clock = SystemClock()
    called = asyncio.Event()
    began = clock.monotonic()
    clock.call_later(0.01, called.set)
    await called.wait()
    assert clock.monotonic() - began >= 0.009
    assert clock.now_ms() > 1_700_000_000_000
