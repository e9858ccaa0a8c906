"""A session with PostgreSQL: how it is set up, how long it may be silent, how long it lives.

The invariant: a server that does not answer in time is given up by cutting the wire, never by asking it to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from homeserver.storage.engine import Row
from homeserver.storage.postgres.values import adapt

CONNECT_SECONDS = 3
"""How long the server may take to accept a connection, or to undo a transaction."""
TRIP_SECONDS = 30.0
"""How long the server may take to answer a statement before it counts as lost."""
LIFETIME = 3600.0
"""Seconds after which a connection is made anew: what the server keeps for it only grows."""
STATEMENTS = 400
"""Prepared statements that each connection keeps."""

LOCK_TIMEOUT = "SET lock_timeout = '10s'"
_SETTINGS = (
    # A commit that was answered must survive a crash; a server set up otherwise is overruled, a stricter one is not.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
    LOCK_TIMEOUT,
    "SET idle_in_transaction_session_timeout = '60s'",
)
_READ_ONLY = "SET default_transaction_read_only = on"

Session = psycopg.AsyncConnection[Row]
_HUNG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class Connection:
    """A session that transactions take turns on."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._until = asyncio.get_running_loop().time() + LIFETIME

    @property
    def usable(self) -> bool:
        """Whether another transaction may have it."""
        return not self.session.closed and asyncio.get_running_loop().time() < self._until

    @property
    def idle(self) -> bool:
        """Whether it is in no transaction, and no statement is on its way."""
        return self.session.pgconn.transaction_status == pq.TransactionStatus.IDLE

    @property
    def hung_up(self) -> bool:
        """Whether the server has ended it already: what is sent now, it will not hear."""
        if self.session.closed:
            return True
        poll = select.poll()
        poll.register(self.session.fileno(), _HUNG_UP)
        return bool(poll.poll(0))

    async def close(self) -> None:
        """End the session; the server undoes what was not committed."""
        await self.session.close()

    async def roll_back(self) -> None:
        """Undo what was not committed; a session that does not let itself be cleaned is closed."""
        await self._end(self.session.rollback())

    async def end_snapshot(self) -> None:
        """Let go of what a read saw. Not by a roll-back, at which the driver forgets the statements it has prepared."""
        await self._end(self.session.commit())

    async def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        try:
            with self.limit(CONNECT_SECONDS):
                await ending
        except psycopg.Error:
            await self.session.close()

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Cut the wire when the server does not answer in time; the driver then finds the connection lost.

        A cancellation would have the driver ask that silent server, politely and for seconds, to stop.
        """
        timer = asyncio.get_running_loop().call_later(seconds, self._cut)
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self) -> None:
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.session.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)


async def plain_session(url: str, node: str) -> Session:
    """A session in which each statement commits itself. Raises psycopg.Error."""
    return await psycopg.AsyncConnection.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_SECONDS,
        tcp_user_timeout=int(TRIP_SECONDS * 1000),
        application_name=f"domicile {node}",
        row_factory=tuple_row,
    )


async def connect(url: str, node: str, *, writing: bool) -> Connection:
    """A session for transactions: types as SQLite's, durable commits, bounded waits. Raises psycopg.Error."""
    session = await plain_session(url, node)
    try:
        session.prepared_max = STATEMENTS
        adapt(session.adapters)
        connection = Connection(session)
        with connection.limit(CONNECT_SECONDS):
            settings = _SETTINGS if writing else (*_SETTINGS, _READ_ONLY)
            await session.execute("; ".join(settings).encode(), prepare=False)
    except BaseException:
        await session.close()
        raise
    return connection
