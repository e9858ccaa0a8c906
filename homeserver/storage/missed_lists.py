"""Which nodes have missed word of other servers' device lists, in the deployment's directory database: it could not be
written on the node itself, and must outlive this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


async def note(tx: Transaction, node: str, mark: int) -> None:
    """Note that a node has missed something. ``mark`` tells this from what was noted before, and grows."""
    await tx.run(
        "INSERT INTO missed_lists (node, mark) VALUES (?, ?)"
        " ON CONFLICT (node) DO UPDATE SET mark = CASE WHEN excluded.mark > missed_lists.mark THEN excluded.mark"
        " ELSE missed_lists.mark + 1 END",
        node,
        mark,
    )


async def mark_of(tx: Transaction, node: str) -> int | None:
    """What is noted of a node; None when it has missed nothing."""
    row = await tx.one("SELECT mark FROM missed_lists WHERE node = ?", node)
    return None if row is None else int(row[0])


async def forget(tx: Transaction, node: str, mark: int) -> None:
    """The node has been caught up with; what was noted after this mark stays."""
    await tx.run("DELETE FROM missed_lists WHERE node = ? AND mark = ?", node, mark)
