"""What tests share: asyncio under pytest-twisted, and engines of both databases.

An async test is written ``@aio``. The fixture ``engines`` gives a test that runs once on SQLite and
once on PostgreSQL a `Databases` that makes engines; PostgreSQL is the server named by the
environment variable ``DOMICILE_TEST_POSTGRES`` (``scripts/postgres`` starts one).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock, SystemClock
from homeserver.storage.engine import Engine
from homeserver.storage.migrate import Migration
from homeserver.storage.postgres import PostgresEngine
from homeserver.storage.sqlite import SqliteEngine

T = TypeVar("T")
P = ParamSpec("P")

POSTGRES = "DOMICILE_TEST_POSTGRES"
TIMEOUT = 60.0
"""Seconds after which a test that hangs fails."""


def aio(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Deferred[None]]:
    """Make a test of a coroutine function: it runs as an asyncio task in Twisted's event loop."""

    @functools.wraps(test)
    def bridged(*args: P.args, **kwargs: P.kwargs) -> Deferred[None]:
        async def limited() -> None:
            async with asyncio.timeout(TIMEOUT):
                await test(*args, **kwargs)

        return Deferred.fromFuture(asyncio.ensure_future(limited()))

    return bridged


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from a fixture, which is not async itself."""
    from twisted.internet import reactor  # not above: importing it installs it, and pytest-twisted chooses which

    done: Deferred[T] = Deferred()

    def start() -> None:
        async def limited() -> T:
            async with asyncio.timeout(TIMEOUT):
                return await coroutine

        Deferred.fromFuture(asyncio.ensure_future(limited())).chainDeferred(done)

    reactor.callLater(0.0, start)  # type: ignore[arg-type]  # typed as a module, and is an object
    result: T = pytest_twisted.blockon(done)
    return result


class Databases:
    """Makes engines on one kind of database, each test's apart from every other's."""

    _serial = itertools.count()

    def __init__(self, kind: str, directory: Path, url: str = "") -> None:
        self.kind = kind
        self.directory = directory
        self._url = url
        self._schema = f"t{os.getpid()}_{next(self._serial)}"
        self._made: list[Engine] = []

    def url(self, node: str) -> str:
        """Where the database of a node is; the same name gives the same database within a test."""
        if self.kind == "sqlite":
            return f"sqlite:{node}/node.db"
        joint = "&" if "?" in self._url else "?"
        return f"{self._url}{joint}options={quote(f'-csearch_path={self._schema}_{node}')}"

    def engine(
        self, node: str = "tehran", migrations: Sequence[Migration] = (), *, clock: Clock | None = None
    ) -> Engine:
        """An engine that is not open yet, for the node's database; closed when the test ends."""
        clock = clock or SystemClock()
        engine: Engine
        if self.kind == "sqlite":
            engine = SqliteEngine(node, self.directory / node / "node.db", migrations, clock=clock)
        else:
            engine = PostgresEngine(node, self.url(node), migrations, clock=clock)
        self._made.append(engine)
        return engine

    async def open(self, node: str = "tehran", migrations: Sequence[Migration] = ()) -> Engine:
        """An open engine on the node's database, which is created when it does not exist."""
        engine = self.engine(node, migrations)
        await engine.open(create=True)
        return engine

    async def close(self) -> None:
        """Close every engine that was made."""
        for engine in self._made:
            await engine.close()


@pytest.fixture(params=["sqlite", "postgres"])
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Databases]:
    """Databases of either kind; the test runs once for each."""
    url = os.environ.get(POSTGRES, "")
    if request.param == "postgres" and not url:
        pytest.skip(f"{POSTGRES} is not set")
    databases = Databases(request.param, tmp_path, url)
    yield databases
    finish(databases.close())
