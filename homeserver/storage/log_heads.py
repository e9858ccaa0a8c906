"""How far each node's key log has been shown to the world, in the deployment's directory database: apart from the log,
so that a node that comes back from a backup does not take its own word for it.

A log that cannot go on is followed by another, under another name: its generation is counted here, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.checkpoints import Head
from homeserver.protocol.merkle import EMPTY_ROOT
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Noted(NamedTuple):
    """Which log of a node goes on, and the newest head of it that was shown."""

    generation: int = 1
    head: Head = Head(0, EMPTY_ROOT)


class Ended(NamedTuple):
    """A log that does not go on. ``ended_ts`` in milliseconds since 1970."""

    node: str
    generation: int
    head: Head
    ended_ts: int
    reason: str


@asks_once
async def of(tx: Transaction, node: str) -> Noted:
    """How far the log of a node was shown."""
    row = await tx.one("SELECT generation, size, root FROM log_heads WHERE node = ?", node)
    return Noted() if row is None else Noted(int(row[0]), Head(int(row[1]), bytes(row[2])))


async def note(tx: Transaction, node: str, generation: int, head: Head) -> None:
    """Note what is about to be shown. A smaller one does not replace a larger one, nor one of a log that has ended."""
    await tx.run(
        "INSERT INTO log_heads (node, generation, size, root) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (node) DO UPDATE SET size = excluded.size, root = excluded.root"
        " WHERE excluded.generation = log_heads.generation AND excluded.size >= log_heads.size",
        node,
        generation,
        *head,
    )


async def learn(tx: Transaction, node: str, generation: int) -> None:
    """Note that a node has a later log than the directory knows of."""
    await tx.run(
        "INSERT INTO log_heads (node, generation, size, root) VALUES (?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET"
        " generation = excluded.generation, size = excluded.size, root = excluded.root"
        " WHERE excluded.generation > log_heads.generation",
        node,
        generation,
        *Noted().head,
    )


async def end(tx: Transaction, node: str, now_ms: int, reason: str) -> Noted:
    """Note that the log of a node does not go on; returns how far it was shown."""
    before = await of(tx, node)
    await tx.run(
        "INSERT INTO ended_logs (node, generation, size, root, ended_ts, reason) VALUES (?, ?, ?, ?, ?, ?)",
        node,
        before.generation,
        *before.head,
        now_ms,
        reason,
    )
    return before


async def begin_anew(tx: Transaction, node: str, now_ms: int, reason: str) -> Noted:
    """End the log of a node, and count the next one, of which nothing has been shown."""
    before = await end(tx, node, now_ms, reason)
    after = Noted(before.generation + 1)
    await tx.run(
        "INSERT INTO log_heads (node, generation, size, root) VALUES (?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET"
        " generation = excluded.generation, size = excluded.size, root = excluded.root",
        node,
        after.generation,
        *after.head,
    )
    return after


async def ended(tx: Transaction) -> list[Ended]:
    """All logs that do not go on."""
    rows = await tx.all(
        "SELECT node, generation, size, root, ended_ts, reason FROM ended_logs ORDER BY node, generation"
    )
    return [Ended(row[0], int(row[1]), Head(int(row[2]), bytes(row[3])), int(row[4]), row[5]) for row in rows]
