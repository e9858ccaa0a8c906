"""What a database is to the rest of the house: an `Engine` that runs functions in transactions of one node.

A storage function is ``async def verb(tx, ...)``; it is handed a `Transaction` and sees no other
database. The invariant: a transaction belongs to one node, and none is opened inside another.

One SQL text serves SQLite and PostgreSQL. Placeholders are ``?``. A trip to the database costs far
more than a row, so a function should make few calls and queue with `Transaction.later` what it does
not have to wait for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import structlog

Param = str | bytes | int | float | None
"""A value that goes in; ``bool`` is stored as 0 or 1. Text holds no NUL and no lone surrogate; integers are 64 bits."""

Row = tuple[Any, ...]
"""A row that comes out: ``str``, ``bytes``, ``int``, ``float`` or ``None``, the same on both engines."""

T = TypeVar("T")
P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

log = structlog.get_logger("storage")


class DatabaseFault(Exception):
    """A statement that the database refused: wrong SQL, or a constraint. A fault of ours unless caught by name."""


class ConstraintViolation(DatabaseFault):
    """A NOT NULL, CHECK or foreign key constraint refused the row."""


class UniqueViolation(ConstraintViolation):
    """A row with this key exists already."""


class NestedTransaction(RuntimeError):
    """A transaction was opened inside another: a programming error, since a transaction belongs to one node."""


class Transaction(Protocol):
    """One transaction on one node's database.

    After a statement has failed the transaction can only be rolled back, on both engines: whoever
    swallows the error gets `DatabaseFault` from the next statement or from the commit.
    """

    taken: int
    """How many positions were taken in it so far; for `streams`."""

    @property
    def node(self) -> str:
        """The name of the node whose database this is."""
        ...

    async def all(self, sql: str, *params: Param) -> list[Row]:
        """Every row of the answer. One trip."""
        ...

    async def one(self, sql: str, *params: Param) -> Row | None:
        """The first row of the answer, or None when there is none. One trip."""
        ...

    async def run(self, sql: str, *params: Param) -> int:
        """Execute a writing statement and return how many rows it touched. One trip."""
        ...

    async def many(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """Execute a writing statement once for each row of parameters. One trip for all; none for no rows."""
        ...

    def later(self, sql: str, rows: Iterable[Sequence[Param]]) -> None:
        """Queue a writing statement; it is executed, in order, in the trip of the next statement or of the COMMIT.

        Its errors are raised there.
        """
        ...

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` once the transaction is durable, before any later write transaction of the engine runs.

        It is called even when the caller has been cancelled in the meantime; never after a roll-back.
        An exception of a callback is logged and does not reach the caller.
        """
        ...


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a node's database answers."""

    up: bool
    reason: str
    """Why it is down; empty when it is up. For the operator's eyes."""
    since_ms: int
    """When it came to be so, in milliseconds since 1970."""


class Write(Protocol):
    """`Engine.write`, as a value."""

    async def __call__(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `Engine.write`."""
        ...


class Engine(Protocol):
    """The database of one node."""

    node: str
    """Name of the node."""

    kind: str
    """``sqlite`` or ``postgresql``."""

    @property
    def trips(self) -> int:
        """How often the database was asked so far: thread hops on SQLite, round trips on PostgreSQL."""
        ...

    @property
    def violations(self) -> int:
        """How many rows it refused so far because their owner does not reside on the node."""
        ...

    async def open(self, *, create: bool = False) -> None:
        """Connect, apply the pending migrations, and begin to serve.

        With ``create`` a database that is missing or empty is made; without, it counts as unreachable:
        a node whose files are gone must not come back empty. ``create`` holds until the database has been
        reached once.

        An unreachable database is not an error here: the engine is then down, each use raises
        `NodeUnavailable` at once, and it comes back by itself.

        Raises `migrate.SchemaMismatch` when the database is not one that this program can serve.
        """
        ...

    async def close(self) -> None:
        """Wait for running transactions, then disconnect. Later use raises `NodeUnavailable`."""
        ...

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``fn(tx, *args, **kwargs)`` on one unchanging snapshot of the database and return its result.

        Raises what ``fn`` raises, `NodeUnavailable`, `NestedTransaction`, and `DatabaseFault` when it writes.
        """
        ...

    async def write(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``fn(tx, *args, **kwargs)``, commit, and return its result once it is durable.

        When ``fn`` raises, everything is undone. ``fn`` may be called again from its start when the
        database asks for it (serialisation failure, deadlock), so it changes nothing but the database;
        what else it wants to do goes into `Transaction.after_commit`.

        A caller that is cancelled before the COMMIT has been sent leaves nothing behind; one that is
        cancelled later finds all of it or nothing.

        Raises what ``fn`` raises; `NodeUnavailable` when nothing was committed, its child `CommitUnknown` when the
        database was lost in the COMMIT and may have it or not; `ResidencyViolation`, `InvalidParam` for text that
        no database stores, `ConstraintViolation`, `DatabaseFault`, `NestedTransaction`.
        """
        ...

    def alone(self) -> AbstractAsyncContextManager[Write]:
        """Keep every other writer waiting from when all that came before have written; what is yielded is `write` for
        whoever is alone. Readers are not kept.

        For the rare moment in which a database must not change while something happens elsewhere.
        """
        ...

    async def purge(self, tables: Sequence[str]) -> None:
        """Take what was deleted from ``tables`` out of the files of the database, as far as its engine can.

        SQLite has overwritten it where it stood, and lets go here of the write-ahead log, which had it still.
        PostgreSQL is asked to VACUUM: the rows are gone then, and their bytes when their places are needed again.

        Raises NodeUnavailable.
        """
        ...

    def health(self) -> Health:
        """Whether the database answers, as far as is known; asks nothing."""
        ...

    async def probe(self) -> Health:
        """Ask the database now: notices that it has gone, and tries at once to reach one that was down."""
        ...

    def watch(self, callback: Callable[[Health], object]) -> None:
        """Call ``callback(health)`` each time the database goes down or comes back."""
        ...


def asks_once(fn: F) -> F:
    """Mark a storage function that calls its transaction once, whatever it is given.

    Handed to `Engine.read` it needs no BEGIN and no end, since a statement is a snapshot by itself: on PostgreSQL that
    halves what a read costs. A second call raises RuntimeError there. Elsewhere the mark has no meaning.
    """
    fn.__dict__["asks_once"] = True
    return fn


class Scope:
    """Marks the stretch of code that runs inside a transaction, so that a second one is noticed.

    The mark is an object and not a flag in the context: a task that was started inside a transaction
    and outlives it inherits the context, and is free again once the transaction has ended.
    """

    __slots__ = ("_token", "node", "open")

    def __init__(self, node: str) -> None:
        self.node = node
        self.open = True

    def __enter__(self) -> Scope:
        outer = _scope.get()
        if outer is not None and outer.open:
            raise NestedTransaction(f"a transaction on {self.node} was opened inside one on {outer.node}")
        self._token = _scope.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False
        _scope.reset(self._token)


_scope: ContextVar[Scope | None] = ContextVar("transaction", default=None)


def run_callbacks(callbacks: Sequence[Callable[[], object]]) -> None:
    """Call what waited for the commit; one that fails is logged and stops none of the others."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("after_commit failed", callback=getattr(callback, "__qualname__", type(callback).__name__))
