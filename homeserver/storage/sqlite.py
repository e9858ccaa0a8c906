"""SQLite, embedded: one writer and a few readers on one file, each with a thread of its own (aiosqlite).

The invariants: writers wait in line and each finds the transaction of the one before it finished,
whatever became of its caller; a database file is made only when asked for, and one that was moved
away is missed at once, never made anew.

A call costs one hop to a thread. BEGIN rides in the hop of the first statement and queued writes in
that of the next, so a transaction of queued writes only is a single hop; a reader's snapshot is
ended without waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Concatenate, TypeVar

import aiosqlite

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

READERS = 3
CACHE = 8 * 2**20
"""Bytes of pages that each connection keeps."""
BUSY_SECONDS = 5
"""How long another process may hold the file's write lock before this one gives up."""
WAIT_SECONDS = 10.0
"""How long a read may wait for a reader."""
STATEMENTS = 400
"""Prepared statements that each connection keeps."""

# No memory-mapped reads (mmap_size 0): a failing disk would then be a SIGBUS that takes all nodes with it, where
# pread gives an error that takes one. secure_delete: what is erased is overwritten, in the file and not in a promise.
PRAGMAS = (
    f"busy_timeout = {BUSY_SECONDS * 1000}",
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "mmap_size = 0",
    "journal_size_limit = 67108864",
    "secure_delete = ON",
    "temp_store = MEMORY",
)

V = TypeVar("V")
Identity = tuple[int, int]
"""Device and inode: what a file is, whatever its name."""

READ = "BEGIN DEFERRED"
WRITE = "BEGIN IMMEDIATE"

_FAILED = "an earlier statement of this transaction failed: it can only be rolled back"

_LOST = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""Primary result codes after which the connections are made anew."""
_PRESSED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}
"""Primary result codes that pass: the connection stays."""
_TAKEN = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}


class _Lost(Exception):
    """The file is gone or fails: this connection is of no more use."""


class _Pressed(Exception):
    """The database cannot do it now: busy, or the disk is full."""


class _Connection(aiosqlite.Connection):
    """A connection that runs one function of ours in its thread per hop.

    aiosqlite offers one hop per statement. Its queue is used directly, and not its public methods,
    because a transaction needs several statements in one hop, and because the order of the queue is
    what makes a roll-back after a cancelled caller, and the end of a snapshot, safe without waiting.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, 64)
        self._thread.daemon = True  # a process that dies of an error must not hang in this thread
        self.raw: sqlite3.Connection | None = None
        self.retired: asyncio.Future[Any] | None = None

    async def connect(self) -> None:
        """Start the thread and open the file in it. Raises what the connector raises."""
        await self
        self.raw = self._conn

    def post(self, job: Callable[[], V]) -> asyncio.Future[V]:
        """Run ``job()`` in the thread, after all that was posted before."""
        if self.retired is not None:
            raise _Lost("the connection was closed")
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, job))
        return future

    def post_unwatched(self, job: Callable[[], object]) -> None:
        """Like `post`, for what nobody waits for; the job must not raise."""
        if self.retired is None:
            self._tx.put_nowait((None, job))

    def retire(self) -> asyncio.Future[Any]:
        """Close after all that was posted before; nothing can be posted any more."""
        if self.retired is None:
            self.retired = self.stop()
            assert self.retired is not None
        return self.retired


