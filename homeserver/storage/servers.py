"""Signing keys of other servers, in the deployment's directory database: they are nobody's data, in no jurisdiction.

A key is never forgotten because its server no longer names it: events that it signed stay to be verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction

MOST_KEYS = 200
"""Keys that are kept of one server; one that names more loses those that went out of use first."""


class Key(NamedTuple):
    """A public key (32 bytes) that may have signed up to ``good_until_ts`` (ms)."""

    key_id: str
    public_key: bytes
    good_until_ts: int


class Document(NamedTuple):
    """A server's answer about its keys, canonical JSON, with its own ``valid_until_ts`` and when it came (both ms)."""

    document: bytes
    valid_until_ts: int
    fetched_ts: int


async def keys(tx: Transaction, server_name: str) -> list[Key]:
    """All known keys of a server."""
    rows = await tx.all("SELECT key_id, public_key, good_until_ts FROM server_keys WHERE server_name = ?", server_name)
    return [Key(str(row[0]), bytes(row[1]), int(row[2])) for row in rows]


async def documents(tx: Transaction, server_names: Collection[str]) -> dict[str, Document]:
    """The last answers of those servers that are known."""
    marks = ",".join("?" * len(server_names))
    rows = await tx.all(
        f"SELECT server_name, document, valid_until_ts, fetched_ts FROM servers WHERE server_name IN ({marks})",
        *server_names,
    )
    return {str(row[0]): Document(bytes(row[1]), int(row[2]), int(row[3])) for row in rows}


async def learn(
    tx: Transaction, server_name: str, answer: Document, named: Collection[Key], *, first_hand: bool
) -> None:
    """Note what a server says about its keys.

    What comes from a notary (not ``first_hand``) and is no newer than what is known only adds keys: a notary that is
    behind must not give a retired key back its life.
    """
    known = await tx.one("SELECT valid_until_ts FROM servers WHERE server_name = ?", server_name)
    newer = known is None or answer.valid_until_ts > int(known[0])
    resolution = "DO NOTHING"
    if first_hand or newer:
        resolution = "DO UPDATE SET public_key = excluded.public_key, good_until_ts = excluded.good_until_ts"
        tx.later(
            "INSERT INTO servers (server_name, document, valid_until_ts, fetched_ts) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (server_name) DO UPDATE SET document = excluded.document,"
            " valid_until_ts = excluded.valid_until_ts, fetched_ts = excluded.fetched_ts",
            [(server_name, *answer)],
        )
    tx.later(
        "INSERT INTO server_keys (server_name, key_id, public_key, good_until_ts) VALUES (?, ?, ?, ?)"
        f" ON CONFLICT (server_name, key_id) {resolution}",
        [(server_name, *key) for key in named],
    )
    tx.later(
        "DELETE FROM server_keys WHERE server_name = ? AND key_id NOT IN"
        " (SELECT key_id FROM server_keys WHERE server_name = ? ORDER BY good_until_ts DESC, key_id LIMIT ?)",
        [(server_name, server_name, MOST_KEYS)],
    )
