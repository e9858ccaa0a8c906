"""From the address of a database in the residency policy to its engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from homeserver.runtime.clock import Clock
from homeserver.storage.engine import Engine
from homeserver.storage.migrate import Migration
from homeserver.storage.postgres import PostgresEngine
from homeserver.storage.sqlite import SqliteEngine


def engine_for(node: str, address: str, migrations: Sequence[Migration], *, root: Path, clock: Clock) -> Engine:
    """The engine, not open yet, of the node whose database is at ``address``.

    ``sqlite:tehran/node.db`` is a file, relative to ``root`` (the data directory); anything that begins with
    ``postgresql:`` or ``postgres:`` is handed to PostgreSQL's client library. Raises ValueError for the rest.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "sqlite" and rest:
        return SqliteEngine(node, root / rest, migrations, clock=clock)
    if scheme in ("postgresql", "postgres"):
        return PostgresEngine(node, address, migrations, clock=clock)
    raise ValueError(f"{address!r} is neither sqlite:PATH nor postgresql://…")
