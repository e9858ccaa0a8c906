"""The federation list that was believed last: in the directory, for it concerns all nodes, and holds nobody's data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class KeptList(NamedTuple):
    """A list, and when it was fetched first, and last as it still is (milliseconds since 1970)."""

    document: bytes
    serial: int
    taken_ts: int
    checked_ts: int


async def kept(tx: Transaction) -> KeptList | None:
    """The list that was believed last."""
    row = await tx.one("SELECT document, serial, taken_ts, checked_ts FROM federation_list WHERE place = 1")
    return None if row is None else KeptList(bytes(row[0]), int(row[1]), int(row[2]), int(row[3]))


async def keep(tx: Transaction, new: KeptList, instead_of: int | None) -> bool:
    """Keep another list instead of the one with that serial; False when there is another by now."""
    before = await kept(tx)
    if (None if before is None else before.serial) != instead_of:
        return False
    await tx.run(
        "INSERT INTO federation_list (place, document, serial, taken_ts, checked_ts) VALUES (1, ?, ?, ?, ?)"
        " ON CONFLICT (place) DO UPDATE SET document = excluded.document, serial = excluded.serial,"
        " taken_ts = excluded.taken_ts, checked_ts = excluded.checked_ts",
        *new,
    )
    return True


async def check(tx: Transaction, serial: int, now_ms: int) -> None:
    """Note that the list with that serial is still the newest."""
    await tx.run("UPDATE federation_list SET checked_ts = ? WHERE place = 1 AND serial = ?", now_ms, serial)
