"""The key logs of other servers, in the directory database: how far they were shown to this deployment, and what they
have shown that contradicts itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.protocol.checkpoints import Head
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction

MOST_OF_A_SERVER: Final = 100
"""Logs of one server that are known; of more nothing is remembered."""


class PeerLog(NamedTuple):
    """A log of another server: the key that it was signed with first, and the largest head that it has shown."""

    server: str
    key: str
    head: Head
    checkpoint: bytes


class Contradiction(NamedTuple):
    """Two notes of one log that cannot both be true, each behind a line with its key. ``seen_ts`` in milliseconds."""

    origin: str
    what: str
    one: bytes
    other: bytes
    seen_ts: int


@asks_once
async def of(tx: Transaction, origin: str) -> PeerLog | None:
    """A log, if it has shown anything."""
    row = await tx.one("SELECT server, log_key, size, root, checkpoint FROM peer_logs WHERE origin = ?", origin)
    return None if row is None else PeerLog(row[0], row[1], Head(int(row[2]), bytes(row[3])), bytes(row[4]))


@asks_once
async def servers(tx: Transaction) -> set[str]:
    """The servers that have shown logs."""
    return {row[0] for row in await tx.all("SELECT DISTINCT server FROM peer_logs")}


async def note(tx: Transaction, origin: str, made: PeerLog) -> None:
    """Note how far a log was shown. A smaller head does not replace a larger one, and no key another."""
    await tx.run(
        "INSERT INTO peer_logs (origin, server, log_key, size, root, checkpoint)"
        " SELECT ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM peer_logs WHERE origin = ?)"
        " OR (SELECT COUNT(*) FROM peer_logs WHERE server = ?) < ?"
        " ON CONFLICT (origin) DO UPDATE SET"
        " size = excluded.size, root = excluded.root, checkpoint = excluded.checkpoint"
        " WHERE excluded.size > peer_logs.size AND excluded.log_key = peer_logs.log_key",
        origin,
        made.server,
        made.key,
        *made.head,
        made.checkpoint,
        origin,
        made.server,
        MOST_OF_A_SERVER,
    )


async def contradict(tx: Transaction, made: Contradiction) -> bool:
    """Keep a contradiction; False when there is one of its kind."""
    sql = "INSERT INTO peer_log_contradictions (origin, what, one, other, seen_ts) VALUES (?, ?, ?, ?, ?)"
    return await tx.run(f"{sql} ON CONFLICT DO NOTHING", *made) == 1


@asks_once
async def contradictions(tx: Transaction) -> list[Contradiction]:
    """All of them, the oldest first."""
    rows = await tx.all(
        "SELECT origin, what, one, other, seen_ts FROM peer_log_contradictions ORDER BY seen_ts, origin, what"
    )
    return [Contradiction(row[0], row[1], bytes(row[2]), bytes(row[3]), int(row[4])) for row in rows]
