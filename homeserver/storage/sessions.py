"""Sealed records of residents' sessions, and the tags of the last days of their devices.

A record can be opened by the custodians of its epoch together; nothing in a row beside it says from where or when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from homeserver.storage.engine import Transaction


class SealedSession(NamedTuple):
    """A record, and the number of the epoch to which it is sealed."""

    epoch: int
    box: bytes


class DayTag(NamedTuple):
    """The tag of a device's last day, what it is keyed with, and the time of its epoch in milliseconds."""

    device_nid: int
    tag: bytes
    salt: bytes
    born_ts: int
    ends_ts: int


async def devices_there(tx: Transaction, device_nids: Collection[int]) -> set[tuple[int, int]]:
    """Those of these devices that there are: users and devices, by their row ids."""
    marks = ",".join("?" * len(device_nids))
    rows = await tx.all(f"SELECT user_nid, device_nid FROM devices WHERE device_nid IN ({marks})", *device_nids)
    return {(row[0], row[1]) for row in rows}


def add(tx: Transaction, epoch: int, boxes: Iterable[tuple[int, bytes]]) -> None:
    """Queue sealed records of residents, by their row ids."""
    rows = [(user_nid, epoch, box) for user_nid, box in boxes]
    tx.later("INSERT INTO sessions (user_nid, epoch, box) VALUES (?, ?, ?)", rows)


def put_days(tx: Transaction, epoch: int, tags: Iterable[tuple[int, int, bytes]]) -> None:
    """Queue the tags of the last days of devices: user, device, tag."""
    tx.later(
        "INSERT INTO device_days (user_nid, device_nid, epoch, tag) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (user_nid, device_nid) DO UPDATE SET epoch = excluded.epoch, tag = excluded.tag",
        [(user_nid, device_nid, epoch, tag) for user_nid, device_nid, tag in tags],
    )


async def of_user(tx: Transaction, user_nid: int, epochs: Collection[int]) -> list[SealedSession]:
    """The records of a resident that are sealed to these epochs, in no order that would say anything."""
    marks = ",".join("?" * len(epochs))
    rows = await tx.all(
        f"SELECT epoch, box FROM sessions WHERE user_nid = ? AND epoch IN ({marks}) ORDER BY epoch, box",
        user_nid,
        *epochs,
    )
    return [SealedSession(*row) for row in rows]


async def days_of(tx: Transaction, user_nid: int) -> list[DayTag]:
    """The tags of the last days of a resident's devices, as far as their epochs are there."""
    rows = await tx.all(
        "SELECT d.device_nid, d.tag, e.salt, e.born_ts, e.ends_ts FROM device_days d"
        " JOIN epochs e ON e.number = d.epoch WHERE d.user_nid = ? AND LENGTH(e.salt) > 0",
        user_nid,
    )
    return [DayTag(*row) for row in rows]
