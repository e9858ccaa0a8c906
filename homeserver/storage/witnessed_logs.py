"""The logs of others that this deployment witnesses, and how far it has signed each: in the deployment's directory
database. A row never goes: what was signed once binds whoever signed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.checkpoints import Head
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from homeserver.storage.engine import Transaction

_COLUMNS = "origin, log_key, size, root, note, cosigned_at, added_ts, removed_ts, refused_ts, refusal, url"


class Witnessed(NamedTuple):
    """A log. ``key``: its public key, as it is written; ``note``: the newest checkpoint that was signed, with our
    signature; ``cosigned_at``: the time in that, in seconds since 1970; ``url``: where it is read, if that was said."""

    origin: str
    key: str
    head: Head
    note: bytes | None
    cosigned_at: int
    added_ts: int
    removed_ts: int | None
    refused_ts: int | None
    refusal: str | None
    url: str | None


def _read(row: Sequence[Any]) -> Witnessed:
    origin, key, size, root, note, *times = row
    return Witnessed(origin, key, Head(int(size), bytes(root)), None if note is None else bytes(note), *times)


@asks_once
async def of(tx: Transaction, origin: str) -> Witnessed | None:
    """The log of this name, also one that is witnessed no more."""
    row = await tx.one(f"SELECT {_COLUMNS} FROM witnessed_logs WHERE origin = ?", origin)
    return None if row is None else _read(row)


@asks_once
async def at(tx: Transaction, place: str) -> Witnessed | None:
    """The log that is called so in addresses."""
    row = await tx.one(f"SELECT {_COLUMNS} FROM witnessed_logs WHERE place = ?", place)
    return None if row is None else _read(row)


@asks_once
async def all_of_them(tx: Transaction) -> list[Witnessed]:
    """Every log that is or was witnessed."""
    return [_read(row) for row in await tx.all(f"SELECT {_COLUMNS} FROM witnessed_logs ORDER BY origin")]


async def add(
    tx: Transaction, origin: str, place: str, key: str, empty: Head, now_ms: int, url: str | None = None
) -> None:
    """Witness a log from now on; one that was witnessed before goes on from where it was."""
    await tx.run(
        "INSERT INTO witnessed_logs (origin, place, log_key, size, root, cosigned_at, added_ts, url)"
        " VALUES (?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (origin) DO UPDATE SET removed_ts = NULL,"
        " url = COALESCE(excluded.url, witnessed_logs.url)",
        origin,
        place,
        key,
        *empty,
        now_ms,
        url,
    )


async def remove(tx: Transaction, origin: str, now_ms: int) -> bool:
    """Sign nothing of a log any more; False when it is not witnessed."""
    changed = await tx.run(
        "UPDATE witnessed_logs SET removed_ts = ? WHERE origin = ? AND removed_ts IS NULL", now_ms, origin
    )
    return changed == 1


async def advance(tx: Transaction, before: Witnessed, head: Head, note: bytes, cosigned_at: int) -> bool:
    """Note what is about to be answered, if the log is still where ``before`` says; False when somebody was quicker."""
    changed = await tx.run(
        "UPDATE witnessed_logs SET size = ?, root = ?, note = ?, cosigned_at = ?, refused_ts = NULL, refusal = NULL"
        " WHERE origin = ? AND size = ? AND root = ? AND cosigned_at = ? AND removed_ts IS NULL",
        *head,
        note,
        cosigned_at,
        before.origin,
        *before.head,
        before.cosigned_at,
    )
    return changed == 1


async def note_refusal(tx: Transaction, origin: str, now_ms: int, refusal: str) -> None:
    """Note why something that a log has signed was not signed here; the time is that of the first since."""
    await tx.run(
        "UPDATE witnessed_logs SET refused_ts = COALESCE(refused_ts, ?), refusal = ? WHERE origin = ?",
        now_ms,
        refusal,
        origin,
    )
