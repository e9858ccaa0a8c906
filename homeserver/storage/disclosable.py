"""The only columns of accounts that a disclosure can read: who rests here, since when, phone numbers and addresses.

Each function names one field; there is none for anything else, and this module's tables are held by
tests/test_architecture.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


async def resident(tx: Transaction, user_id: str) -> int | None:
    """The row id of somebody who has an account that rests on this node."""
    row = await tx.one(
        "SELECT a.user_nid FROM users u JOIN residents r ON r.user_nid = u.user_nid"
        " JOIN accounts a ON a.user_nid = u.user_nid WHERE u.user_id = ?",
        user_id,
    )
    return None if row is None else int(row[0])


async def phone_numbers(tx: Transaction, user_nid: int, until: int) -> list[str]:
    """The phone numbers of an account that it has, and had before ``until`` (milliseconds since 1970)."""
    return await _addresses(tx, user_nid, "msisdn", until)


async def email_addresses(tx: Transaction, user_nid: int, until: int) -> list[str]:
    """The email addresses of an account that it has, and had before ``until`` (milliseconds since 1970)."""
    return await _addresses(tx, user_nid, "email", until)


async def _addresses(tx: Transaction, user_nid: int, medium: str, until: int) -> list[str]:
    rows = await tx.all(
        "SELECT address FROM threepids WHERE user_nid = ? AND medium = ? AND added_ts < ? ORDER BY added_ts, address",
        user_nid,
        medium,
        until,
    )
    return [str(row[0]) for row in rows]


async def registration_time(tx: Transaction, user_nid: int, until: int) -> int | None:
    """When an account was made, in milliseconds since 1970, if that was before ``until``."""
    row = await tx.one("SELECT created_ts FROM accounts WHERE user_nid = ? AND created_ts < ?", user_nid, until)
    return None if row is None else int(row[0])
