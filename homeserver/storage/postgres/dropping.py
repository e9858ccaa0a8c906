"""Dropping the tables of a node that was given up: PostgreSQL deletes their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg.sql import SQL, Identifier

from homeserver.storage.circuit import Unreachable
from homeserver.storage.postgres.connection import CONNECT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence


async def drop(url: str, tables: Sequence[str]) -> None:
    """Drop tables, all or none. Raises Unreachable."""
    try:
        session = await psycopg.AsyncConnection.connect(url, connect_timeout=CONNECT_SECONDS)
        async with session:
            names = SQL(", ").join(Identifier(name) for name in tables)
            await session.execute(SQL("DROP TABLE IF EXISTS {} CASCADE").format(names))
    except psycopg.Error as fault:
        raise Unreachable(str(fault).strip()) from fault
