"""What tests share: asyncio under pytest-twisted, and engines of both databases.

An async test is written ``@aio``. The fixture ``engines`` gives a test that runs once on SQLite and
once on PostgreSQL a `Databases` that makes engines; PostgreSQL is the server named by the
environment variable ``DOMICILE_TEST_POSTGRES`` (``scripts/postgres`` starts one).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import pytest_twisted
from psycopg.sql import SQL, Identifier
from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock, SystemClock
from homeserver.storage.connect import engine_for
from homeserver.storage.engine import Engine
from homeserver.storage.migrate import Migration
from tests.proxy import Proxy
from tests.schemas import Schemas

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


def waits(test: Callable[..., None]) -> Callable[..., None]:
    """A test that is no coroutine and calls `finish`, as fixtures do, so that it can repeat itself as it likes."""
    test.waits = True  # type: ignore[attr-defined]  # conftest.py asks for it
    return test


@functools.cache
def schemas_of(url: str) -> Schemas:
    """The schemas that tests hand on to one another on a server."""
    return Schemas(url)


class Databases:
    """Makes engines on one kind of database, each test's apart from every other's."""

    _serial = itertools.count()

    def __init__(self, kind: str, directory: Path, url: str = "") -> None:
        self.kind = kind
        self.directory = directory
        self._url = url
        self._schema = f"t{os.getpid()}_{next(self._serial)}"
        self._schemas: dict[str, str] = {}
        self._kept: dict[str, tuple[str, str]] = {}
        self._made: list[Engine] = []
        self._proxies: dict[str, Proxy] = {}

    def url(self, node: str) -> str:
        """Where the database of a node is; the same name gives the same database within a test."""
        if self.kind == "sqlite":
            return f"sqlite:{node}/node.db"
        url = urlsplit(self._url)
        if node in self._proxies:
            user, _, _ = url.netloc.rpartition("@")
            url = url._replace(netloc=f"{user}@127.0.0.1:{self._proxies[node].port}")
        name = self._schemas.setdefault(node, f"{self._schema}_{node}")
        schema = f"options={quote(f'-csearch_path={name}')}"
        return url._replace(query="&".join(filter(None, (url.query, schema)))).geturl()

    def engine(
        self, node: str = "tehran", migrations: Sequence[Migration] = (), *, clock: Clock | None = None
    ) -> Engine:
        """An engine that is not open yet, for the node's database; closed when the test ends."""
        engine = engine_for(node, self.url(node), migrations, root=self.directory, clock=clock or SystemClock())
        self._made.append(engine)
        return engine

    async def make_breakable(self, node: str = "tehran") -> None:
        """Before the node's engine is made: allow `take_away` for it."""
        if self.kind == "postgres":
            url = urlsplit(self._url)
            proxy = self._proxies[node] = Proxy(url.hostname or "127.0.0.1", url.port or 5432)
            await proxy.open()

    def overhear(self, node: str = "tehran") -> bytearray:
        """What is said to the node's PostgreSQL from now on, once it can be taken away."""
        self._proxies[node].overheard = said = bytearray()
        return said

    async def take_away(self, node: str = "tehran") -> None:
        """Make the node's database unreachable: its directory is moved, or the server's port closed."""
        if self.kind == "sqlite":
            (self.directory / node).rename(self.directory / f"{node}.away")
        else:
            await self._proxies[node].close()

    def silence(self, node: str = "tehran") -> None:
        """Let the node's PostgreSQL no longer answer, though its port is open; until `take_away`."""
        self._proxies[node].silence()

    def silence_answers(self, node: str = "tehran") -> None:
        """Let the node's PostgreSQL hear, but not be heard; until `take_away`."""
        self._proxies[node].silence_answers()

    async def take_away_with_what_is_held(self, node: str = "tehran") -> None:
        """`take_away` a PostgreSQL that was silenced, once something has been said that does not arrive."""
        await self._proxies[node].holds.wait()
        await self.take_away(node)

    async def bring_back(self, node: str = "tehran") -> None:
        """Undo `take_away`."""
        if self.kind == "sqlite":
            (self.directory / f"{node}.away").rename(self.directory / node)
        else:
            await self._proxies[node].open()

    async def open(self, node: str = "tehran", migrations: Sequence[Migration] = ()) -> Engine:
        """An open engine on the node's database, which is created when it does not exist."""
        keep = self.kind == "postgres" and bool(migrations) and node not in self._schemas
        if keep:
            kind = _kind(node, migrations)
            self._schemas[node] = schemas_of(self._url).take(kind)
            self._kept[node] = kind, self._schemas[node]
        engine = self.engine(node, migrations)
        if self.kind == "sqlite" and migrations:
            _put(self.directory / node / "node.db", await _empty_file(node, migrations))
        await engine.open(create=True)
        if keep:
            await schemas_of(self._url).remember(*self._kept[node])
        return engine

    async def close(self) -> None:
        """Close every engine that was made."""
        for engine in self._made:
            await engine.close()
        for proxy in self._proxies.values():
            await proxy.close()
        for kind, schema in self._kept.values():
            await schemas_of(self._url).give_back(kind, schema)
        if self.kind == "postgres" and len(self._schemas) > len(self._kept):
            await self._drop_schemas()

    async def _drop_schemas(self) -> None:
        """Leave nothing in the server that other tests use."""
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        async with connection:
            schemas = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)"
            for (schema,) in await (await connection.execute(schemas, (f"{self._schema}_",))).fetchall():
                await connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))


ON_SQLITE = pytest.mark.parametrize("engines", ["sqlite"], indirect=True)
"""For tests that are about no database: they run once."""


def _kind(node: str, migrations: Sequence[Migration]) -> str:
    """What a database is that these migrations make; their ledger names the node."""
    return " ".join((node, *(migration.digest for migration in migrations)))


_empty: dict[str, bytes] = {}
"""Database files with all tables made, by kind: writing one is quicker than making one."""


async def _empty_file(node: str, migrations: Sequence[Migration]) -> bytes:
    """A database file that the migrations have made."""
    kind = _kind(node, migrations)
    if kind not in _empty:
        with TemporaryDirectory() as directory:
            engine = engine_for(node, "sqlite:node.db", migrations, root=Path(directory), clock=SystemClock())
            await engine.open(create=True)
            await engine.close()
            with open(f"{directory}/node.db", "rb") as file:  # noqa: ASYNC230 - nobody waits but the test
                _empty[kind] = file.read()
    return _empty[kind]


def _put(path: Path, content: bytes) -> None:
    """Make a file that only its owner reads, unless there is one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(content)


@pytest.fixture(params=["sqlite", "postgres"])
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Databases]:
    """Databases of either kind; the test runs once for each."""
    url = os.environ.get(POSTGRES, "")
    if request.param == "postgres" and not url:
        pytest.skip(f"{POSTGRES} is not set")
    databases = Databases(request.param, tmp_path, url)
    yield databases
    finish(databases.close())
