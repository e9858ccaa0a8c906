"""Background jobs run when they should, survive their failures, and stop when told."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.runtime.clock import FakeClock
from homeserver.runtime.jobs import FIRST_BACKOFF, Jobs
from homeserver.runtime.telemetry import Telemetry
from tests.support import aio


class Work:
    """A job that counts its runs, fails when told, and waits at a gate."""

    def __init__(self) -> None:
        self.runs = 0
        self.failing = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> None:
        self.runs += 1
        await self.gate.wait()
        if self.failing:
            raise ValueError("no")


@aio
async def test_a_periodic_job_runs_at_the_start_and_then_each_period() -> None:
    clock, work = FakeClock(), Work()
    jobs = Jobs(clock, Telemetry())
    jobs.add("tidy", work, every=60)
    jobs.start()
    await clock.advance(0)
    assert work.runs == 1
    await clock.advance(59)
    assert work.runs == 1
    await clock.advance(122)
    assert work.runs == 4
    await jobs.stop()


@aio
async def test_a_poked_job_runs_once_for_each_poke_that_it_has_not_seen() -> None:
    clock, work = FakeClock(), Work()
    jobs = Jobs(clock, Telemetry())
    jobs.add("ship", work)
    jobs.start()
    await clock.advance(1000)
    assert work.runs == 0
    work.gate.clear()
    jobs.poke("ship")
    await clock.advance(0)
    assert work.runs == 1
    jobs.poke("ship")  # while it runs: it may have looked already
    jobs.poke("ship")
    work.gate.set()
    await clock.advance(0)
    assert work.runs == 2
    await jobs.stop()


@aio
async def test_a_poke_before_the_start_counts() -> None:
    clock, work = FakeClock(), Work()
    jobs = Jobs(clock, Telemetry())
    jobs.add("ship", work)
    jobs.poke("ship")
    jobs.start()
    await clock.advance(0)
    assert work.runs == 1
    await jobs.stop()


@aio
async def test_a_failing_job_is_tried_again_ever_more_seldom_and_counted() -> None:
    clock, work, telemetry = FakeClock(), Work(), Telemetry()
    jobs = Jobs(clock, telemetry)
    jobs.add("ship", work)
    jobs.start()
    work.failing = True
    jobs.poke("ship")
    await clock.advance(0)
    assert work.runs == 1
    jobs.poke("ship")  # no way around the waiting
    await clock.advance(FIRST_BACKOFF * 0.9)
    assert work.runs == 1
    await clock.advance(FIRST_BACKOFF * 0.2)
    assert work.runs == 2
    assert jobs.failing() == {"ship": 2}
    await clock.advance(FIRST_BACKOFF * 1.8)
    assert work.runs == 2
    work.failing = False
    await clock.advance(FIRST_BACKOFF * 0.2)
    assert work.runs == 3
    assert jobs.failing() == {}
    await clock.advance(3600)
    assert work.runs == 3
    await jobs.stop()
    assert b'domicile_job_runs_total{job="ship",outcome="failed"} 2.0' in telemetry.render()
    assert b'domicile_job_runs_total{job="ship",outcome="done"} 1.0' in telemetry.render()


@aio
async def test_something_cancelled_inside_a_job_does_not_end_the_job() -> None:
    clock = FakeClock()
    jobs = Jobs(clock, Telemetry())
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise asyncio.CancelledError

    jobs.add("ship", work)
    jobs.start()
    jobs.poke("ship")
    await clock.advance(FIRST_BACKOFF)
    assert runs == 2
    await jobs.stop()


@aio
async def test_stopping_waits_for_what_runs() -> None:
    clock, work = FakeClock(), Work()
    jobs = Jobs(clock, Telemetry())
    jobs.add("ship", work)
    jobs.start()
    work.gate.clear()
    jobs.poke("ship")
    await clock.advance(0)
    stopping = asyncio.create_task(jobs.stop(grace=10))
    await clock.advance(9)
    assert not stopping.done()
    work.gate.set()
    await clock.advance(0)
    await stopping
    jobs.poke("ship")
    await clock.advance(100)
    assert work.runs == 1


@aio
async def test_stopping_cuts_off_what_does_not_end() -> None:
    clock, work = FakeClock(), Work()
    jobs = Jobs(clock, Telemetry())
    jobs.add("ship", work)
    jobs.start()
    work.gate.clear()
    jobs.poke("ship")
    await clock.advance(0)
    stopping = asyncio.create_task(jobs.stop(grace=10))
    await clock.advance(11)
    await stopping
    assert clock.waiting == 0


@aio
async def test_names_are_unique_and_known() -> None:
    jobs = Jobs(FakeClock(), Telemetry())
    jobs.add("ship", Work())
    with pytest.raises(ValueError, match="ship"):
        jobs.add("ship", Work())
    with pytest.raises(KeyError):
        jobs.poke("shop")
