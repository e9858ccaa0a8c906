"""Copies of the public keys of users who share rooms with residents: of users of other nodes, and what all copies have.

A copy carries the position of its source as of which it was taken, and replaces only what is older.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.runtime.parts import in_parts
from homeserver.storage import device_keys
from homeserver.storage.device_keys import AT_ONCE, USER_SIGNING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.device_keys import Proof, UserKeys
    from homeserver.storage.engine import Transaction


async def versions(tx: Transaction, user_nids: Collection[int]) -> dict[int, tuple[str, int]]:
    """From which node the copies of these users' keys are, and as of which position there."""
    if not user_nids:
        return {}
    marks = ",".join("?" * len(user_nids))
    rows = await tx.all(f"SELECT user_nid, source, version FROM key_replicas WHERE user_nid IN ({marks})", *user_nids)
    return {row[0]: (row[1], row[2]) for row in rows}


def replace_copy(tx: Transaction, user_nid: int, source: str, version: int, keys: UserKeys) -> None:
    """Queue the keys of a user of another node."""
    drop_copy(tx, user_nid)
    tx.later("INSERT INTO key_replicas (user_nid, source, version) VALUES (?, ?, ?)", [(user_nid, source, version)])
    put_copied(tx, user_nid, keys)


def put_copied(tx: Transaction, user_nid: int, keys: UserKeys) -> None:
    """Queue what a new copy consists of, and what proves it."""
    tx.later(
        "INSERT INTO device_keys (user_nid, device_id, keys) VALUES (?, ?, ?)",
        [(user_nid, device_id, device.keys) for device_id, device in keys.devices.items()],
    )
    device_keys.put_signing(tx, user_nid, {usage: key for usage, key in keys.signing.items() if usage != USER_SIGNING})
    if keys.proof is not None:
        put_proof(tx, user_nid, keys.proof)


def put_proof(tx: Transaction, user_nid: int, proof: Proof) -> None:
    """Queue what proves the copy of a user's keys that there is now."""
    tx.later(
        "INSERT INTO carried_proofs (user_nid, origin, proof) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET origin = excluded.origin, proof = excluded.proof",
        [(user_nid, *proof)],
    )


def drop_proof(tx: Transaction, user_nid: int) -> None:
    """Queue that what came with a copy does not prove it any more."""
    tx.later("DELETE FROM carried_proofs WHERE user_nid = ?", [(user_nid,)])


def drop_copy(tx: Transaction, user_nid: int) -> None:
    """Queue that there is no copy of this user's keys here."""
    for table in ("key_replicas", "remote_device_lists", "carried_proofs", "device_keys", "cross_signing_keys"):
        tx.later(f"DELETE FROM {table} WHERE user_nid = ?", [(user_nid,)])


async def sharing_with_residents(tx: Transaction, user_ids: Sequence[str]) -> dict[str, int]:
    """Row ids of those users who share a joined room with a resident."""
    found: dict[str, int] = {}
    for part in in_parts(user_ids, AT_ONCE):
        rows = await tx.all(
            "SELECT u.user_id, u.user_nid FROM users u WHERE u.user_id IN"
            f" ({','.join('?' * len(part))}) AND EXISTS (SELECT 1 FROM memberships theirs"
            " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join'"
            " JOIN residents r ON r.user_nid = mine.user_nid"
            " WHERE theirs.user_nid = u.user_nid AND theirs.membership = 'join')",
            *part,
        )
        found.update({row[0]: row[1] for row in rows})
    return found


async def drop_idle_copies(tx: Transaction) -> int:
    """Delete the copies of keys of users who share no room with a resident any more; returns how many users."""
    rows = await tx.all(
        "SELECT k.user_nid FROM (SELECT user_nid FROM key_replicas UNION SELECT user_nid FROM remote_device_lists) k"
        " WHERE NOT EXISTS (SELECT 1 FROM memberships theirs"
        " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join'"
        " JOIN residents r ON r.user_nid = mine.user_nid"
        " WHERE theirs.user_nid = k.user_nid AND theirs.membership = 'join')"
    )
    for (user_nid,) in rows:
        drop_copy(tx, user_nid)
    return len(rows)
