"""Orders of disclosure, their approvals, and the register of what became of them; of a node, and resting there.

Entries of the register are appended and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Row, Transaction

OPEN = "open"
REFUSED = "refused"
OPENED = "opened"
EXPIRED = "expired"


class StoredOrder(NamedTuple):
    """An order. ``gag_until`` in milliseconds since 1970; None: it is under no gag, or under none any more."""

    number: int
    body: bytes
    state: str
    gag_until: int | None


class StoredEntry(NamedTuple):
    """An entry of the register, and what it hashes."""

    seq: int
    order: int
    entry: bytes
    details: bytes
    details_salt: bytes
    withheld: bytes
    withheld_salt: bytes


class Head(NamedTuple):
    """The end of a register: how many entries, SHA-256 of the last in hexadecimal, and how late it has been."""

    entries: int = 0
    digest: str = ""
    seen_ts: int = 0


_ORDER = "order_number, body, state, gag_until"
_ENTRY = "seq, order_number, entry, details, details_salt, withheld, withheld_salt"


def _bytes(value: bytes | str) -> bytes:
    """What is in a column; also a text, which somebody has put there by hand."""
    return value.encode() if isinstance(value, str) else bytes(value)


def _order(row: Row) -> StoredOrder:
    return StoredOrder(int(row[0]), _bytes(row[1]), str(row[2]), None if row[3] is None else int(row[3]))


# -- orders


async def next_number(tx: Transaction) -> int:
    """The number of the next order."""
    row = await tx.one("SELECT COALESCE(MAX(order_number), 0) FROM disclosure_orders")
    assert row is not None
    return int(row[0]) + 1


async def put_order(
    tx: Transaction, number: int, body: bytes, state: str, expires_ts: int, gag_until: int | None
) -> None:
    """Put an order down, or its narrowed version."""
    await tx.run(
        "INSERT INTO disclosure_orders (order_number, body, state, expires_ts, gag_until) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (order_number) DO UPDATE SET body = excluded.body, expires_ts = excluded.expires_ts",
        number,
        body,
        state,
        expires_ts,
        gag_until,
    )


@asks_once
async def order(tx: Transaction, number: int) -> StoredOrder | None:
    """An order of the node."""
    row = await tx.one(f"SELECT {_ORDER} FROM disclosure_orders WHERE order_number = ?", number)
    return None if row is None else _order(row)


@asks_once
async def orders(tx: Transaction) -> list[StoredOrder]:
    """All orders of the node, the oldest first."""
    return [_order(row) for row in await tx.all(f"SELECT {_ORDER} FROM disclosure_orders ORDER BY order_number")]


async def set_state(tx: Transaction, number: int, state: str) -> None:
    """Say what has become of an order."""
    await tx.run("UPDATE disclosure_orders SET state = ? WHERE order_number = ?", state, number)


async def end_gag(tx: Transaction, number: int) -> None:
    """An order may be told of from now on."""
    await tx.run("UPDATE disclosure_orders SET gag_until = NULL WHERE order_number = ?", number)


@asks_once
async def run_out(tx: Transaction, now: int) -> list[StoredOrder]:
    """Orders that are open though they have expired, or under a gag that is over."""
    rows = await tx.all(
        f"SELECT {_ORDER} FROM disclosure_orders WHERE (state = 'open' AND expires_ts <= ?) OR gag_until <= ?"
        " ORDER BY order_number",
        now,
        now,
    )
    return [_order(row) for row in rows]


@asks_once
async def any_runs(tx: Transaction) -> bool:
    """Whether there are orders or gags that will run out."""
    wanted = "SELECT 1 FROM disclosure_orders WHERE state = 'open' OR gag_until IS NOT NULL LIMIT 1"
    return await tx.one(wanted) is not None


async def put_approval(tx: Transaction, digest: str, approver: str, approval: bytes) -> None:
    """Put an approval down, in place of one that the same approver has made before."""
    await tx.run(
        "INSERT INTO disclosure_approvals (order_sha256, approver, approval) VALUES (?, ?, ?)"
        " ON CONFLICT (order_sha256, approver) DO UPDATE SET approval = excluded.approval",
        digest,
        approver,
        approval,
    )


@asks_once
async def approvals(tx: Transaction, digest: str) -> list[bytes]:
    """The approvals of an order, as it is by this digest."""
    wanted = "SELECT approval FROM disclosure_approvals WHERE order_sha256 = ? ORDER BY approver"
    return [bytes(row[0]) for row in await tx.all(wanted, digest)]


# -- the register


@asks_once
async def head(tx: Transaction) -> Head:
    """The end of the register."""
    row = await tx.one("SELECT entries, digest, seen_ts FROM disclosure_register_head WHERE id = 1")
    return Head() if row is None else Head(int(row[0]), str(row[1]), int(row[2]))


@asks_once
async def entries(tx: Transaction) -> list[StoredEntry]:
    """The whole register, in order."""
    rows = await tx.all(f"SELECT {_ENTRY} FROM disclosure_register ORDER BY seq")
    return [StoredEntry(int(row[0]), int(row[1]), *map(_bytes, row[2:])) for row in rows]


async def append(tx: Transaction, entry: StoredEntry, digest: str, now: int) -> None:
    """Put an entry at the end of the register, of which `head` was asked in the same transaction."""
    await tx.run(f"INSERT INTO disclosure_register ({_ENTRY}) VALUES (?, ?, ?, ?, ?, ?, ?)", *entry)
    await _end(tx, entry.seq, digest, now)


async def note_time(tx: Transaction, now: int) -> None:
    """Note how late it is, so that a clock that is set back is noticed."""
    held = await head(tx)
    await _end(tx, held.entries, held.digest, now)


async def set_time(tx: Transaction, now: int) -> None:
    """Have it be as late as that, though it has been later."""
    await tx.run("UPDATE disclosure_register_head SET seen_ts = ?", now)


async def _end(tx: Transaction, seq: int, digest: str, now: int) -> None:
    await tx.run(
        "INSERT INTO disclosure_register_head (id, entries, digest, seen_ts) VALUES (1, ?, ?, ?) ON CONFLICT (id)"
        " DO UPDATE SET entries = excluded.entries, digest = excluded.digest,"
        " seen_ts = CASE WHEN disclosure_register_head.seen_ts > excluded.seen_ts"
        " THEN disclosure_register_head.seen_ts ELSE excluded.seen_ts END",
        seq,
        digest,
        now,
    )
