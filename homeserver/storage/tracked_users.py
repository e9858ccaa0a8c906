"""Whose devices the clients of a resident keep a list of: those who share a room with them, and whose keys changed.

spec: client-server-api/#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.device_keys import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction


async def changed_since(tx: Transaction, user_nid: int, since: int) -> list[str]:
    """Those who share a room with a resident, or are that resident, and whose keys changed after ``since``; and those
    whose keys the resident has signed since.
    """
    rows = await tx.all(
        "SELECT u.user_id FROM device_list_changes c JOIN users u ON u.user_nid = c.user_nid"
        " WHERE c.pos > ? AND (c.user_nid = ? OR EXISTS (SELECT 1 FROM memberships theirs"
        " JOIN memberships mine ON mine.room_nid = theirs.room_nid"
        " WHERE theirs.user_nid = c.user_nid AND theirs.membership = 'join'"
        " AND mine.user_nid = ? AND mine.membership = 'join'))"
        " UNION SELECT target_user_id FROM user_signatures WHERE signer_nid = ? AND pos > ?",
        since,
        user_nid,
        user_nid,
        user_nid,
        since,
    )
    return [row[0] for row in rows]


class MemberChange(NamedTuple):
    """Somebody's membership in a room in which a resident has one too changed.

    ``before`` is the member event as of then (client format), None when there was none; ``now`` is the membership now.
    """

    room_nid: int
    user_id: str
    before: bytes | None
    now: str | None


async def member_changes(tx: Transaction, user_nid: int, since: int) -> list[MemberChange]:
    """Memberships that changed after ``since`` in the rooms of a resident, once for each room and user."""
    rows = await tx.all(
        "SELECT c.room_nid, c.state_key, e.client, m.membership FROM"
        " (SELECT DISTINCT s.room_nid, s.state_key FROM memberships mine JOIN state_changes s"
        " ON s.room_nid = mine.room_nid AND s.type = 'm.room.member' AND s.pos > ?"
        " WHERE mine.user_nid = ? AND (mine.membership = 'join' OR mine.pos > ?)) c"
        " JOIN users u ON u.user_id = c.state_key"
        " LEFT JOIN memberships m ON m.room_nid = c.room_nid AND m.user_nid = u.user_nid"
        " LEFT JOIN events e ON e.event_nid = (SELECT p.event_nid FROM state_changes p WHERE p.room_nid = c.room_nid"
        " AND p.type = 'm.room.member' AND p.state_key = c.state_key AND p.pos <= ? ORDER BY p.pos DESC LIMIT 1)",
        since,
        user_nid,
        since,
        since,
    )
    return [MemberChange(*row) for row in rows]


async def members_of(tx: Transaction, room_nids: Collection[int]) -> list[tuple[int, str]]:
    """(room_nid, user id) of everybody who is in these rooms."""
    if not room_nids:
        return []
    rows = await tx.all(
        "SELECT m.room_nid, u.user_id FROM memberships m JOIN users u ON u.user_nid = m.user_nid"
        f" WHERE m.membership = 'join' AND m.room_nid IN ({','.join('?' * len(room_nids))})",
        *room_nids,
    )
    return [(row[0], row[1]) for row in rows]


async def sharing_with(tx: Transaction, user_nid: int, user_ids: Collection[str]) -> set[str]:
    """Which of these users share a joined room with a resident."""
    found: set[str] = set()
    for part in in_parts(user_ids, AT_ONCE):
        rows = await tx.all(
            f"SELECT u.user_id FROM users u WHERE u.user_id IN ({','.join('?' * len(part))})"
            " AND EXISTS (SELECT 1 FROM memberships theirs JOIN memberships mine ON mine.room_nid = theirs.room_nid"
            " WHERE theirs.user_nid = u.user_nid AND theirs.membership = 'join'"
            " AND mine.user_nid = ? AND mine.membership = 'join')",
            *part,
            user_nid,
        )
        found.update(row[0] for row in rows)
    return found
