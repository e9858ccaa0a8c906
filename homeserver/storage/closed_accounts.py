"""Which accounts have been closed for ever, as the directory knows it, where no older archive of their node reaches.

One hash and one bit for each, and nothing that a route does not say already of who it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.runtime.parts import in_parts
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.directory import Directory
    from homeserver.storage.engine import Transaction

AT_ONCE: Final = 1000
"""Accounts that are looked up in one statement."""


async def note(directory: Directory, localpart: str, *, erased: bool) -> None:
    """Note that an account is closed; who was noted as ``erased`` stays so. Raises NodeUnavailable."""
    await directory.engine.write(_note, directory.hash(Kind.USER, localpart), erased)


async def _note(tx: Transaction, key: bytes, erased: bool) -> None:
    await tx.run(
        "INSERT INTO closed_accounts (route_key, erased) VALUES (?, ?) ON CONFLICT (route_key)"
        " DO UPDATE SET erased = CASE WHEN excluded.erased = 1 THEN 1 ELSE closed_accounts.erased END",
        key,
        int(erased),
    )


async def on_node(tx: Transaction, after: str) -> list[tuple[str, bool]]:
    """The closed accounts of a node behind a user id: whose, and whether they were erased."""
    rows = await tx.all(
        "SELECT u.user_id, e.user_nid IS NOT NULL FROM users u JOIN accounts a ON a.user_nid = u.user_nid"
        " LEFT JOIN erased_users e ON e.user_nid = a.user_nid"
        " WHERE u.user_id > ? AND a.deactivated_ts IS NOT NULL ORDER BY u.user_id LIMIT ?",
        after,
        AT_ONCE,
    )
    return [(str(row[0]), bool(row[1])) for row in rows]


async def among(directory: Directory, localparts: Collection[str]) -> dict[str, bool]:
    """Those whose accounts are closed, and whether they were erased too. Raises NodeUnavailable."""
    names = {directory.hash(Kind.USER, localpart): localpart for localpart in localparts}
    keys = list(names)
    found: dict[str, bool] = {}
    for part in in_parts(keys, AT_ONCE):
        rows = await directory.engine.read(_among, part)
        found.update((names[key], erased) for key, erased in rows)
    return found


async def _among(tx: Transaction, keys: Sequence[bytes]) -> list[tuple[bytes, bool]]:
    marks = ",".join("?" * len(keys))
    rows = await tx.all(f"SELECT route_key, erased FROM closed_accounts WHERE route_key IN ({marks})", *keys)
    return [(bytes(key), bool(erased)) for key, erased in rows]