class _Transaction:
    """A transaction on one connection. ``begun``, ``committed`` and ``failed`` are written by the thread."""

    def __init__(self, engine: SqliteEngine, connection: _Connection, begin: str) -> None:
        self.node = engine.node
        self._engine = engine
        self.connection = connection
        assert connection.raw is not None
        self._raw = connection.raw
        self._begin = begin
        self._writing = begin != READ
        self._queue: list[tuple[str, list[Sequence[Param]]]] = []
        self.callbacks: list[Callable[[], object]] = []
        self.posted = False
        self.begun = False
        self.committed = False
        self.failed = False
        self.ended = False

    async def all(self, sql: str, *params: Param) -> list[Row]:
        """See `Transaction.all`."""
        return await self._hop(lambda: self._execute(sql, params).fetchall(), sql, (params,))

    async def one(self, sql: str, *params: Param) -> Row | None:
        """See `Transaction.one`."""

        def first() -> Row | None:
            cursor = self._execute(sql, params)
            row: Row | None = cursor.fetchone()
            cursor.close()  # an unfinished SELECT would hold up the COMMIT
            return row

        return await self._hop(first, sql, (params,))

    async def run(self, sql: str, *params: Param) -> int:
        """See `Transaction.run`."""

        def count() -> int:
            cursor = self._execute(sql, params)
            cursor.fetchall()
            return cursor.rowcount

        return await self._hop(count, sql, (params,))

    async def many(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """See `Transaction.many`."""
        batch = list(rows)
        if batch:
            await self._hop(lambda: self._execute_many(sql, batch), sql, batch)

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
        """Make it durable; costs nothing when nothing was asked of the database."""
        self._check()
        if self.posted or self._queue:
            await self._hop(self._commit, "COMMIT", ())
        else:
            self.committed = True

    def rollback(self) -> None:
        """In the thread: undo what was not committed."""
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    def end_snapshot(self) -> None:
        """In the thread: let go of a reader's snapshot. Must not raise: nobody waits for it."""
        try:
            self.rollback()
        except sqlite3.Error:
            self._raw.close()  # the next use of this reader notices

    def _check(self) -> None:
        if self.ended:
            raise RuntimeError("the transaction has ended")
        if self.failed:
            raise DatabaseFault(_FAILED)

    def _hop(self, work: Callable[[], V], sql: str, rows: Sequence[Sequence[Param]]) -> asyncio.Future[V]:
        self._check()
        queue, self._queue = self._queue, []
        engine = self._engine

        def job() -> V:
            current, batch = sql, rows
            if self.failed:  # what was posted together with it; on its own it would commit itself
                raise DatabaseFault(_FAILED)
            try:
                if not self.begun:
                    engine.look()
                    self._raw.execute(self._begin)
                    self.begun = True
                for current, batch in queue:
                    self._execute_many(current, batch)
                current, batch = sql, rows
                return work()
            except BaseException as fault:
                self.failed = True
                meaning = self._explain(fault, current, batch)
                if meaning is fault:
                    raise
                raise meaning from fault

        engine.trips += 1
        self.posted = True
        return self.connection.post(job)

    def _commit(self) -> None:
        self._raw.execute("COMMIT")
        self.committed = True

    def _execute(self, sql: str, params: Sequence[Param]) -> sqlite3.Cursor:
        _refuse_nul(params)
        return self._raw.execute(sql, params)

    def _execute_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> None:
        for row in rows:
            _refuse_nul(row)
        self._raw.executemany(sql, rows)

    def _explain(self, fault: BaseException, sql: str, rows: Sequence[Sequence[Param]]) -> BaseException:
        """In the thread, after a failure: undo everything, and say what it means."""
        meaning = _meaning(fault)
        if _code(fault) == sqlite3.SQLITE_READONLY and not self._writing:
            meaning = DatabaseFault("a read does not write")
        try:
            if _code(fault) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY and _is_foreign(self._raw, sql, rows):
                self._engine.violations += 1
                log.error("residency violation", node=self.node, sql=sql)
                meaning = ResidencyViolation(f"A row was refused: its owner does not reside on {self.node}")
            self.rollback()
        except sqlite3.Error as second:
            return _meaning(second)
        return meaning


class SqliteEngine:
    """The `Engine` of a node whose database is a file."""

    def __init__(
        self,
        node: str,
        path: Path,
        migrations: Sequence[migrate.Migration] = (),
        *,
        clock: Clock,
        readers: int = READERS,
        cache: int = CACHE,
    ) -> None:
        self.node = node
        self.trips = 0
        self.violations = 0
        self._path = path
        self._cache = cache
        self._migrations = migrations
        self._create = False
        self._identity: Identity | None = None  # of the file that is open
        self._last: tuple[Identity | None, Identity | None] = (None, None)  # the file that was open, and its log
        self._writer: _Connection | None = None
        self._line = asyncio.Lock()  # first come, first served; held by the transaction, not by its caller
        self._readers = readers
        self._seats = asyncio.Semaphore(readers)
        self._idle: list[_Connection] = []  # the last one used is taken first: its cache is warm
        self._open: set[_Connection] = set()
        self._closing: set[asyncio.Future[Any]] = set()
        self._circuit = Circuit(node, clock, self._connect)

    async def open(self, *, create: bool = False) -> None:
        """See `Engine.open`."""
        self._create = create  # until it has been reached once
        await self._circuit.start()

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._circuit.stop()
        async with self._line:
            for _ in range(self._readers):
                await self._seats.acquire()
            # The writer last and alone: only who is alone can take the write-ahead log into the file and away.
            ending = [connection.retire() for connection in self._open if connection is not self._writer]
            while ending := [future for future in {*ending, *self._closing} if not future.done()]:
                await asyncio.wait(ending)
            self._retire()
            for _ in range(self._readers):
                self._seats.release()
        while self._closing:
            await asyncio.wait(self._closing)

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
            reader = await self._take()
            tx = _Transaction(self, reader, READ)
            try:
                result = await fn(tx, *args, **kwargs)
                tx.committed = True
            except (_Lost, _Pressed) as fault:
                raise self._unavailable(fault) from fault
            finally:
                tx.ended = True
                if tx.posted:
                    reader.post_unwatched(tx.end_snapshot)
                self._give_back(reader)
        run_callbacks(tx.callbacks)
        return result

    async def write(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Engine.write`."""
        self._circuit.check()
        with Scope(self.node):
            await self._line.acquire()
            if self._writer is None:
                self._line.release()
                raise NodeUnavailable(self.node)
            tx = _Transaction(self, self._writer, WRITE)
            try:
                result = await fn(tx, *args, **kwargs)
                await tx.commit()
            except BaseException as fault:
                self._abandon(tx)
                if isinstance(fault, _Lost | _Pressed):
                    raise self._unavailable(fault) from fault
                raise
        self._settle(tx)
        return result

    def look(self) -> None:
        """In a thread: is the file that is open still the one at the path? Raises `_Lost`."""
        try:
            found = _identify(self._path)
        except OSError as fault:
            raise _Lost(f"{self._path}: {fault.strerror}") from fault
        if found != self._identity:
            raise _Lost(f"{self._path} is another file now")

    def _abandon(self, tx: _Transaction) -> None:
        """Undo a transaction whose caller failed or went away, and only then let the next one in.

        A COMMIT that was on its way may have succeeded: the queue of the thread says so in order.
        """
        tx.ended = True
        if not tx.posted:
            self._settle(tx)
            return
        connection = tx.connection
        done = connection.retired or connection.post(tx.rollback)
        done.add_done_callback(lambda done: self._settle(tx, done))

    def _settle(self, tx: _Transaction, done: asyncio.Future[Any] | None = None) -> None:
        """The database has finished with a write: tell who waited for the commit, then let the next one in."""
        tx.ended = True
        if done is not None and not done.cancelled() and done.exception() is not None:
            self._lose(str(done.exception()))
        try:
            if tx.committed:
                run_callbacks(tx.callbacks)
        finally:
            self._line.release()

    def _unavailable(self, fault: _Lost | _Pressed) -> NodeUnavailable:
        if isinstance(fault, _Lost):
            self._lose(str(fault))
        else:
            log.warning("the database is pressed", node=self.node, reason=str(fault))
        return NodeUnavailable(self.node)

    def _lose(self, reason: str) -> None:
        if self._circuit.health.up:
            self._retire()
            self._circuit.trip(reason)

    def _retire(self) -> None:
        """Close every connection once it has done what it was given."""
        for connection in self._open:
            future = connection.retire()
            self._closing.add(future)
            future.add_done_callback(self._closing.discard)
        self._open.clear()
        self._idle.clear()
        self._writer = None

    async def _take(self) -> _Connection:
        if self._seats.locked():
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._seats.acquire()
            except TimeoutError as fault:
                raise NodeUnavailable(self.node) from fault
        else:
            await self._seats.acquire()
        try:
            self._circuit.check()
            if self._idle:
                return self._idle.pop()
            return await self._make("query_only = ON")
        except BaseException as fault:
            self._seats.release()
            if isinstance(fault, Unreachable):
                self._lose(str(fault))
                raise NodeUnavailable(self.node) from fault
            raise

    def _give_back(self, reader: _Connection) -> None:
        if reader.retired is None:
            self._idle.append(reader)
        self._seats.release()

    async def _make(self, *more: str, create: bool = False) -> _Connection:
        pragmas = (*PRAGMAS, f"cache_size = -{max(1, self._cache // 1024)}", *more)
        connection = _Connection(lambda: self._open_file(pragmas, create))
        opening = asyncio.ensure_future(connection.connect())
        try:
            await asyncio.shield(opening)
        except (sqlite3.Error, OSError, _Lost) as fault:
            raise Unreachable(f"{self._path}: {fault}") from fault
        except asyncio.CancelledError:  # the file is open in a moment, and must not stay so
            closing = asyncio.ensure_future(self._discard(connection, opening))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        self._open.add(connection)
        return connection

    @staticmethod
    async def _discard(connection: _Connection, opening: asyncio.Future[None]) -> None:
        with contextlib.suppress(sqlite3.Error, OSError, _Lost):
            await opening
            await connection.retire()

    def _open_file(self, pragmas: Sequence[str], create: bool) -> sqlite3.Connection:
        """In a thread: open the file with all settings made."""
        if create:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # nobody else's to read
        self._refuse_mixture()
        raw = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            cached_statements=STATEMENTS,
            check_same_thread=False,
        )
        try:
            for pragma in pragmas:
                raw.execute(f"PRAGMA {pragma}").fetchall()
            if raw.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                raise _Lost(f"{self._path}: this file system cannot hold a write-ahead log")
            if self._identity is not None:
                self.look()
        except BaseException:
            raw.close()
            raise
        return raw

    async def _connect(self) -> None:
        """Open the writer, bring the schema up to date. For the circuit."""
        self._identity = None
        writer = await self._make(create=self._create)
        try:
            await writer.post(lambda: self._prepare(writer))
        except BaseException as fault:
            self._retire()
            if isinstance(fault, OSError) or isinstance(_meaning(fault), _Lost | _Pressed):
                raise Unreachable(str(fault)) from fault
            raise
        self._writer = writer
        self._create = False

    def _prepare(self, writer: _Connection) -> None:
        """In the writer's thread: note which file it is, and apply the pending migrations, each as a whole."""
        raw = writer.raw
        assert raw is not None
        self._identity = _identify(self._path)
        while self._pending(raw):
            raw.execute(WRITE)  # another process may be at it too: look again, under the lock
            try:
                for migration in self._pending(raw)[:1]:
                    self._apply(raw, migration)
                raw.execute("COMMIT")
            finally:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
        self._last = (self._identity, self._log())

    def _pending(self, raw: sqlite3.Connection) -> list[migrate.Migration]:
        known = raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone()
        applied = raw.execute(migrate.READ).fetchall() if known else []
        return migrate.pending(self.node, self._migrations, applied, create=self._create)

    def _apply(self, raw: sqlite3.Connection, migration: migrate.Migration) -> None:
        try:
            raw.execute(migrate.LEDGER)
            for statement in migrate.statements(migration.sql, "sqlite"):
                raw.execute(statement)
            raw.execute(migrate.RECORD, (migration.number, migration.name, migration.digest))
        except (sqlite3.Error, sqlite3.Warning) as fault:
            if isinstance(_meaning(fault), DatabaseFault):
                raise migrate.failed(self.node, migration, fault) from fault
            raise

    def _log(self) -> Identity | None:
        try:
            return _identify(f"{self._path}-wal")
        except FileNotFoundError:
            return None

    def _refuse_mixture(self) -> None:
        """SQLite would replay into a file the log that was left of another: what is there would be neither's."""
        file, log = self._last
        if file is not None and log is not None and log == self._log() and file != _identify(self._path):
            raise _Lost(
                f"{self._path} was replaced, but the write-ahead log beside it is still that of the file before: "
                "put that file back, or remove what ends in -wal and -shm too"
            )


def peek(path: Path, table: str, sql: str) -> list[Row]:
    """The rows of a query, read without changing anything; none if ``table`` is not there. Raises Unreachable.

    A file without a write-ahead log is in nobody's use: reading it as unchanging makes none.
    """
    quiet = not Path(f"{path}-wal").exists()
    try:
        raw = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if quiet else ''}", uri=True)
        with contextlib.closing(raw):
            known = raw.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            return raw.execute(sql).fetchall() if known else []
    except (sqlite3.Error, OSError) as fault:
        raise Unreachable(f"{path}: {fault}") from fault


def _identify(path: Path | str) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino


async def _ask(tx: Transaction) -> None:
    await tx.one("SELECT 1")


def _refuse_nul(params: Sequence[Param]) -> None:
    """SQLite would store a NUL character in text; PostgreSQL does not, so neither engine takes it."""
    for param in params:
        if type(param) is str and "\0" in param:
            raise InvalidParam("Text must not contain NUL characters")


def _code(fault: BaseException) -> int:
    """The extended result code of SQLite, or -1 when it is no error of SQLite."""
    code = getattr(fault, "sqlite_errorcode", None)
    return code if isinstance(code, int) else -1


def _meaning(fault: BaseException) -> BaseException:
    """What a failure in the thread means to the caller."""
    code = _code(fault)
    if code & 0xFF in _LOST and code != -1:
        return _Lost(str(fault))
    if code & 0xFF in _PRESSED and code != -1:
        return _Pressed(str(fault))
    if code in _TAKEN:
        return UniqueViolation(str(fault))
    if isinstance(fault, sqlite3.IntegrityError):
        return ConstraintViolation(str(fault))
    if isinstance(fault, UnicodeEncodeError):
        return InvalidParam("Text must be valid Unicode")
    if isinstance(fault, OverflowError):
        return InvalidParam("Integers must have at most 64 bits")
    if isinstance(fault, sqlite3.ProgrammingError) and "closed database" in str(fault):
        return _Lost(str(fault))
    if isinstance(fault, sqlite3.Error | sqlite3.Warning):
        return DatabaseFault(str(fault))
    return fault


_TABLE = re.compile(r"(?:INTO|UPDATE(?:\s+OR\s+\w+)?)\s+\"?(\w+)", re.IGNORECASE)


def _is_foreign(raw: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Param]]) -> bool:
    """Was it the reference to ``residents`` that a statement broke? SQLite does not say which it was.

    The statement is repeated with the check put off, so that the rows can be looked at; the caller
    rolls back. Only for the tables that refer to something else as well are rows looked at.
    """
    if sql == "COMMIT":  # a check that was put off: the rows are there, in any table
        names = raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return any(_has_strays(raw, name, _owners(raw, name)[0]) for (name,) in names)
    match = _TABLE.search(sql)
    if match is None:
        return False
    owners, others = _owners(raw, match[1])
    if not owners or not others:
        return bool(owners)
    raw.execute("PRAGMA defer_foreign_keys = ON")
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):  # a row before the refused one: it is there already
            raw.execute(sql, row).fetchall()
    return _has_strays(raw, match[1], owners)


def _owners(raw: sqlite3.Connection, table: str) -> tuple[list[str], bool]:
    """The columns of a table that refer to ``residents``, and whether others refer to something else."""
    references = raw.execute(f'PRAGMA foreign_key_list("{table}")').fetchall()
    owners = [column for _, _, target, column, *_ in references if target == "residents"]
    return owners, len(owners) < len(references)


def _has_strays(raw: sqlite3.Connection, table: str, owners: Iterable[str]) -> bool:
    strays = 'SELECT 1 FROM "{}" WHERE "{}" NOT IN (SELECT user_nid FROM residents) LIMIT 1'
    return any(raw.execute(strays.format(table, owner)).fetchone() for owner in owners)
