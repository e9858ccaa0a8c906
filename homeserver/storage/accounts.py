"""Accounts of residents: password hash, rights, and whether the account still lives. Each rests on its owner's node."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage import users

if TYPE_CHECKING:
    from homeserver.storage.engine import Row, Transaction

_FIELDS = (
    "u.user_id, a.user_nid, a.password_hash, a.created_ts, a.admin, a.guest, a.locked, a.suspended, a.deactivated_ts"
)


class Account(NamedTuple):
    """One account. ``created_ts`` and ``deactivated_ts`` are milliseconds; no password hash: nobody can log in."""

    user_id: str
    user_nid: int
    password_hash: str | None
    created_ts: int
    admin: bool
    guest: bool
    locked: bool
    suspended: bool
    deactivated_ts: int | None


class Threepid(NamedTuple):
    """A phone number (``msisdn``) or address (``email``) of an account."""

    medium: str
    address: str
    validated_ts: int
    added_ts: int


def _account(row: Row) -> Account:
    user_id, user_nid, password_hash, created_ts, *flags, deactivated_ts = row
    admin, guest, locked, suspended = map(bool, flags)
    return Account(user_id, user_nid, password_hash, created_ts, admin, guest, locked, suspended, deactivated_ts)


async def create(
    tx: Transaction,
    user_id: str,
    password_hash: str | None,
    now_ms: int,
    *,
    admin: bool = False,
    guest: bool = False,
) -> int | None:
    """Make an account; returns its owner's row id, or None when the name has one already.

    The caller has claimed the user's route for this node (see `users.settle`).
    """
    user_nid = await users.settle(tx, user_id)
    made = await tx.run(
        "INSERT INTO accounts (user_nid, password_hash, created_ts, admin, guest) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        user_nid,
        password_hash,
        now_ms,
        admin,
        guest,
    )
    return user_nid if made else None


async def find(tx: Transaction, user_id: str) -> Account | None:
    """The account of a resident."""
    row = await tx.one(f"SELECT {_FIELDS} FROM users u JOIN accounts a USING (user_nid) WHERE u.user_id = ?", user_id)
    return None if row is None else _account(row)


async def living(tx: Transaction, user_nid: int) -> str | None:
    """The user id of a resident whose account is neither closed nor locked."""
    row = await tx.one(
        "SELECT u.user_id FROM users u JOIN accounts a USING (user_nid)"
        " WHERE u.user_nid = ? AND a.deactivated_ts IS NULL AND a.locked = 0",
        user_nid,
    )
    return None if row is None else str(row[0])


async def page(tx: Transaction, after: str, limit: int) -> list[Account]:
    """Accounts of this node in the order of their user ids, behind ``after``."""
    rows = await tx.all(
        f"SELECT {_FIELDS} FROM users u JOIN accounts a USING (user_nid)"
        " WHERE u.user_id > ? ORDER BY u.user_id LIMIT ?",
        after,
        limit,
    )
    return [_account(row) for row in rows]


async def set_password(tx: Transaction, user_nid: int, password_hash: str | None) -> None:
    """Replace the password hash."""
    await tx.run("UPDATE accounts SET password_hash = ? WHERE user_nid = ?", password_hash, user_nid)


async def make_user(tx: Transaction, user_nid: int, password_hash: str | None) -> bool:
    """Make a user of a guest; False when they are one already."""
    changed = await tx.run(
        "UPDATE accounts SET guest = 0, password_hash = ? WHERE user_nid = ? AND guest = 1 AND deactivated_ts IS NULL",
        password_hash,
        user_nid,
    )
    return changed == 1


async def renew_password(tx: Transaction, user_nid: int, stored: str, renewed: str) -> None:
    """Replace one hash of a password by another of the same, unless the password was changed meanwhile."""
    await tx.run(
        "UPDATE accounts SET password_hash = ? WHERE user_nid = ? AND password_hash = ?", renewed, user_nid, stored
    )


async def set_admin(tx: Transaction, user_nid: int, admin: bool) -> None:
    """Say whether the user administers the server."""
    await tx.run("UPDATE accounts SET admin = ? WHERE user_nid = ?", admin, user_nid)


async def set_locked(tx: Transaction, user_nid: int, locked: bool) -> None:
    """Lock or unlock. spec: client-server-api/#account-locking"""
    await tx.run("UPDATE accounts SET locked = ? WHERE user_nid = ?", locked, user_nid)


