"""Whether a node's database is reachable: one that is down is refused at once and looked for in the background.

Owned by an engine, which calls `Circuit.trip` when the database failed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.clock import Clock
from homeserver.storage.engine import Health
from homeserver.storage.migrate import NotCreated, SchemaMismatch

FIRST_RETRY = 0.25
"""Seconds until a lost database is looked for again; doubles up to `LAST_RETRY`."""
LAST_RETRY = 5.0

log = structlog.get_logger("storage")


class Unreachable(Exception):
    """The database cannot be used now; the text says why, for the operator."""


class Circuit:
    """Up or down. ``connect`` makes the connections anew and raises `Unreachable` or `SchemaMismatch`."""

    def __init__(self, node: str, clock: Clock, connect: Callable[[], Awaitable[None]]) -> None:
        self._node = node
        self._clock = clock
        self._connect = connect
        self._health = Health(False, "not opened", clock.now_ms())
        self._watchers: list[Callable[[Health], object]] = []
        self._retrying: asyncio.Task[None] | None = None
        self._attempting = asyncio.Lock()
        self._stopped = False

    @property
    def health(self) -> Health:
        """As far as is known."""
        return self._health

    def watch(self, callback: Callable[[Health], object]) -> None:
        """Call ``callback`` at each change."""
        self._watchers.append(callback)

    def check(self) -> None:
        """Raise `NodeUnavailable` when the database is down."""
        if not self._health.up:
            raise NodeUnavailable(self._node)

    async def start(self) -> None:
        """Connect for the first time; goes on in the background when that fails. Raises `SchemaMismatch`."""
        self._stopped = False
        try:
            await self._attempt()
        except (Unreachable, NotCreated) as fault:
            self._change(False, str(fault))
            self._retry()

    def trip(self, reason: str) -> None:
        """The database failed: go down, and begin to look for it."""
        if self._health.up:
            self._change(False, reason)
            self._retry()

    async def attempt(self) -> None:
        """Look for a database that is down now, not at the next retry."""
        try:
            await self._attempt()
        except (Unreachable, SchemaMismatch) as fault:
            self._change(False, str(fault))

    async def stop(self) -> None:
        """Go down for good."""
        self._stopped = True
        self._change(False, "closed")
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait([self._retrying])
            self._retrying = None

    async def _attempt(self) -> None:
        async with self._attempting:
            if not self._health.up and not self._stopped:
                await self._connect()
                self._change(True, "")

    def _retry(self) -> None:
        if not self._stopped and (self._retrying is None or self._retrying.done()):
            # An empty context: whoever's request met the failure must not be named by what follows from it.
            self._retrying = asyncio.get_running_loop().create_task(self._look(), context=Context())

    async def _look(self) -> None:
        wait = FIRST_RETRY
        while not self._health.up:
            await self._clock.sleep(wait)
            wait = min(wait * 2, LAST_RETRY)
            try:
                await self.attempt()
            except Exception:
                log.exception("cannot reconnect", node=self._node)

    def _change(self, up: bool, reason: str) -> None:
        before = self._health
        if (before.up, before.reason) == (up, reason):
            return
        since = before.since_ms if before.up == up else self._clock.now_ms()
        self._health = Health(up, reason, since)
        if up:
            log.info("database is up", node=self._node)
        elif not self._stopped:
            log.error("database is down", node=self._node, reason=reason)
        if before.up == up:
            return
        for callback in self._watchers:
            try:
                callback(self._health)
            except Exception:
                log.exception("watcher of a database failed", node=self._node)
