"""What devices did under their transaction ids: so that a repeated request does nothing twice, and a device knows its
own events when it sees them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction


class Echo(NamedTuple):
    """The device that used a transaction id; row ids of its node."""

    user_nid: int
    device_nid: int
    txn_id: str


def remember(tx: Transaction, rows: Sequence[tuple[bytes, Echo, int]]) -> None:
    """Queue rows of (transaction key, device and id, milliseconds since 1970).

    Those of a device that is not here any more, since its user has been moved away meanwhile, are left out.
    """
    tx.later(
        "INSERT INTO client_transactions (txn_key, user_nid, device_nid, txn_id, ts)"
        " SELECT ?, user_nid, device_nid, CAST(? AS TEXT), CAST(? AS BIGINT)"
        " FROM devices WHERE device_nid = ? AND user_nid = ?"
        " ON CONFLICT DO NOTHING",
        [(key, echo.txn_id, ts, echo.device_nid, echo.user_nid) for key, echo, ts in rows],
    )


def claim(tx: Transaction, key: bytes, echo: Echo, ts: int) -> None:
    """Queue that a device does something under this key now; UniqueViolation when it was done before."""
    tx.later(
        "INSERT INTO client_transactions (txn_key, user_nid, device_nid, txn_id, ts) VALUES (?, ?, ?, ?, ?)",
        [(key, *echo, ts)],
    )


async def put(tx: Transaction, key: bytes, echo: Echo, ts: int) -> None:
    """Remember one."""
    remember(tx, [(key, echo, ts)])


async def known(tx: Transaction, key: bytes) -> bool:
    """Whether something has been done under this key."""
    return await tx.one("SELECT 1 FROM client_transactions WHERE txn_key = ?", key) is not None


@asks_once
async def of_events(tx: Transaction, device_nid: int, event_ids: Collection[str]) -> dict[str, str]:
    """The transaction ids under which a device sent events: event id to transaction id."""
    if not event_ids:
        return {}
    marks = ",".join("?" * len(event_ids))
    rows = await tx.all(
        "SELECT e.event_id, c.txn_id FROM event_transactions e JOIN client_transactions c USING (txn_key)"
        f" WHERE c.device_nid = ? AND e.event_id IN ({marks})",
        device_nid,
        *event_ids,
    )
    return {row[0]: row[1] for row in rows}


async def forget(tx: Transaction, before_ts: int) -> None:
    """Drop what is older than ``before_ts``."""
    await tx.run("DELETE FROM client_transactions WHERE ts < ?", before_ts)
