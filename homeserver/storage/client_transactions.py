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


async def ask(tx: Transaction, key: bytes, echo: Echo, ts: int, node: str) -> None:
    """Remember that ``node`` is asked to order the event of a transaction, before it is; also of a device that is gone
    by now (an event may be sent later), of a resident only."""
    await tx.run(
        "INSERT INTO client_transactions (txn_key, user_nid, device_nid, txn_id, ts, asked_node)"
        " SELECT ?, r.user_nid, COALESCE(d.device_nid, 0), CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS TEXT)"
        " FROM residents r LEFT JOIN devices d ON d.user_nid = r.user_nid AND d.device_nid = ?"
        " WHERE r.user_nid = ?"
        " ON CONFLICT (txn_key) DO UPDATE SET asked_node = excluded.asked_node",
        *(key, echo.txn_id, ts, node, echo.device_nid, echo.user_nid),
    )


async def asked_node(tx: Transaction, key: bytes) -> str | None:
    """The node that was asked last to order the event of a transaction, None when it was the device's own or none."""
    row = await tx.one("SELECT asked_node FROM client_transactions WHERE txn_key = ?", key)
    return None if row is None or row[0] is None else str(row[0])


async def asked(tx: Transaction) -> list[bytes]:
    """The keys of the transactions whose events other nodes were asked to order."""
    return [row[0] for row in await tx.all("SELECT txn_key FROM client_transactions WHERE asked_node IS NOT NULL")]


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
