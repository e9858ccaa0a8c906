"""Pushers of residents: where a user's notifications go. ``definition`` is the JSON that the client gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


async def put(tx: Transaction, user_nid: int, device_nid: int, app_id: str, pushkey: str, definition: bytes) -> None:
    """Set a pusher of a user."""
    await tx.run(
        "INSERT INTO pushers (user_nid, app_id, pushkey, device_nid, definition) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (user_nid, app_id, pushkey) DO UPDATE SET device_nid = excluded.device_nid,"
        " definition = excluded.definition",
        user_nid,
        app_id,
        pushkey,
        device_nid,
        definition,
    )


async def of_user(tx: Transaction, user_nid: int) -> list[bytes]:
    """The definitions of a user's pushers."""
    rows = await tx.all("SELECT definition FROM pushers WHERE user_nid = ? ORDER BY app_id, pushkey", user_nid)
    return [row[0] for row in rows]


async def count(tx: Transaction, user_nid: int) -> int:
    """How many pushers a user has."""
    row = await tx.one("SELECT COUNT(*) FROM pushers WHERE user_nid = ?", user_nid)
    assert row is not None
    return int(row[0])


async def delete(tx: Transaction, user_nid: int, app_id: str, pushkey: str) -> None:
    """Remove a pusher of a user."""
    await tx.run("DELETE FROM pushers WHERE user_nid = ? AND app_id = ? AND pushkey = ?", user_nid, app_id, pushkey)


async def delete_of_others(tx: Transaction, user_nid: int, app_id: str, pushkey: str) -> None:
    """Remove the pushers of everybody else that have the same app and key."""
    await tx.run("DELETE FROM pushers WHERE user_nid <> ? AND app_id = ? AND pushkey = ?", user_nid, app_id, pushkey)
