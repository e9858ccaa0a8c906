"""Devices of residents. A device goes with everything that is only its own: tokens, keys, mailbox, pushers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage import streams

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction


class Device(NamedTuple):
    """One device. ``created_ts`` in milliseconds."""

    device_nid: int
    device_id: str
    display_name: str | None
    created_ts: int


async def ensure(
    tx: Transaction, user_nid: int, device_id: str, display_name: str | None, now_ms: int
) -> tuple[int, bool]:
    """The row id of a device, and whether it is new; ``display_name`` is for a new one only."""
    row = await tx.one("SELECT device_nid FROM devices WHERE user_nid = ? AND device_id = ?", user_nid, device_id)
    if row is not None:
        return int(row[0]), False
    row = await tx.one(
        "INSERT INTO devices (user_nid, device_id, display_name, created_ts) VALUES (?, ?, ?, ?) RETURNING device_nid",
        user_nid,
        device_id,
        display_name,
        now_ms,
    )
    assert row is not None
    return int(row[0]), True


async def of_user(tx: Transaction, user_nid: int) -> list[Device]:
    """All devices of a user, the oldest first."""
    rows = await tx.all(
        "SELECT device_nid, device_id, display_name, created_ts FROM devices WHERE user_nid = ? ORDER BY device_nid",
        user_nid,
    )
    return [Device(*row) for row in rows]


async def find(tx: Transaction, user_nid: int, device_id: str) -> Device | None:
    """One device of a user."""
    row = await tx.one(
        "SELECT device_nid, device_id, display_name, created_ts FROM devices WHERE user_nid = ? AND device_id = ?",
        user_nid,
        device_id,
    )
    return None if row is None else Device(*row)


async def count(tx: Transaction, user_nid: int) -> int:
    """How many devices a user has."""
    row = await tx.one("SELECT COUNT(*) FROM devices WHERE user_nid = ?", user_nid)
    assert row is not None
    return int(row[0])


async def rename(tx: Transaction, device: Device, user_nid: int, display_name: str | None) -> bool:
    """Change a device's name; True when others are shown it beside its keys."""
    tx.later("UPDATE devices SET display_name = ? WHERE device_nid = ?", [(display_name, device.device_nid)])
    row = await tx.one("SELECT 1 FROM device_keys WHERE user_nid = ? AND device_id = ?", user_nid, device.device_id)
    return row is not None


# Rows that belong to one device alone, by its row id.
_OWNED = (
    "access_tokens",
    "refresh_tokens",
    "oauth_sessions",
    "sliding_positions",
    "to_device",
    "one_time_keys",
    "fallback_keys",
    "pushers",
    "client_transactions",
    "dehydrated_devices",
    "device_days",
    "devices",
)


async def delete(tx: Transaction, user_nid: int, gone: Collection[Device]) -> bool:
    """Delete devices of a user with all that is theirs; True when one of them had public keys."""
    tx.later(  # an event that is being sent for the device, later than it asked, must be sent once all the same
        "UPDATE client_transactions SET device_nid = 0 WHERE user_nid = ? AND device_nid = ?"
        " AND asked_node IS NOT NULL AND EXISTS (SELECT 1 FROM delayed_events e"
        " WHERE e.user_nid = client_transactions.user_nid AND e.device_nid = client_transactions.device_nid"
        " AND e.action = 'send' AND e.due_ts IS NOT NULL)",
        [(user_nid, device.device_nid) for device in gone],
    )
    for table in _OWNED:
        tx.later(
            f"DELETE FROM {table} WHERE user_nid = ? AND device_nid = ?",
            [(user_nid, device.device_nid) for device in gone],
        )
    if not gone:
        return False
    marks = ",".join("?" * len(gone))
    keys = await tx.run(
        f"DELETE FROM device_keys WHERE user_nid = ? AND device_id IN ({marks})",
        user_nid,
        *(device.device_id for device in gone),
    )
    return keys > 0


async def note_change(tx: Transaction, user_nid: int, count: int = 1) -> tuple[int, int | None]:
    """Record that a user's public keys changed, in so many steps. Only inside `Node.advance`.

    Returns the position of the first step, the others following it, and that of the change before.
    """
    row = await tx.one("SELECT pos FROM device_list_changes WHERE user_nid = ?", user_nid)
    first = await streams.allocate(tx, count)
    tx.later(
        "INSERT INTO device_list_changes (user_nid, pos) VALUES (?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET pos = excluded.pos",
        [(user_nid, first + count - 1)],
    )
    return first, None if row is None else int(row[0])


async def watchers(tx: Transaction, user_nid: int) -> list[int]:
    """The residents who are told when the user's keys change: those who share a room with them, and themselves."""
    rows = await tx.all(
        "SELECT DISTINCT r.user_nid FROM memberships mine JOIN memberships theirs ON theirs.room_nid = mine.room_nid"
        " JOIN residents r ON r.user_nid = theirs.user_nid"
        " WHERE mine.user_nid = ? AND mine.membership = 'join' AND theirs.membership = 'join'",
        user_nid,
    )
    return sorted({user_nid, *(row[0] for row in rows)})
