"""Which devices of residents their owners' self-signing keys have not signed, since when, and which of them are
withheld from others for that (homeserver/e2ee/unsigned.py decides); and whose word for a new identity is awaited
(homeserver/e2ee/contested.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.device_keys import SELF_SIGNING

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction

LONG_AGO = 0
"""Unsigned since before anybody looked: the time counts from when somebody does."""


class Unsigned(NamedTuple):
    """A device that waits for a signature, or is withheld for want of one."""

    user_nid: int
    user_id: str
    device_id: str


def wait(tx: Transaction, user_nid: int, device_id: str, now_ms: int, *, withheld: bool = False) -> None:
    """Queue that a device is there without a signature: from now on, unless it has been so before; and ``withheld``
    from others at once where its owner has a self-signing key."""
    tx.later(
        "UPDATE device_keys SET unsigned_since = COALESCE(unsigned_since, ?), withheld = CASE WHEN ? = 1 AND EXISTS"
        " (SELECT 1 FROM cross_signing_keys c WHERE c.user_nid = device_keys.user_nid AND c.usage = ?) THEN 1"
        " ELSE withheld END WHERE user_nid = ? AND device_id = ?",
        [(now_ms, int(withheld), SELF_SIGNING, user_nid, device_id)],
    )


def begin_anew(tx: Transaction, user_nid: int, device_ids: Collection[str], now_ms: int) -> None:
    """Queue that devices are unsigned by the keys that there are since now; those that are withheld stay so."""
    tx.later(
        "UPDATE device_keys SET unsigned_since = ? WHERE user_nid = ? AND device_id = ?",
        [(now_ms, user_nid, device_id) for device_id in device_ids],
    )


def settle(tx: Transaction, user_nid: int, device_ids: Collection[str]) -> None:
    """Queue that devices are signed, and so shown to everybody."""
    tx.later(
        "UPDATE device_keys SET unsigned_since = NULL, withheld = 0 WHERE user_nid = ? AND device_id = ?",
        [(user_nid, device_id) for device_id in device_ids],
    )


def withhold(tx: Transaction, user_nid: int, device_ids: Collection[str]) -> None:
    """Queue that others are not shown devices until they are signed."""
    tx.later(
        "UPDATE device_keys SET withheld = 1 WHERE user_nid = ? AND device_id = ?",
        [(user_nid, device_id) for device_id in device_ids],
    )


def show(tx: Transaction, user_nid: int, device_ids: Collection[str]) -> None:
    """Queue that others are shown devices although they are unsigned."""
    tx.later(
        "UPDATE device_keys SET withheld = 0, awaited = 0 WHERE user_nid = ? AND device_id = ?",
        [(user_nid, device_id) for device_id in device_ids],
    )


_AWAITED, _HEARD, _MUTE = 1, 2, 3
"""What ``awaited`` says: one of these has to vouch, or go; this one may vouch; this one can only go."""


def await_word(tx: Transaction, user_nid: int, device_ids: Collection[str], heard: Collection[str]) -> None:
    """Queue that one of these devices has to vouch for their owner's identity, as long as one is there; those ``heard``
    may do so too."""
    marks = [(_AWAITED, device_id) for device_id in device_ids] + [(_HEARD, device_id) for device_id in heard]
    tx.later(
        "UPDATE device_keys SET awaited = ? WHERE user_nid = ? AND device_id = ?",
        [(mark, user_nid, device_id) for mark, device_id in marks],
    )


def mute(tx: Transaction, user_nid: int, device_id: str) -> None:
    """Queue that the word of a device, which has other keys now, counts no more."""
    tx.later(
        "UPDATE device_keys SET awaited = CASE awaited WHEN ? THEN ? WHEN ? THEN 0 ELSE awaited END"
        " WHERE user_nid = ? AND device_id = ?",
        [(_AWAITED, _MUTE, _HEARD, user_nid, device_id)],
    )


def await_none(tx: Transaction, user_nid: int) -> None:
    """Queue that somebody's identity is believed."""
    tx.later("UPDATE device_keys SET awaited = 0 WHERE user_nid = ?", [(user_nid,)])


async def released(tx: Transaction, user_nid: int, gone: Collection[str]) -> list[str]:
    """The devices with keys that stay when devices go whose word was awaited, and nobody's is any more; else none."""
    rows = await tx.all("SELECT device_id, awaited FROM device_keys WHERE user_nid = ?", user_nid)
    awaited = {str(row[0]) for row in rows if row[1] in (_AWAITED, _MUTE)}
    return [str(row[0]) for row in rows if row[0] not in gone] if awaited and awaited <= set(gone) else []


async def is_misdated(tx: Transaction, now_ms: int) -> bool:
    """Whether there are any for `count_from`."""
    sql = "SELECT 1 FROM device_keys WHERE unsigned_since = ? OR unsigned_since > ? LIMIT 1"
    return await tx.one(sql, LONG_AGO, now_ms) is not None


async def count_from(tx: Transaction, now_ms: int) -> None:
    """Let the time of those begin now that have been unsigned since nobody knows when, or since a time to come: the
    clock was set back."""
    await tx.run(
        "UPDATE device_keys SET unsigned_since = ? WHERE unsigned_since = ? OR unsigned_since > ?",
        now_ms,
        LONG_AGO,
        now_ms,
    )


async def overdue(tx: Transaction, before_ms: int, limit: int) -> list[Unsigned]:
    """Devices that others are shown and that are unsigned since ``before_ms`` or earlier, of residents who have a
    self-signing key."""
    rows = await tx.all(
        "SELECT d.user_nid, u.user_id, d.device_id FROM device_keys d JOIN residents r ON r.user_nid = d.user_nid"
        " JOIN users u ON u.user_nid = d.user_nid WHERE d.unsigned_since <= ? AND d.withheld = 0"
        " AND EXISTS (SELECT 1 FROM cross_signing_keys c WHERE c.user_nid = d.user_nid AND c.usage = ?)"
        " ORDER BY d.user_nid, d.device_id LIMIT ?",
        before_ms,
        SELF_SIGNING,
        limit,
    )
    return [Unsigned(int(row[0]), str(row[1]), str(row[2])) for row in rows]


async def withheld(tx: Transaction, limit: int) -> list[Unsigned]:
    """Devices of residents that are withheld, or because of which others are."""
    rows = await tx.all(
        "SELECT d.user_nid, u.user_id, d.device_id FROM device_keys d JOIN residents r ON r.user_nid = d.user_nid"
        " JOIN users u ON u.user_nid = d.user_nid"
        " WHERE (d.withheld = 1 AND d.unsigned_since IS NOT NULL) OR d.awaited = 1"
        " ORDER BY d.user_nid, d.device_id LIMIT ?",
        limit,
    )
    return [Unsigned(int(row[0]), str(row[1]), str(row[2])) for row in rows]
