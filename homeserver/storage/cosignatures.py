"""What witnesses have signed of the key log of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.checkpoints import Head
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.storage.engine import Transaction


class Standing(NamedTuple):
    """Where a witness is: the head that it has signed last, and the line of its signature; ``fault``: why it does not
    sign, and since when (milliseconds since 1970)."""

    name: str
    key: str
    head: Head
    signature: str
    fault: str | None = None
    fault_since_ts: int | None = None


class Cosigned(NamedTuple):
    """The newest checkpoint that a quorum has signed; ``lacking_since_ts``: since when what is shown lacks a quorum."""

    checkpoint: bytes | None = None
    lacking_since_ts: int | None = None


@asks_once
async def newest(tx: Transaction) -> Cosigned:
    """What a quorum has signed."""
    row = await tx.one("SELECT checkpoint, lacking_since_ts FROM key_log_cosigned WHERE id = 1")
    return Cosigned() if row is None else Cosigned(None if row[0] is None else bytes(row[0]), row[1])


@asks_once
async def standings(tx: Transaction) -> dict[str, Standing]:
    """Where each witness is, by its name in the policy."""
    rows = await tx.all("SELECT name, witness_key, size, root, signature, fault, fault_since_ts FROM key_log_witnesses")
    return {
        name: Standing(name, key, Head(int(size), bytes(root)), signature, fault, since)
        for name, key, size, root, signature, fault, since in rows
    }


async def put(tx: Transaction, cosigned: Cosigned, changed: Iterable[Standing]) -> None:
    """Keep what a round of asking has brought."""
    await tx.run(
        "INSERT INTO key_log_cosigned (id, checkpoint, lacking_since_ts) VALUES (1, ?, ?) ON CONFLICT (id)"
        " DO UPDATE SET checkpoint = excluded.checkpoint, lacking_since_ts = excluded.lacking_since_ts",
        *cosigned,
    )
    await tx.many(
        "INSERT INTO key_log_witnesses (name, witness_key, size, root, signature, fault, fault_since_ts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET witness_key = excluded.witness_key,"
        " size = excluded.size, root = excluded.root, signature = excluded.signature, fault = excluded.fault,"
        " fault_since_ts = excluded.fault_since_ts",
        [(each.name, each.key, *each.head, each.signature, each.fault, each.fault_since_ts) for each in changed],
    )
