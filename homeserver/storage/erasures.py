"""Users who asked that what they sent is forgotten as far as it can be, and since when.

spec: client-server-api/#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.runtime.parts import in_parts
from homeserver.storage.nodes import Mirror
from homeserver.storage.users import NID_OF

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.storage.engine import Transaction


AT_ONCE: Final = 500
"""Users who are looked up in one statement."""


class Erased(Mirror):
    """Everybody who is erased as far as a node knows (``node.memory(Erased)``): user id to position."""

    def __init__(self) -> None:
        self.known: Mapping[str, int] | None = None

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.known = None


async def all_of_them(tx: Transaction) -> dict[str, int]:
    """Everybody of whom this node knows: user id to the position since which they are erased."""
    rows = await tx.all("SELECT u.user_id, e.pos FROM erased_users e JOIN users u USING (user_nid)")
    return {row[0]: row[1] for row in rows}


async def of_room(tx: Transaction, room_nid: int) -> list[str]:
    """Those who ever had a membership in a room: user ids."""
    rows = await tx.all(
        "SELECT u.user_id FROM memberships m JOIN erased_users e USING (user_nid) JOIN users u USING (user_nid)"
        " WHERE m.room_nid = ?",
        room_nid,
    )
    return [str(row[0]) for row in rows]


async def is_erased(tx: Transaction, user_nid: int) -> bool:
    """Whether a user has been erased."""
    return await tx.one("SELECT 1 FROM erased_users WHERE user_nid = ?", user_nid) is not None


async def known_among(tx: Transaction, user_ids: Sequence[str]) -> list[str]:
    """Those of some users whom this node knows, and does not know to be erased."""
    found: list[str] = []
    for part in in_parts(user_ids, AT_ONCE):
        marks = ",".join("?" * len(part))
        rows = await tx.all(
            f"SELECT u.user_id FROM users u WHERE u.user_id IN ({marks})"
            " AND NOT EXISTS (SELECT 1 FROM erased_users e WHERE e.user_nid = u.user_nid)",
            *part,
        )
        found += [str(row[0]) for row in rows]
    return found


def put(tx: Transaction, user_ids: Sequence[str], pos: int) -> None:
    """Queue that users who are known here are erased since a position; who was before stays so since then."""
    tx.later(
        f"INSERT INTO erased_users (user_nid, pos) VALUES ({NID_OF}, ?) ON CONFLICT DO NOTHING",
        [(user_id, pos) for user_id in user_ids],
    )


async def nodes_met(tx: Transaction, user_nid: int) -> list[str]:
    """The nodes that may hold what a user sent: those with members, or the order, of rooms that they ever were in."""
    rows = await tx.all(
        "SELECT n.node FROM memberships m JOIN room_nodes n ON n.room_nid = m.room_nid WHERE m.user_nid = ?"
        " UNION SELECT r.home FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid"
        " WHERE m.user_nid = ? AND r.home IS NOT NULL",
        user_nid,
        user_nid,
    )
    return [str(row[0]) for row in rows]
