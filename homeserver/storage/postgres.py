"""PostgreSQL, for a node that outgrows a file: psycopg 3 over a pool of connections.

The invariants: a write is serialisable, and repeated when the database says that it was not; one
write at a time runs in this process, so that what follows a commit follows in the order of commits;
a caller that goes away leaves no transaction open.

A call costs one round trip. BEGIN and queued writes ride in the trip of the next statement, as a pipeline.

What differs from SQLite in the text of migrations is rewritten (`rewrite`): ``INTEGER`` and ``BLOB``
become ``BIGINT`` and ``BYTEA``, ``REAL`` becomes ``DOUBLE PRECISION``, a column ``INTEGER PRIMARY KEY``
numbers itself, text sorts by its bytes, ``STRICT`` and ``WITHOUT ROWID`` disappear.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextvars import Context
from functools import lru_cache
from itertools import groupby
from typing import Any, Concatenate

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier
from psycopg.types.numeric import Int8Dumper, NumericBinaryLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from homeserver.protocol.errors import InvalidParam, NodeUnavailable, ResidencyViolation
from homeserver.runtime.clock import Clock
from homeserver.storage import migrate
from homeserver.storage.circuit import Circuit, Unreachable
from homeserver.storage.engine import (
    ConstraintViolation,
    DatabaseFault,
    Health,
    P,
    Param,
    Row,
    Scope,
    T,
    Transaction,
    UniqueViolation,
    log,
    run_callbacks,
)

CONNECTIONS = 6
CONNECT_SECONDS = 3
"""How long the server may take to accept a connection."""
WAIT_SECONDS = 10.0
"""How long a transaction may wait for a connection of the pool."""
TRIP_SECONDS = 30.0
"""How long the server may take to answer a statement before it counts as lost."""
ATTEMPTS = 10
"""How often a transaction is run before its conflicts count as the node's being unavailable."""
FIRST_BACKOFF = 0.005
"""Seconds before a transaction is run again, at most; doubles up to `LAST_BACKOFF`."""
LAST_BACKOFF = 0.5

READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "BEGIN ISOLATION LEVEL SERIALIZABLE"

_LOCK = 0x446F6D6963696C65
"""Key of the advisory lock under which one process at a time migrates."""

_LOCK_TIMEOUT = "SET lock_timeout = '10s'"
_SETTINGS = (
    # A commit that was answered must survive a crash; a server set up otherwise is overruled, a stricter one is not.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
    _LOCK_TIMEOUT,
    "SET idle_in_transaction_session_timeout = '60s'",
)

_FAILED = "an earlier statement of this transaction failed: it can only be rolled back"

Connection = psycopg.AsyncConnection[Row]
Pool = AsyncConnectionPool[Connection]


class _Lost(Exception):
    """The connection, or the server, is of no more use."""


class _Pressed(Exception):
    """The server cannot do it now."""


class _Conflict(Exception):
    """The transaction must be run again from its start."""


