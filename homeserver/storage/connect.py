"""From the address of a database in the residency policy to its engine.

PostgreSQL's client library is imported only where a node is on it: it takes 12 MB of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from homeserver.runtime.clock import Clock
from homeserver.storage.engine import Engine, Row
from homeserver.storage.migrate import Migration
from homeserver.storage.sqlite.engine import CACHE, READERS, SqliteEngine
from homeserver.storage.sqlite.file import peek as peek_into_file


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a database may take: reading connections to an SQLite file, one more writes; bytes of pages that each of
    them keeps; connections to PostgreSQL, one of which writes."""

    readers: int = READERS
    cache: int = CACHE
    connections: int = 7


def engine_for(
    node: str,
    address: str,
    migrations: Sequence[Migration],
    *,
    root: Path,
    clock: Clock,
    sizes: Sizes | None = None,
) -> Engine:
    """The engine, not open yet, of the node whose database is at ``address``.

    ``sqlite:tehran/node.db`` is a file, relative to ``root`` (the data directory); anything that begins with
    ``postgresql:`` or ``postgres:`` is handed to PostgreSQL's client library. Raises ValueError for the rest.
    """
    sizes = sizes or Sizes()
    scheme, path = _parted(address)
    if scheme == "sqlite":
        readers, cache = sizes.readers, sizes.cache
        return SqliteEngine(node, root / path, migrations, clock=clock, readers=readers, cache=cache)
    from homeserver.storage.postgres.engine import PostgresEngine

    return PostgresEngine(node, address, migrations, clock=clock, connections=sizes.connections - 1)


async def peek(address: str, table: str, sql: str, *, root: Path) -> list[Row]:
    """The rows of a query, from a database that is neither opened for work nor changed; none if ``table`` is not there.

    Raises Unreachable, also for an SQLite file that does not exist.
    """
    scheme, path = _parted(address)
    if scheme == "sqlite":
        return await asyncio.to_thread(peek_into_file, root / path, table, sql)
    from homeserver.storage.postgres.engine import peek as peek_into_server

    return await peek_into_server(address, table, sql)


def _parted(address: str) -> tuple[str, str]:
    scheme, _, rest = address.partition(":")
    if (scheme == "sqlite" and rest) or scheme in ("postgresql", "postgres"):
        return scheme, rest
    raise ValueError(f"{address!r} is neither sqlite:PATH nor postgresql://…")
