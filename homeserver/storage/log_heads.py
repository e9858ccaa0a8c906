"""How far each node's key log has been shown to the world, in the deployment's directory database: apart from the log,
so that a node that comes back from a backup does not take its own word for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.checkpoints import Head
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


@asks_once
async def of(tx: Transaction, node: str) -> Head | None:
    """The newest head that was shown; None while none was."""
    row = await tx.one("SELECT size, root FROM log_heads WHERE node = ?", node)
    return None if row is None else Head(int(row[0]), bytes(row[1]))


async def note(tx: Transaction, node: str, head: Head) -> None:
    """Note what is about to be shown. A smaller one does not replace a larger one."""
    await tx.run(
        "INSERT INTO log_heads (node, size, root) VALUES (?, ?, ?)"
        " ON CONFLICT (node) DO UPDATE SET size = excluded.size, root = excluded.root"
        " WHERE excluded.size >= log_heads.size",
        node,
        *head,
    )
