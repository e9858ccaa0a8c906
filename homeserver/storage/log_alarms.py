"""The chain of alarms about logs, in the deployment's directory database: appended to, never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


@asks_once
async def links(tx: Transaction) -> list[bytes]:
    """All links, in their order."""
    return [bytes(row[0]) for row in await tx.all("SELECT link FROM log_alarms ORDER BY number")]


async def next_number(tx: Transaction) -> int:
    """The number of the link that comes next, whatever is missing before it."""
    row = await tx.one("SELECT COALESCE(MAX(number), 0) + 1 FROM log_alarms")
    assert row is not None
    return int(row[0])


async def append(tx: Transaction, number: int, link: bytes) -> None:
    """Add a link. A number that is taken is a violation of the table: somebody else was quicker."""
    await tx.run("INSERT INTO log_alarms (number, link) VALUES (?, ?)", number, link)
