"""Which device of a resident is dehydrated, and what opens it. All else that belongs to it stands where that of any
device does, and goes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.devices import Device
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Dehydrated(NamedTuple):
    """A dehydrated device. ``device_data``: JSON bytes, which only its owner's clients understand."""

    device: Device
    device_data: bytes


def put(tx: Transaction, user_nid: int, device_nid: int, device_data: bytes) -> None:
    """Queue that a device of a resident, who has no other such one, is dehydrated."""
    tx.later(
        "INSERT INTO dehydrated_devices (user_nid, device_nid, device_data) VALUES (?, ?, ?)",
        [(user_nid, device_nid, device_data)],
    )


@asks_once
async def find(tx: Transaction, user_nid: int) -> Dehydrated | None:
    """The dehydrated device of a resident."""
    row = await tx.one(
        "SELECT d.device_nid, d.device_id, d.display_name, d.created_ts, h.device_data FROM dehydrated_devices h"
        " JOIN devices d ON d.device_nid = h.device_nid WHERE h.user_nid = ?",
        user_nid,
    )
    return None if row is None else Dehydrated(Device(*row[:4]), row[4])


async def is_one(tx: Transaction, user_nid: int, device_nid: int) -> bool:
    """Whether a device of a resident is dehydrated."""
    return (
        await tx.one("SELECT 1 FROM dehydrated_devices WHERE user_nid = ? AND device_nid = ?", user_nid, device_nid)
        is not None
    )
