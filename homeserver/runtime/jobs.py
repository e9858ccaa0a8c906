"""What runs without a request: named jobs, each periodic, or poked, or both.

A job never runs twice at the same time; a poke that comes while it runs is not lost, it runs once
more. One that fails is logged and waits longer each time before it is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

import structlog

from homeserver.runtime import pauses
from homeserver.runtime.clock import Clock
from homeserver.runtime.telemetry import Telemetry

FIRST_BACKOFF = 1.0
"""Seconds after the first failure; doubles up to `LAST_BACKOFF`."""
LAST_BACKOFF = 300.0

log = structlog.get_logger("jobs")


class Postponed(Exception):
    """What a job raises that cannot do its work now, by no fault of the program; the text says why."""


class Job:
    """One job. Owned by `Jobs`."""

    def __init__(self, name: str, work: Callable[[], Awaitable[object]], every: float | None) -> None:
        self.name = name
        self.work = work
        self.every = every
        self.due = asyncio.Event()
        self.failures = 0
        """Failures since the last success."""
        self.running = False
        self.task: asyncio.Task[None] | None = None


class Jobs:
    """The jobs of this process."""

    def __init__(self, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._started = False
        self._stopping = False
        self._runs = telemetry.counter("domicile_job_runs", "Runs of background jobs.", ["job", "outcome"])
        self._seconds = telemetry.histogram("domicile_job_seconds", "Duration of runs of background jobs.", ["job"])

    def add(self, name: str, work: Callable[[], Awaitable[object]], *, every: float | None = None) -> None:
        """Register ``work``; it runs when poked and, with ``every``, that many seconds after its last run ended.

        A periodic job runs first at the start. Raises ValueError for a name that is taken.
        """
        if name in self._jobs:
            raise ValueError(f"there are two jobs named {name!r}")
        job = self._jobs[name] = Job(name, work, every)
        if every is not None:
            job.due.set()
        if self._started:
            self._start(job)

    def start(self) -> None:
        """Begin to run them."""
        self._started = True
        for job in self._jobs.values():
            self._start(job)

    def poke(self, name: str) -> None:
        """Have the job run soon. Raises KeyError for a name that nobody registered."""
        self._jobs[name].due.set()

    def failing(self) -> dict[str, int]:
        """The jobs whose last run failed, and how often in a row."""
        return {job.name: job.failures for job in self._jobs.values() if job.failures}

    async def stop(self, grace: float = 10.0) -> None:
        """Start nothing more, let what runs finish for up to ``grace`` seconds, then cancel it."""
        self._stopping = True
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for job in self._jobs.values():
            if job.task is not None and not job.running:
                job.task.cancel()
        timer = self._clock.call_later(grace, self._cancel_all)
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            timer.cancel()

    def _cancel_all(self) -> None:
        for job in self._jobs.values():
            if job.task is not None and not job.task.done():
                log.warning("job cut off", job=job.name)
                job.task.cancel()

    def _start(self, job: Job) -> None:
        # An empty context: a job belongs to no request and to no transaction.
        job.task = asyncio.get_running_loop().create_task(self._loop(job), name=job.name, context=Context())

    async def _loop(self, job: Job) -> None:
        while not self._stopping:
            await job.due.wait()
            job.due.clear()
            job.running = True
            try:
                await self._run(job)
            finally:
                job.running = False
            if self._stopping:
                return
            if job.failures:
                await self._clock.sleep(pauses.after(job.failures, FIRST_BACKOFF, LAST_BACKOFF))
                job.due.set()
            elif job.every is not None:
                await self._rest(job, job.every)

    async def _rest(self, job: Job, seconds: float) -> None:
        timer = self._clock.call_later(seconds, job.due.set)
        try:
            await job.due.wait()
        finally:
            timer.cancel()

    async def _run(self, job: Job) -> None:
        began = self._clock.monotonic()
        try:
            await job.work()
        except (Exception, asyncio.CancelledError) as fault:
            if isinstance(fault, asyncio.CancelledError) and job.task is not None and job.task.cancelling():
                raise  # it is we who are cancelled, and not something that the job waited for
            job.failures = min(job.failures + 1, 30)
            if isinstance(fault, Postponed):
                self._runs.inc(job.name, "postponed")
                if job.failures == 1:  # what follows is the same again
                    log.warning("job postponed", job=job.name, reason=str(fault))
            else:
                self._runs.inc(job.name, "failed")
                log.exception("job failed", job=job.name, in_a_row=job.failures)
        else:
            job.failures = 0
            self._runs.inc(job.name, "done")
        self._seconds.observe(self._clock.monotonic() - began, job.name)