class _Transaction:
    """A transaction on one connection of the pool."""

    def __init__(self, engine: PostgresEngine, connection: Connection, begin: str) -> None:
        self.node = engine.node
        self._engine = engine
        self.connection = connection
        self._begin = begin
        self._writing = begin == WRITE
        self._queue: list[tuple[str, list[Sequence[Param]]]] = []
        self.callbacks: list[Callable[[], object]] = []
        self._turn = asyncio.Lock()  # statements of one transaction take turns on its connection
        self.begun = False
        self.committing: asyncio.Task[None] | None = None
        self.committed = False
        self.ended = False
        self.failure: BaseException | None = None

    async def all(self, sql: str, *params: Param) -> list[Row]:
        """See `Transaction.all`."""
        return await (await self._trip(sql, (params,))).fetchall()

    async def one(self, sql: str, *params: Param) -> Row | None:
        """See `Transaction.one`."""
        return await (await self._trip(sql, (params,))).fetchone()

    async def run(self, sql: str, *params: Param) -> int:
        """See `Transaction.run`."""
        return (await self._trip(sql, (params,))).rowcount

    async def many(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """See `Transaction.many`."""
        batch = list(rows)
        if batch:
            await self._trip(sql, batch)

    def later(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """See `Transaction.later`."""
        self._check()
        if not self._writing:
            raise DatabaseFault("a read does not write")
        batch = list(rows)
        if batch:
            self._queue.append((sql, batch))

    def after_commit(self, callback: Callable[[], object]) -> None:
        """See `Transaction.after_commit`."""
        self._check()
        self.callbacks.append(callback)

    async def commit(self) -> None:
        """Make it durable; costs nothing when nothing was asked of the database.

        A caller that is cancelled meanwhile leaves ``committing`` behind, which goes on.
        """
        self._check()
        if self.begun or self._queue:
            self.committing = asyncio.create_task(self._commit())
            await asyncio.shield(self.committing)
        else:
            self.committed = True

    async def _commit(self) -> None:
        await self._trip("COMMIT", ((),))
        self.committed = True

    async def rollback(self) -> None:
        """Undo what was not committed; a connection that does not let itself be cleaned is closed."""
        self.ended = True
        connection = self.connection
        if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            return
        try:
            with _limit(connection, CONNECT_SECONDS):
                await connection.execute("ROLLBACK", prepare=False)
        except psycopg.Error:
            await connection.close()

    def _check(self) -> None:
        if self.ended:
            raise RuntimeError("the transaction has ended")
        if isinstance(self.failure, _Conflict):  # swallowed; it must be run again all the same
            raise self.failure
        if self.failure is not None:
            raise DatabaseFault(_FAILED)

    async def _trip(self, sql: str, rows: Sequence[Sequence[Param]]) -> psycopg.AsyncCursor[Row]:
        self._check()
        async with self._turn:
            self._check()
            queue, self._queue = self._queue, []
            self._engine.trips += 1
            try:
                with _limit(self.connection, TRIP_SECONDS):
                    if self.begun and not queue:
                        return await self._execute(sql, rows)
                    return await self._pipeline(queue, sql, rows)
            except (psycopg.Error, UnicodeEncodeError, OverflowError) as fault:
                self.failure = _meaning(fault, self.node)
                self._engine.violations += isinstance(self.failure, ResidencyViolation)
                raise self.failure from None  # the driver's error quotes the values of the row
            except BaseException as fault:
                self.failure = fault
                raise

    async def _pipeline(
        self, queue: Sequence[tuple[str, Sequence[Sequence[Param]]]], sql: str, rows: Sequence[Sequence[Param]]
    ) -> psycopg.AsyncCursor[Row]:
        async with self.connection.pipeline():
            if not self.begun:
                await self.connection.execute(self._begin, prepare=False)
                self.begun = True
            for queued, batch in queue:
                await self._execute(queued, batch)
            return await self._execute(sql, rows)

    async def _execute(self, sql: str, rows: Sequence[Sequence[Param]]) -> psycopg.AsyncCursor[Row]:
        cursor = psycopg.AsyncRawCursor(self.connection)
        translated = translate(sql)
        if len(rows) == 1:
            prepare = False if sql == "COMMIT" else None
            return await cursor.execute(translated, rows[0] or None, prepare=prepare, binary=True)
        await cursor.executemany(translated, rows)
        return cursor


class PostgresEngine:
    """The `Engine` of a node whose database is in PostgreSQL."""

    def __init__(
        self,
        node: str,
        url: str,
        migrations: Sequence[migrate.Migration] = (),
        *,
        clock: Clock,
        connections: int = CONNECTIONS,
    ) -> None:
        self.node = node
        self.trips = 0
        self.violations = 0
        self._url = url
        self._migrations = migrations
        self._clock = clock
        self._connections = connections
        self._create = False
        self._pool: Pool | None = None
        self._line = asyncio.Lock()  # of writers: first come, first served; held by the transaction, not by its caller
        self._seats = asyncio.Semaphore(connections)  # of readers; the writer's connection is one more
        self._aside: set[asyncio.Task[None]] = set()  # what cleans up after callers that went away
        self._circuit = Circuit(node, clock, self._connect)

    async def open(self, *, create: bool = False) -> None:
        """See `Engine.open`."""
        self._create = create  # until it has been reached once
        await self._circuit.start()

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._circuit.stop()
        async with self._line:
            for _ in range(self._connections):
                await self._seats.acquire()
            self._drop_pool()
            for _ in range(self._connections):
                self._seats.release()
        while self._aside:
            await asyncio.wait(self._aside)

    def health(self) -> Health:
        """See `Engine.health`."""
        return self._circuit.health

    def watch(self, callback: Callable[[Health], object]) -> None:
        """See `Engine.watch`."""
        self._circuit.watch(callback)

    async def probe(self) -> Health:
        """See `Engine.probe`."""
        if self._circuit.health.up:
            with contextlib.suppress(NodeUnavailable):
                await self.read(_ask)
        else:
            await self._circuit.attempt()
        return self._circuit.health

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Engine.read`."""
        self._circuit.check()
        with Scope(self.node):
            await self._sit()
            try:
                pool, connection = await self._take()
            except BaseException:
                self._seats.release()
                raise
            tx = _Transaction(self, connection, READ)
            try:
                result = await fn(tx, *args, **kwargs)
            except (_Lost, _Pressed, _Conflict) as fault:
                raise self._unavailable(fault) from fault
            finally:
                tx.ended = True
                self._put_aside(self._end_read(pool, tx))  # nobody waits for the end of a snapshot
        run_callbacks(tx.callbacks)
        return result

    async def write(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Engine.write`."""
        self._circuit.check()
        with Scope(self.node):
            await self._line.acquire()
            try:
                pool, connection = await self._take()
            except BaseException:
                self._line.release()
                raise
            for attempt in range(ATTEMPTS):
                tx = _Transaction(self, connection, WRITE)
                try:
                    result = await fn(tx, *args, **kwargs)
                    await tx.commit()
                    break
                except BaseException as fault:
                    if not isinstance(fault, _Conflict) or attempt + 1 == ATTEMPTS:
                        self._let_go(pool, tx)
                        if isinstance(fault, _Lost | _Pressed | _Conflict):
                            raise self._unavailable(fault) from fault
                        raise
                try:
                    await tx.rollback()
                    await self._clock.sleep(random.uniform(0, min(FIRST_BACKOFF * 2**attempt, LAST_BACKOFF)))  # noqa: S311
                except BaseException:
                    self._let_go(pool, tx)
                    raise
            run_callbacks(tx.callbacks)
            tx.callbacks = []
            self._let_go(pool, tx)
        return result

    async def _sit(self) -> None:
        if not self._seats.locked():
            await self._seats.acquire()
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._seats.acquire()
        except TimeoutError as fault:
            raise NodeUnavailable(self.node) from fault

    async def _take(self) -> tuple[Pool, Connection]:
        pool = self._pool
        if pool is None:
            raise NodeUnavailable(self.node)
        try:
            return pool, await pool.getconn(timeout=CONNECT_SECONDS)
        except (psycopg.Error, PoolTimeout) as fault:  # there is a seat for each connection: it cannot be made
            raise self._unavailable(_Lost(str(fault))) from fault

    def _let_go(self, pool: Pool, tx: _Transaction) -> None:
        tx.ended = True
        self._put_aside(self._end_write(pool, tx))

    async def _end_read(self, pool: Pool, tx: _Transaction) -> None:
        try:
            await tx.rollback()
            await pool.putconn(tx.connection)
        finally:
            self._seats.release()

    async def _end_write(self, pool: Pool, tx: _Transaction) -> None:
        """Clean up after a write, then let the next one in.

        A COMMIT whose caller went away is waited for: when it succeeded, those who waited for it are told.
        """
        try:
            if tx.committing is not None and not tx.committing.done():
                await asyncio.wait([tx.committing])
            if tx.committed:
                run_callbacks(tx.callbacks)
            await tx.rollback()
            await pool.putconn(tx.connection)
        finally:
            self._line.release()

    def _put_aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with ``work`` whatever becomes of the caller, and outside its transaction."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def _unavailable(self, fault: _Lost | _Pressed | _Conflict) -> NodeUnavailable:
        if isinstance(fault, _Lost):
            if self._circuit.health.up:
                self._drop_pool()
                self._circuit.trip(str(fault))
        else:
            log.warning("the database is pressed", node=self.node, reason=str(fault))
        return NodeUnavailable(self.node)

    def _drop_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            self._put_aside(pool.close(timeout=CONNECT_SECONDS))

    async def _connect(self) -> None:
        """Bring the schema up to date, then fill a new pool. For the circuit."""
        options: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": int(TRIP_SECONDS * 1000),
            "application_name": f"domicile {self.node}",
            "row_factory": tuple_row,
        }
        try:
            connection = await psycopg.AsyncConnection.connect(self._url, **options)
            try:
                await self._prepare(connection)
            finally:
                await connection.close()
            pool: Pool = AsyncConnectionPool(
                self._url,
                kwargs=options,
                configure=_configure,
                min_size=1,
                max_size=self._connections + 1,
                open=False,
                name=self.node,
            )
            await pool.open(wait=True, timeout=CONNECT_SECONDS)
        except (psycopg.OperationalError, PoolTimeout) as fault:
            raise Unreachable(str(fault).strip()) from fault
        self._pool = pool
        self._create = False

    async def _prepare(self, connection: Connection) -> None:
        """Apply the pending migrations, each as a whole, one process at a time."""
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        encoding = await (await connection.execute("SHOW server_encoding")).fetchone()
        if encoding != ("UTF8",):
            raise migrate.SchemaMismatch(f"the database of {self.node} must have the encoding UTF8")
        ledger = "SELECT to_regclass('migrations') IS NOT NULL"
        known = await (await connection.execute(ledger)).fetchone()
        applied = await (await connection.execute(migrate.READ)).fetchall() if known == (True,) else []
        steps = migrate.pending(self.node, self._migrations, applied, create=self._create)
        if steps and not applied:
            await self._make_schema(connection)
        for migration in steps:
            try:
                async with connection.transaction():
                    await self._apply(connection, migration)
            except psycopg.OperationalError:
                raise
            except psycopg.Error as fault:
                raise migrate.failed(self.node, migration, fault) from fault

    async def _apply(self, connection: Connection, migration: migrate.Migration) -> None:
        cursor = psycopg.AsyncRawCursor(connection)
        await cursor.execute(rewrite(migrate.LEDGER).encode())
        for statement in migrate.statements(migration.sql, "postgres"):
            await cursor.execute(rewrite(statement).encode())
        await cursor.execute(translate(migrate.RECORD), (migration.number, migration.name, migration.digest))

    @staticmethod
    async def _make_schema(connection: Connection) -> None:
        """A ``search_path`` in the address may name a schema that is not there yet."""
        missing = "SELECT current_schema() IS NULL, (current_setting('search_path'))"
        row = await (await connection.execute(missing)).fetchone()
        if row is not None and row[0]:
            schema = str(row[1]).split(",")[-1].strip().strip('"')
            await connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))


async def peek(url: str, table: str, sql: str) -> list[Row]:
    """The rows of a query, read without changing anything; none if ``table`` is not there. Raises Unreachable."""
    try:
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS)
        async with connection:
            known = await (await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,))).fetchone()
            return await (await connection.execute(sql.encode())).fetchall() if known == (True,) else []
    except psycopg.Error as fault:
        raise Unreachable(str(fault).strip()) from fault


async def _ask(tx: Transaction) -> None:
    await tx.one("SELECT 1")


@contextlib.contextmanager
def _limit(connection: Connection, seconds: float) -> Iterator[None]:
    """Cut the wire when the server does not answer in time; the driver then finds the connection lost.

    A cancellation would have the driver ask that silent server, politely and for seconds, to stop.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


class _TruthAsNumber(Dumper):
    """``True`` goes in as 1, as it does with SQLite."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: bool) -> Buffer:
        return b"1" if obj else b"0"


class _Truth(Loader):
    """A comparison comes out as 0 or 1, as it does with SQLite."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> int:
        return int(bytes(data) != b"\x00")


class _Number(NumericBinaryLoader):
    """The sum of integers is an integer, any other number that is not one a float."""

    def load(self, data: Buffer) -> Any:
        number = super().load(data)
        return int(number) if number.as_tuple().exponent == 0 else float(number)


async def _configure(connection: Connection) -> None:
    """Settle what every connection of the pool is like: types as SQLite's, durable commits, bounded waits."""
    adapters = connection.adapters
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(bool, _TruthAsNumber)
    adapters.register_loader("bool", _Truth)
    adapters.register_loader("numeric", _Number)
    for setting in _SETTINGS:
        await connection.execute(setting, prepare=False)


_LOST_STATES = ("08", "57P", "58", "XX001", "XX002")
"""Beginnings of SQLSTATE after which the connections are made anew."""
_PRESSED_STATES = ("53", "57014", "55P03", "25P03")
_CONFLICT_STATES = ("40001", "40P01")
_PARAM_STATES = {
    "22021": "Text must not contain NUL characters",
    "22P05": "Text must be valid Unicode",
    "22003": "Integers must have at most 64 bits",
    "54000": "The value is too long to be looked up",
}


def _meaning(fault: BaseException, node: str) -> BaseException:
    """What an error of the driver means to the caller."""
    state = getattr(fault, "sqlstate", None) or ""
    text = str(fault).strip()
    if isinstance(fault, psycopg.Error) and fault.diag.message_primary:  # without the detail, which quotes values
        text = fault.diag.message_primary
    if isinstance(fault, UnicodeEncodeError):
        return InvalidParam("Text must be valid Unicode")
    if isinstance(fault, OverflowError):
        return InvalidParam("Integers must have at most 64 bits")
    if state.startswith(_CONFLICT_STATES):
        return _Conflict(text)
    if state.startswith(_PRESSED_STATES):
        return _Pressed(text)
    if state.startswith(_LOST_STATES) or (not state and isinstance(fault, psycopg.OperationalError)):
        return _Lost(text)
    if state in _PARAM_STATES:
        return InvalidParam(_PARAM_STATES[state])
    if isinstance(fault, psycopg.DataError) and not state and "NUL" in text:
        return InvalidParam("Text must not contain NUL characters")
    return _refusal(fault, state, text, node)


def _refusal(fault: BaseException, state: str, text: str, node: str) -> BaseException:
    if state == "23503" and isinstance(fault, psycopg.Error) and '"residents"' in (fault.diag.message_detail or ""):
        log.error("residency violation", node=node, table=fault.diag.table_name)
        return ResidencyViolation(f"A row was refused: its owner does not reside on {node}")
    if state == "23505":
        return UniqueViolation(text)
    if state.startswith("23"):
        return ConstraintViolation(text)
    return DatabaseFault(text)


@lru_cache(maxsize=4096)
def translate(sql: str) -> bytes:
    """SQL with ``?`` for PostgreSQL: ``$1``, ``$2``, … outside strings and comments; ``x'…'`` becomes a byte string."""
    parts: list[str] = []
    count = 0
    for kind, text in migrate.pieces(sql):
        if text == "?" and kind == "other":
            count += 1
            parts.append(f"${count}")
        elif kind == "quoted" and text[0] == "'" and parts and parts[-1] in ("x", "X"):
            parts[-1] = f"'\\x{text[1:-1]}'::bytea"
        else:
            parts.append(text)
    return "".join(parts).encode()


_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\bINTEGER\s+PRIMARY\s+KEY\b(?!\s+(?:REFERENCES|CHECK))(?:\s+AUTOINCREMENT)?",
            "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        ),
        (r"\bINTEGER\b", "BIGINT"),
        (r"\bBLOB\b", "BYTEA"),
        (r"\bREAL\b", "DOUBLE PRECISION"),
        (r"(?<!\bAS )\bTEXT\b", 'TEXT COLLATE "C"'),
        (r"\)\s*(?:(?:STRICT|WITHOUT\s+ROWID)[\s,]*)+$", ")"),
    )
]
_DEFINES = re.compile(r"(?:CREATE|ALTER)\s+TABLE\b", re.IGNORECASE)


def rewrite(statement: str) -> str:
    """A statement of a migration for PostgreSQL; strings, quoted names and comments stay as they are.

    In CREATE TABLE and ALTER TABLE, of words in capitals: ``INTEGER``, ``BLOB`` and ``REAL`` become ``BIGINT``,
    ``BYTEA`` and ``DOUBLE PRECISION``; ``TEXT`` sorts by its bytes; a column ``INTEGER PRIMARY KEY`` numbers itself,
    unless ``REFERENCES`` or ``CHECK`` follows; ``STRICT`` and ``WITHOUT ROWID`` at the end disappear.
    Everywhere: ``x'…'`` becomes a byte string.
    """
    text = translate(statement).decode()
    plain = "".join(piece for kind, piece in migrate.pieces(text) if kind != "quoted")
    if not _DEFINES.match(plain.strip()):
        return text
    parts: list[str] = []
    for quoted, group in groupby(migrate.pieces(text), key=lambda piece: piece[0] == "quoted"):
        part = "".join(piece for _, piece in group)
        if not quoted:
            for pattern, replacement in _REWRITES:
                part = pattern.sub(replacement, part)
        parts.append(part)
    return "".join(parts)
