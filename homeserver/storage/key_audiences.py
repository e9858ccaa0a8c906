"""Whom a change of a user's public keys concerns: who shares a room with them, and which nodes hold copies.

Who holds copies is written beside the truth, in the transaction that hands the keys out or changes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage import device_keys, streams
from homeserver.storage.device_keys import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.device_keys import UserKeys
    from homeserver.storage.engine import Transaction


class Audience(NamedTuple):
    """Whom a change of a user's keys concerns.

    ``residents``: row ids of those who share a room with the user here; ``sharing``: the nodes with members in the
    user's rooms, this one included; ``holders``: the other nodes that were given the keys; ``servers``: the other
    servers that take part in the user's rooms. ``changed_at``: the position of the change before.
    """

    residents: set[int]
    sharing: set[str]
    holders: set[str]
    servers: set[str]
    changed_at: int | None


NOBODY = Audience(set(), set(), set(), set(), None)


async def of_user(tx: Transaction, user_nid: int) -> Audience:
    """Whom a change of the user's keys concerns. One trip."""
    rows = await tx.all(
        "WITH mine AS (SELECT room_nid FROM memberships WHERE user_nid = ? AND membership = 'join')"
        " SELECT 0, r.user_nid, '' FROM mine JOIN memberships m ON m.room_nid = mine.room_nid"
        " JOIN residents r ON r.user_nid = m.user_nid WHERE m.membership = 'join'"
        " UNION SELECT 1, 0, n.node FROM mine JOIN room_nodes n ON n.room_nid = mine.room_nid WHERE n.members > 0"
        " UNION SELECT 2, 0, node FROM key_holders WHERE user_nid = ?"
        " UNION SELECT 3, 0, p.server FROM mine JOIN peer_rooms p ON p.room_nid = mine.room_nid"
        " WHERE p.until_pos IS NULL UNION SELECT 4, pos, '' FROM device_list_changes WHERE user_nid = ?",
        *[user_nid] * 3,
    )
    return Audience(
        {nid for kind, nid, _ in rows if kind == 0},
        {node for kind, _, node in rows if kind == 1},
        {node for kind, _, node in rows if kind == 2},
        {server for kind, _, server in rows if kind == 3},
        next((pos for kind, pos, _ in rows if kind == 4), None),
    )


def note_change(tx: Transaction, user_nid: int, pos: int) -> None:
    """Queue that a user's public keys changed at a position."""
    tx.later(
        "INSERT INTO device_list_changes (user_nid, pos) VALUES (?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET pos = excluded.pos",
        [(user_nid, pos)],
    )


def set_holders(tx: Transaction, user_nid: int, gained: Collection[str], lost: Collection[str]) -> None:
    """Queue which nodes are given a resident's keys, and which are told to forget them."""
    tx.later("DELETE FROM key_holders WHERE user_nid = ? AND node = ?", [(user_nid, node) for node in lost])
    tx.later(
        "INSERT INTO key_holders (user_nid, node) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(user_nid, node) for node in gained],
    )


async def lend(tx: Transaction, user_ids: Sequence[str], holder: str) -> tuple[int, dict[str, UserKeys]]:
    """The keys of residents, for a node that will keep copies: it is told of changes from now on.

    Returns the position as of which they are, too.
    """
    for part in in_parts(user_ids, AT_ONCE):
        await tx.run(
            "INSERT INTO key_holders (user_nid, node) SELECT u.user_nid, CAST(? AS TEXT) FROM users u"
            f" JOIN residents r ON r.user_nid = u.user_nid WHERE u.user_id IN ({','.join('?' * len(part))})"
            " ON CONFLICT DO NOTHING",
            holder,
            *part,
        )
    return await streams.current(tx), await device_keys.of_users(tx, user_ids)
