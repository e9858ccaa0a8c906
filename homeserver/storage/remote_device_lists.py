"""Copies of the public keys of users of other servers, which send word of changes while a room is shared with them.

A copy that may have missed a change is stale, and is not used until the server has been asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage import device_keys, key_copies
from homeserver.storage.device_keys import SHARED_SINCE, DeviceKeys, UserKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction

UNTOLD = 2
"""What ``stale`` says of a copy that may have missed a change of which nobody was told."""


class RemoteList(NamedTuple):
    """What is known of the copy of a remote user's keys: which version of their server's count it is (None: it did not
    say), and whether a change was missed."""

    stream_id: int | None
    stale: bool


async def find(tx: Transaction, user_nid: int) -> RemoteList | None:
    """The copy of a remote user's keys; None when there is none, or the room was left through which it was kept up."""
    row = await tx.one(
        f"SELECT l.stream_id, l.stale FROM remote_device_lists l WHERE l.user_nid = ? AND {SHARED_SINCE}", user_nid
    )
    return None if row is None else RemoteList(row[0], bool(row[1]))


def replace(tx: Transaction, user_nid: int, as_of: int, stream_id: int | None, keys: UserKeys) -> None:
    """Queue the keys of a user of another server, which was asked at position ``as_of`` of this node."""
    key_copies.drop_copy(tx, user_nid)
    tx.later(
        "INSERT INTO remote_device_lists (user_nid, as_of, stream_id) VALUES (?, ?, ?)", [(user_nid, as_of, stream_id)]
    )
    key_copies.put_copied(tx, user_nid, keys)


def mark_stale(tx: Transaction, user_nid: int) -> None:
    """Queue that the copy of a remote user's keys is not to be used any more."""
    tx.later("UPDATE remote_device_lists SET stale = 1 WHERE user_nid = ?", [(user_nid,)])


async def mark_all_stale(tx: Transaction) -> None:
    """No copy of a remote user's keys is to be used any more: any of them may have missed a change, of which then
    nobody was told either."""
    await tx.run("UPDATE remote_device_lists SET stale = 2 WHERE stale = 0")  # UNTOLD


async def stale_lists(tx: Transaction, after: int, limit: int) -> list[tuple[int, str]]:
    """Users of other servers who share a room with a resident and whose keys are to be asked for anew, behind the row
    id ``after``: row id and user id."""
    rows = await tx.all(
        "SELECT l.user_nid, u.user_id FROM remote_device_lists l JOIN users u ON u.user_nid = l.user_nid"
        " WHERE l.user_nid > ? AND l.stale > 0 AND EXISTS (SELECT 1 FROM memberships theirs"
        " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join'"
        " JOIN residents r ON r.user_nid = mine.user_nid"
        " WHERE theirs.user_nid = l.user_nid AND theirs.membership = 'join') ORDER BY l.user_nid LIMIT ?",
        after,
        limit,
    )
    return [(int(row[0]), str(row[1])) for row in rows]


async def untold(tx: Transaction, user_nids: Sequence[int]) -> dict[int, UserKeys]:
    """The copies of which a change may have been missed without anybody being told, as they were before that."""
    marks = ",".join("?" * len(user_nids))
    if not marks:
        return {}
    rows = await tx.all(
        f"SELECT user_nid FROM remote_device_lists WHERE user_nid IN ({marks}) AND stale = {UNTOLD}", *user_nids
    )
    found = {int(row[0]): UserKeys() for row in rows}
    if not found:
        return {}
    for user_nid, device_id, keys in await tx.all(
        f"SELECT user_nid, device_id, keys FROM device_keys WHERE user_nid IN ({marks})", *user_nids
    ):
        if user_nid in found:
            found[user_nid].devices[device_id] = DeviceKeys(keys, None)
    for user_nid, usage, key in await tx.all(
        f"SELECT user_nid, usage, key FROM cross_signing_keys WHERE user_nid IN ({marks})", *user_nids
    ):
        if user_nid in found:
            found[user_nid].signing[usage] = key
    return found


def advance(tx: Transaction, user_nid: int, stream_id: int, device_id: str, keys: bytes | None) -> None:
    """Queue that a remote user's list has become the one of ``stream_id``, by what happened to one device (``keys``
    None: it is gone, or has none)."""
    key_copies.drop_proof(tx, user_nid)
    tx.later("UPDATE remote_device_lists SET stream_id = ? WHERE user_nid = ?", [(stream_id, user_nid)])
    if keys is None:
        tx.later("DELETE FROM device_keys WHERE user_nid = ? AND device_id = ?", [(user_nid, device_id)])
    else:
        device_keys.put_device(tx, user_nid, device_id, keys)
