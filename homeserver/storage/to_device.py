"""The mailboxes of residents' devices: messages that wait until their device has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction

AT_ONCE = 500
"""Users that are looked up in one statement."""


class Recipient(NamedTuple):
    """A device of a resident."""

    user_id: str
    device_id: str
    device_nid: int
    user_nid: int


Letter = tuple[int, int, bytes]
"""What goes into a mailbox: the owner's row id, the device's, and the event as JSON."""


async def recipients(tx: Transaction, user_ids: Sequence[str]) -> list[Recipient]:
    """All devices of those users who reside here."""
    found: list[Recipient] = []
    for part in in_parts(user_ids, AT_ONCE):
        rows = await tx.all(
            "SELECT u.user_id, d.device_id, d.device_nid, d.user_nid FROM users u"
            f" JOIN devices d ON d.user_nid = u.user_nid WHERE u.user_id IN ({','.join('?' * len(part))})",
            *part,
        )
        found += [Recipient(*row) for row in rows]
    return found


async def receive_once(tx: Transaction, message_key: bytes, ts: int) -> bool:
    """Note that a message of another node has come; False when it had come before."""
    return (
        await tx.run(
            "INSERT INTO received_messages (message_key, ts) VALUES (?, ?) ON CONFLICT DO NOTHING", message_key, ts
        )
        == 1
    )


async def forget_received(tx: Transaction, before_ts: int) -> None:
    """Drop the notes of messages that came before ``before_ts``."""
    await tx.run("DELETE FROM received_messages WHERE ts < ?", before_ts)


def deliver(tx: Transaction, first: int, letters: Sequence[Letter]) -> None:
    """Queue events for devices at the positions ``first``, ``first + 1``, …"""
    tx.later(
        "INSERT INTO to_device (pos, user_nid, device_nid, message) VALUES (?, ?, ?, ?)",
        [(pos, user_nid, device_nid, event) for pos, (user_nid, device_nid, event) in enumerate(letters, first)],
    )


async def trim(tx: Transaction, device_nids: Collection[int], limit: int) -> int:
    """Drop the oldest messages of devices for which more than ``limit`` wait; returns how many were dropped."""
    dropped = 0
    for device_nid in device_nids:
        dropped += await tx.run(
            "DELETE FROM to_device WHERE device_nid = ? AND pos <= (SELECT pos FROM to_device WHERE device_nid = ?"
            " ORDER BY pos DESC LIMIT 1 OFFSET ?)",
            device_nid,
            device_nid,
            limit,
        )
    return dropped


@asks_once
async def waiting(tx: Transaction, device_nid: int, after: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
    """The oldest messages of a device with ``after < pos <= upto``."""
    rows = await tx.all(
        "SELECT pos, message FROM to_device WHERE device_nid = ? AND pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
        device_nid,
        after,
        upto,
        limit,
    )
    return [(row[0], row[1]) for row in rows]


async def oldest(tx: Transaction, device_nid: int) -> int | None:
    """The position of the oldest message that waits for a device."""
    row = await tx.one("SELECT MIN(pos) FROM to_device WHERE device_nid = ?", device_nid)
    return None if row is None or row[0] is None else int(row[0])


async def forget(tx: Transaction, delivered: Collection[tuple[int, int]]) -> None:
    """Delete what devices have: (device_nid, the position up to which)."""
    tx.later("DELETE FROM to_device WHERE device_nid = ? AND pos <= ?", list(delivered))
