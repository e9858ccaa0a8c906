"""Which jurisdictions are isolated, since when and why: in the directory, for it concerns all nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Isolation(NamedTuple):
    """An isolation that has been declared: of a jurisdiction, since when (milliseconds since 1970), and why."""

    jurisdiction: str
    since_ts: int
    reason: str


async def put(tx: Transaction, isolation: Isolation) -> bool:
    """Declare an isolation; False when it was declared before."""
    sql = "INSERT INTO isolations (jurisdiction, since_ts, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    return await tx.run(sql, *isolation) > 0


async def remove(tx: Transaction, jurisdiction: str) -> bool:
    """End an isolation; False when there was none."""
    return await tx.run("DELETE FROM isolations WHERE jurisdiction = ?", jurisdiction) > 0


async def every(tx: Transaction) -> list[Isolation]:
    """All that are declared."""
    rows = await tx.all("SELECT jurisdiction, since_ts, reason FROM isolations ORDER BY jurisdiction")
    return [Isolation(*row) for row in rows]
