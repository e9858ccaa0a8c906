"""What application services of a node are to be sent, and how far each has been.

An event for several services is one row. A transaction is kept, to the byte, from before it is sent the first time
until the service has answered with success; the position behind it moves in the same write that forgets it.

spec: application-service-api/#pushing-events
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.runtime.parts import in_parts
from homeserver.storage.events import COLUMNS, StoredEvent
from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction

AT_ONCE = 500
"""Values in one statement."""

_MADE = (
    "SELECT p.user_nid FROM pins p JOIN accounts a ON a.user_nid = p.user_nid"
    " WHERE p.how = 'service' AND a.password_hash IS NULL"
)
"""The residents whom services have made, and nobody has got a password for since."""


class Kind(StrEnum):
    """What waits at a position; what its ``ref_nid`` is stands behind each."""

    EVENT = "event"  # the event
    RECEIPT = "receipt"  # the room
    PRIVATE_RECEIPT = "private_receipt"  # the user
    TO_DEVICE = "to_device"  # the device


class Item(NamedTuple):
    """What waits for services at a position of the node."""

    pos: int
    kind: Kind
    ref_nid: int


class Pending(NamedTuple):
    """A transaction that the service has not answered with success; it covers everything up to ``upto``."""

    txn_id: str
    upto: int
    body: bytes


class Standing(NamedTuple):
    """How far a service has been sent what is for it, and when it is tried again after so many failures in a row
    (milliseconds since 1970)."""

    sent_pos: int
    failures: int
    retry_ts: int
    pending: Pending | None


class ToldEvent(NamedTuple):
    """An event, the id of its room, and what the invited may see of it if it is an invitation of a resident."""

    event: StoredEvent
    room_id: str
    preview: bytes | None


class ToldReceipt(NamedTuple):
    """A receipt at a position; see `receipts.Receipt`."""

    pos: int
    room_id: str
    user_id: str
    thread_id: str
    event_id: str
    ts: int
    private: bool


class Letter(NamedTuple):
    """A message to a device."""

    pos: int
    user_id: str
    device_id: str
    message: bytes


async def has_made(tx: Transaction, user_nid: int) -> bool:
    """Whether a service has made the account of a resident, and has it to itself: nobody has a password for it."""
    return await tx.one(f"SELECT 1 FROM ({_MADE}) made WHERE made.user_nid = ?", user_nid) is not None


# marking ------------------------------------------------------------------------------------


def put(tx: Transaction, rows: Sequence[tuple[int, Kind, int, Sequence[str]]]) -> None:
    """Queue that something at a position is for services: (position, kind, row id, ids of the services)."""
    tx.later(
        "INSERT INTO service_items (pos, kind, ref_nid, services) VALUES (?, ?, ?, ?)",
        [(pos, kind.value, ref_nid, orjson.dumps(sorted(services)).decode()) for pos, kind, ref_nid, services in rows],
    )


# what waits ---------------------------------------------------------------------------------


async def waiting(tx: Transaction, service: str, after: int, upto: int, limit: int) -> tuple[list[Item], int]:
    """What is for a service with ``after < position <= upto``, in order, and the position up to which that is all.

    At most ``limit`` rows are looked at, whomever they are for.
    """
    rows = await tx.all(
        "SELECT pos, kind, ref_nid, services FROM service_items WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
        after,
        upto,
        limit,
    )
    reached = upto if len(rows) < limit else int(rows[-1][0])
    return [Item(int(r[0]), Kind(r[1]), int(r[2])) for r in rows if service in orjson.loads(r[3])], reached


async def events(tx: Transaction, event_nids: Sequence[int]) -> dict[int, ToldEvent]:
    """Events by row id."""
    found: dict[int, ToldEvent] = {}
    for part in in_parts(event_nids, AT_ONCE):
        rows = await tx.all(
            f"SELECT {COLUMNS}, r.room_id, i.state FROM events e JOIN users u ON u.user_nid = e.sender_nid"
            " JOIN rooms r ON r.room_nid = e.room_nid"
            " LEFT JOIN users g ON e.type = 'm.room.member' AND g.user_id = e.state_key"
            " LEFT JOIN invitations i ON i.user_nid = g.user_nid AND i.room_nid = e.room_nid"
            f" WHERE e.event_nid IN ({_marks(part)})",
            *part,
        )
        for row in rows:
            found[int(row[0])] = ToldEvent(StoredEvent(*row[:13]), row[13], row[14])
    return found


async def receipts(tx: Transaction, items: Sequence[Item]) -> list[ToldReceipt]:
    """The receipts that stand at the positions of items; not those that have been replaced, nor what people read in
    private."""
    found: list[ToldReceipt] = []
    for kind, table, column in (
        (Kind.RECEIPT, "receipts", "room_nid"),
        (Kind.PRIVATE_RECEIPT, "private_receipts", "user_nid"),
    ):
        chosen, private = [item for item in items if item.kind is kind], kind is Kind.PRIVATE_RECEIPT
        for part in in_parts(chosen, AT_ONCE):
            refs, places = sorted({item.ref_nid for item in part}), [item.pos for item in part]
            rows = await tx.all(
                "SELECT c.pos, r.room_id, u.user_id, c.thread_id, c.event_id, c.ts"
                f" FROM {table} c JOIN rooms r ON r.room_nid = c.room_nid JOIN users u ON u.user_nid = c.user_nid"
                f" WHERE c.{column} IN ({_marks(refs)}) AND c.pos IN ({_marks(places)})"
                + (f" AND c.user_nid IN ({_MADE})" if private else ""),
                *refs,
                *places,
            )
            found += [ToldReceipt(r[0], r[1], r[2], r[3], r[4], r[5], private) for r in rows]
    return sorted(found)


async def letters(tx: Transaction, positions: Sequence[int]) -> list[Letter]:
    """The messages to devices of users whom services have made that wait at some positions: those to people are for
    their own devices, whatever namespace they are in."""
    found: list[Letter] = []
    for part in in_parts(positions, AT_ONCE):
        rows = await tx.all(
            "SELECT t.pos, u.user_id, d.device_id, t.message FROM to_device t"
            " JOIN devices d ON d.device_nid = t.device_nid JOIN users u ON u.user_nid = t.user_nid"
            f" WHERE t.pos IN ({_marks(part)}) AND t.user_nid IN ({_MADE})",
            *part,
        )
        found += [Letter(*row) for row in rows]
    return sorted(found)


async def changed_keys(tx: Transaction, after: int, upto: int, limit: int) -> tuple[list[tuple[int, str]], int]:
    """The users whose public keys changed last with ``after < position <= upto`` (row id, user id), and the position up
    to which that is all."""
    rows = await tx.all(
        "SELECT c.pos, c.user_nid, u.user_id FROM device_list_changes c JOIN users u ON u.user_nid = c.user_nid"
        " WHERE c.pos > ? AND c.pos <= ? ORDER BY c.pos LIMIT ?",
        after,
        upto,
        limit,
    )
    return [(int(row[1]), row[2]) for row in rows], upto if len(rows) < limit else int(rows[-1][0])


async def rooms_of(tx: Transaction, user_ids: Sequence[str]) -> dict[str, list[str]]:
    """The ids of the rooms that users are in, as this node knows it, by user id."""
    found: dict[str, list[str]] = {}
    for part in in_parts(user_ids, AT_ONCE):
        rows = await tx.all(
            "SELECT u.user_id, r.room_id FROM users u JOIN memberships m ON m.user_nid = u.user_nid"
            f" JOIN rooms r ON r.room_nid = m.room_nid WHERE u.user_id IN ({_marks(part)}) AND m.membership = 'join'",
            *part,
        )
        for user_id, room_id in rows:
            found.setdefault(user_id, []).append(room_id)
    return found


# how far ------------------------------------------------------------------------------------


async def begin(tx: Transaction, service: str, user_id: str, position: int) -> Standing:
    """How far a service is; one that was not known here is at ``position``. ``user_id``: its own user, who resides
    here."""
    await tx.run(
        f"INSERT INTO application_services (service, user_nid, sent_pos) VALUES (?, {NID_OF}, ?)"
        " ON CONFLICT (service) DO NOTHING",
        service,
        user_id,
        position,
    )
    row = await tx.one(
        "SELECT sent_pos, failures, retry_ts, txn_id, txn_upto, txn_body FROM application_services WHERE service = ?",
        service,
    )
    assert row is not None
    pending = None if row[3] is None else Pending(row[3], int(row[4]), bytes(row[5]))
    return Standing(int(row[0]), int(row[1]), int(row[2]), pending)


async def keep(tx: Transaction, service: str, pending: Pending) -> None:
    """Keep a transaction before it is sent."""
    await tx.run(
        "UPDATE application_services SET txn_id = ?, txn_upto = ?, txn_body = ? WHERE service = ?", *pending, service
    )


async def done(tx: Transaction, service: str, upto: int) -> None:
    """The service has everything up to a position: its transaction is forgotten, and so is what nobody waits for."""
    tx.later(
        "DELETE FROM to_device WHERE pos IN (SELECT i.pos FROM service_items i WHERE i.kind = 'to_device'"
        " AND i.services = ? AND i.pos <= ?"
        " AND i.pos > (SELECT a.sent_pos FROM application_services a WHERE a.service = ?))"
        f" AND user_nid IN ({_MADE})",
        [(orjson.dumps([service]).decode(), upto, service)],
    )
    tx.later(
        "UPDATE application_services SET failures = 0, retry_ts = 0, txn_id = NULL, txn_upto = NULL, txn_body = NULL,"
        " sent_pos = CASE WHEN sent_pos < ? THEN ? ELSE sent_pos END WHERE service = ?",
        [(upto, upto, service)],
    )
    tx.later("DELETE FROM service_items WHERE pos <= (SELECT MIN(sent_pos) FROM application_services)", [()])


async def withdraw(tx: Transaction, service: str) -> None:
    """Forget the transaction of a service that has not had it, and may have it no more."""
    await tx.run(
        "UPDATE application_services SET txn_id = NULL, txn_upto = NULL, txn_body = NULL WHERE service = ?", service
    )


async def failed(tx: Transaction, service: str, failures: int, retry_ts: int) -> None:
    """Note a failure, and when the service is tried again."""
    await tx.run(
        "UPDATE application_services SET failures = ?, retry_ts = ? WHERE service = ?", failures, retry_ts, service
    )


async def keep_only(tx: Transaction, services: Collection[str]) -> None:
    """Forget the services that are not registered any more, and what waited for them alone."""
    rows = await tx.all("SELECT service FROM application_services")
    tx.later("DELETE FROM application_services WHERE service = ?", [row for row in rows if str(row[0]) not in services])
    if services:
        tx.later("DELETE FROM service_items WHERE pos <= (SELECT MIN(sent_pos) FROM application_services)", [()])
    else:
        tx.later("DELETE FROM service_items WHERE pos >= ?", [(0,)])


async def trim(tx: Transaction, most: int) -> int:
    """Keep the newest ``most`` of what waits; returns how many are gone."""
    return await tx.run(
        "DELETE FROM service_items WHERE pos <= (SELECT pos FROM service_items ORDER BY pos DESC LIMIT 1 OFFSET ?)",
        most,
    )


# directories of networks --------------------------------------------------------------------


async def publish(tx: Transaction, network: str, room_nid: int, published: bool) -> None:
    """Put a room into the directory of a network, or take it out."""
    if published:
        await tx.run(
            "INSERT INTO network_rooms (network, room_nid) VALUES (?, ?) ON CONFLICT DO NOTHING", network, room_nid
        )
    else:
        await tx.run("DELETE FROM network_rooms WHERE network = ? AND room_nid = ?", network, room_nid)


# aliases ------------------------------------------------------------------------------------


async def aliases(tx: Transaction, after: str, limit: int) -> list[tuple[str, str]]:
    """Room aliases of this node in their order, behind ``after``: (alias, room id)."""
    rows = await tx.all(
        "SELECT a.alias, r.room_id FROM aliases a JOIN rooms r ON r.room_nid = a.room_nid"
        " WHERE a.alias > ? ORDER BY a.alias LIMIT ?",
        after,
        limit,
    )
    return [(row[0], row[1]) for row in rows]


def _marks(values: Collection[object]) -> str:
    return ",".join("?" * len(values))
