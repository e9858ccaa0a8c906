"""The log of administration: chains of entries, one for each resident whom it concerns, and in the directory one of
nobody. Entries are appended and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction

NOBODY = 0
"""Whose chain that in the directory is."""


class Head(NamedTuple):
    """The end of a chain: how many entries it has, and the SHA-256 of the last."""

    entries: int
    digest: bytes


@asks_once
async def head(tx: Transaction, user_nid: int) -> Head | None:
    """The end of a chain; None for one that was never begun."""
    row = await tx.one("SELECT entries, digest FROM admin_log_heads WHERE user_nid = ?", user_nid)
    return None if row is None else Head(int(row[0]), bytes(row[1]))


async def append(tx: Transaction, user_nid: int, seq: int, entry: bytes, digest: bytes) -> None:
    """Put an entry at the end of a chain, of which `head` was asked in the same transaction."""
    await tx.run("INSERT INTO admin_log (user_nid, seq, entry) VALUES (?, ?, ?)", user_nid, seq, entry)
    await tx.run(
        "INSERT INTO admin_log_heads (user_nid, entries, digest) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET entries = excluded.entries, digest = excluded.digest",
        user_nid,
        seq,
        digest,
    )


async def last(tx: Transaction, user_nid: int) -> int:
    """The number of the last entry of a chain, whatever its head says; 0 when there is none."""
    row = await tx.one("SELECT MAX(seq) FROM admin_log WHERE user_nid = ?", user_nid)
    return 0 if row is None or row[0] is None else int(row[0])


async def page(tx: Transaction, user_nid: int, after: int, limit: int) -> tuple[list[tuple[int, bytes]], Head | None]:
    """Entries of a chain behind the number ``after``, in order, with their numbers; and where it ends by its head."""
    rows = await tx.all(
        "SELECT seq, entry FROM admin_log WHERE user_nid = ? AND seq > ? ORDER BY seq LIMIT ?", user_nid, after, limit
    )
    return [(int(row[0]), bytes(row[1])) for row in rows], await head(tx, user_nid)


@asks_once
async def owners(tx: Transaction) -> list[tuple[int, str]]:
    """The residents of a node who have a chain: row ids and user ids."""
    rows = await tx.all(
        "SELECT user_nid, user_id FROM users WHERE user_nid IN"
        " (SELECT user_nid FROM admin_log UNION SELECT user_nid FROM admin_log_heads) ORDER BY user_id"
    )
    return [(int(row[0]), str(row[1])) for row in rows]