async def set_suspended(tx: Transaction, user_nid: int, suspended: bool) -> None:
    """Suspend, or end that. spec: client-server-api/#account-suspension"""
    await tx.run("UPDATE accounts SET suspended = ? WHERE user_nid = ?", suspended, user_nid)


async def deactivate(tx: Transaction, user_nid: int, now_ms: int) -> bool:
    """Close the account for ever: the row stays, so that nobody else gets the name. False when it was closed."""
    changed = await tx.run(
        "UPDATE accounts SET password_hash = NULL, admin = 0, deactivated_ts = ?"
        " WHERE user_nid = ? AND deactivated_ts IS NULL",
        now_ms,
        user_nid,
    )
    return changed == 1


# What a closed account keeps of these serves nobody: nobody can log in to read it.
_PRIVATE = (
    "threepids",
    "account_data",
    "push_rules",
    "pushers",
    "filters",
    "private_receipts",
    "unread_counts",
    "forgotten_rooms",
    "client_transactions",
    "delayed_events",
    "thread_subscriptions",
    "backup_sessions",
    "backup_versions",
    "consents",
    "roles",
    "presence",
    "profiles",
    "sessions",
    "device_days",
)


def wipe(tx: Transaction, user_nid: int) -> None:
    """Queue the deletion of all that is neither an event nor a device."""
    for table in _PRIVATE:
        tx.later(f"DELETE FROM {table} WHERE user_nid = ?", [(user_nid,)])
    tx.later("DELETE FROM user_signatures WHERE signer_nid = ?", [(user_nid,)])
    tx.later("DELETE FROM cross_signing_keys WHERE user_nid = ?", [(user_nid,)])


async def threepids(tx: Transaction, user_nid: int) -> list[Threepid]:
    """The phone numbers and addresses of an account."""
    rows = await tx.all(
        "SELECT medium, address, validated_ts, added_ts FROM threepids WHERE user_nid = ? ORDER BY added_ts, address",
        user_nid,
    )
    return [Threepid(*row) for row in rows]


async def threepid_owner(tx: Transaction, medium: str, address: str) -> str | None:
    """The user id of the resident whose phone number or address this is."""
    row = await tx.one(
        "SELECT u.user_id FROM threepids t JOIN users u USING (user_nid) WHERE t.medium = ? AND t.address = ?",
        medium,
        address,
    )
    return None if row is None else str(row[0])


async def add_threepid(tx: Transaction, user_nid: int, threepid: Threepid) -> bool:
    """Give an account a phone number or address, or the time of another proof; False when it is somebody else's."""
    changed = await tx.run(
        "INSERT INTO threepids (medium, address, user_nid, validated_ts, added_ts) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (medium, address) DO UPDATE SET validated_ts = excluded.validated_ts"
        " WHERE threepids.user_nid = excluded.user_nid",
        threepid.medium,
        threepid.address,
        user_nid,
        threepid.validated_ts,
        threepid.added_ts,
    )
    return changed == 1


async def remove_threepid(tx: Transaction, user_nid: int, medium: str, address: str) -> bool:
    """Take a phone number or address away from an account; False when it was not its."""
    removed = await tx.run(
        "DELETE FROM threepids WHERE medium = ? AND address = ? AND user_nid = ?", medium, address, user_nid
    )
    return removed == 1


async def signing_keys(tx: Transaction, user_nid: int) -> list[bytes]:
    """The JSON of the user's cross-signing keys."""
    return [row[0] for row in await tx.all("SELECT key FROM cross_signing_keys WHERE user_nid = ?", user_nid)]
