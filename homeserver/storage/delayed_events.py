"""Events that residents want to be sent later. What is over keeps its row for a while, without the content, so that who
asks again learns what became of it.

Invariant: ``action`` is set once, by whoever comes first: the moment itself, or who sends or cancels it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction

_COLUMNS = (
    "d.delayed_nid, d.delay_id, d.user_nid, u.user_id, d.device_nid, d.room_id, d.type, d.state_key, d.content,"
    " d.delay_ms, d.running_since, d.due_ts, d.action, d.sticky_ms"
)
_FROM = "FROM delayed_events d JOIN users u USING (user_nid)"


class Delayed(NamedTuple):
    """One of them; the columns are those of the table. ``content``: JSON bytes, None once it is over."""

    delayed_nid: int
    delay_id: str
    user_nid: int
    user_id: str
    device_nid: int
    room_id: str
    type: str
    state_key: str | None
    content: bytes | None
    delay_ms: int
    running_since: int
    due_ts: int | None
    action: str | None
    sticky_ms: int | None


class NewDelayed(NamedTuple):
    """What is to be sent later, and by whom (row ids of the node)."""

    delay_id: str
    user_nid: int
    device_nid: int
    txn_key: bytes | None
    room_id: str
    type: str
    state_key: str | None
    content: bytes
    delay_ms: int
    sticky_ms: int | None


async def add(tx: Transaction, new: NewDelayed, now_ms: int) -> None:
    """Store one whose delay begins now."""
    await tx.run(
        "INSERT INTO delayed_events (delay_id, user_nid, device_nid, txn_key, room_id, type, state_key, content,"
        " delay_ms, sticky_ms, running_since, due_ts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *new,
        now_ms,
        now_ms + new.delay_ms,
    )


@asks_once
async def of_transaction(tx: Transaction, txn_key: bytes) -> str | None:
    """The delay id that a request with this transaction key was given before."""
    row = await tx.one("SELECT delay_id FROM delayed_events WHERE txn_key = ?", txn_key)
    return None if row is None else str(row[0])


@asks_once
async def find(tx: Transaction, delay_id: str) -> Delayed | None:
    """The one with this id, which may be over."""
    row = await tx.one(f"SELECT {_COLUMNS} {_FROM} WHERE d.delay_id = ?", delay_id)
    return None if row is None else Delayed(*row)


async def due_times(tx: Transaction, user_nid: int) -> list[int]:
    """When those of a resident that are not over fall due, the first first."""
    rows = await tx.all(
        "SELECT due_ts FROM delayed_events WHERE user_nid = ? AND due_ts IS NOT NULL ORDER BY due_ts", user_nid
    )
    return [row[0] for row in rows]


@asks_once
async def scheduled(tx: Transaction, user_nid: int) -> list[Delayed]:
    """Those of a resident that wait, the first to be sent first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} {_FROM} WHERE d.user_nid = ? AND d.due_ts IS NOT NULL AND d.action IS NULL"
        " ORDER BY d.due_ts, d.delayed_nid",
        user_nid,
    )
    return [Delayed(*row) for row in rows]


@asks_once
async def due(tx: Transaction, upto_ms: int, after: tuple[int, int], limit: int) -> Sequence[Delayed]:
    """Those of all residents that fall due until then, in order, behind the moment and row id ``after``."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} {_FROM} WHERE d.due_ts <= ? AND (d.due_ts, d.delayed_nid) > (?, ?)"
        " ORDER BY d.due_ts, d.delayed_nid LIMIT ?",
        upto_ms,
        *after,
        limit,
    )
    return [Delayed(*row) for row in rows]


@asks_once
async def next_due(tx: Transaction, after_ms: int) -> int | None:
    """When the first falls due that does so later than that."""
    row = await tx.one("SELECT due_ts FROM delayed_events WHERE due_ts > ? ORDER BY due_ts LIMIT 1", after_ms)
    return None if row is None else int(row[0])


async def take(tx: Transaction, delay_id: str, now_ms: int, *, early: bool) -> Delayed | None:
    """Take one in order to send it: if its moment has come, or ``early``; one that was taken and is not over may be
    taken again. None: it is over, or cancelled, or put off."""
    taken = await tx.run(
        "UPDATE delayed_events SET action = 'send', due_ts = CASE WHEN due_ts > ? THEN ? ELSE due_ts END"
        " WHERE delay_id = ? AND due_ts <= ? AND (action IS NULL OR action = 'send')",
        now_ms,
        now_ms,
        delay_id,
        2**62 if early else now_ms,
    )
    return await find(tx, delay_id) if taken else None


async def cancel(tx: Transaction, delay_id: str, now_ms: int) -> bool:
    """Cancel one that waits; False when it does not."""
    changed = await tx.run(
        "UPDATE delayed_events SET action = 'cancel', content = NULL, due_ts = NULL, ended_ts = ?"
        " WHERE delay_id = ? AND action IS NULL",
        now_ms,
        delay_id,
    )
    return changed == 1


async def restart(tx: Transaction, delay_id: str, now_ms: int) -> bool:
    """Let the delay of one that waits begin anew; False when it does not wait."""
    changed = await tx.run(
        "UPDATE delayed_events SET running_since = ?, due_ts = ? + delay_ms WHERE delay_id = ? AND action IS NULL",
        now_ms,
        now_ms,
        delay_id,
    )
    return changed == 1


async def end(tx: Transaction, delay_id: str, now_ms: int) -> None:
    """Note that one was sent, or never will be."""
    await tx.run(
        "UPDATE delayed_events SET content = NULL, due_ts = NULL, ended_ts = ? WHERE delay_id = ?", now_ms, delay_id
    )


async def forget(tx: Transaction, before_ts: int) -> None:
    """Drop those that have been over since before then."""
    await tx.run("DELETE FROM delayed_events WHERE ended_ts < ?", before_ts)
