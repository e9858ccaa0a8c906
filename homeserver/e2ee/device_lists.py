"""Whose keys a client has to fetch anew, and whom it need not track any more: ``device_lists`` of `/sync`.

Answered without a trip while neither keys nor memberships changed on the node.

spec: client-server-api/#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.storage import rooms, tracked_users, users
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.tracked_users import MemberChange

JOIN = "join"


async def changed(
    node: Node, user_nid: int, since: int, upto: int, rooms: Collection[int] | None = None
) -> tuple[list[str], list[str]]:
    """What changed for a resident after position ``since``: the users whose keys to fetch, the users to forget.

    The first are those who share a room and whose keys changed, and those who have come to share one; the second
    those who shared one and do not now. What happened after ``upto`` may be included, and is told again then.
    ``rooms``: row ids of the rooms that the user is in, if the caller knows them; that saves trips.

    spec: client-server-api/#e2e-extensions-to-sync
    """
    if since >= upto:
        return [], []
    keys = node.changes.any(Stream.DEVICE_LISTS, since)
    members = node.changes.any(Stream.MEMBERS, since) and (
        rooms is None
        or node.changes.changed(Stream.MEMBERSHIP, user_nid, since)
        or any(node.changes.changed(Stream.MEMBERS, room_nid, since) for room_nid in rooms)
    )
    if not keys and not members:
        return [], []
    return await node.read(_changed, user_nid, since, keys, members)


async def everybody(node: Node, user_nid: int) -> list[str]:
    """All whose keys concern a resident: for whom it is not known any more which of them changed."""
    return sorted(await node.read(rooms.companions, user_nid))


async def _changed(
    tx: Transaction, user_nid: int, since: int, keys: bool, members: bool
) -> tuple[list[str], list[str]]:
    found = set(await tracked_users.changed_since(tx, user_nid, since)) if keys else set()
    left: set[str] = set()
    if members:
        joined, left = await _moved(tx, user_nid, since)
        found |= joined
    return sorted(found), sorted(left - found)


async def _moved(tx: Transaction, user_nid: int, since: int) -> tuple[set[str], set[str]]:
    """Who has come to share a room with a resident by what happened in their rooms; and who shares none any more."""
    user_id = await users.id_of(tx, user_nid)
    changes = await tracked_users.member_changes(tx, user_nid, since)
    entered, quit_ = _own_moves(changes, user_id)
    found: set[str] = set()
    gone: set[str] = set()
    for change in changes:
        was_in = _is_join(change.before)
        if change.user_id != user_id and was_in != (change.now == JOIN):
            if change.now == JOIN and change.room_nid not in quit_:
                found.add(change.user_id)
            elif was_in and change.room_nid not in entered:
                gone.add(change.user_id)
    for room_nid, member in await tracked_users.members_of(tx, [*entered, *quit_]):
        (found if room_nid in entered else gone).add(member)
    gone -= found | {user_id}
    return found - {user_id}, gone - await tracked_users.sharing_with(tx, user_nid, gone)


def _own_moves(changes: Sequence[MemberChange], user_id: str) -> tuple[set[int], set[int]]:
    """The rooms that a user has joined and left."""
    entered: set[int] = set()
    quit_: set[int] = set()
    for change in changes:
        if change.user_id == user_id and _is_join(change.before) != (change.now == JOIN):
            (entered if change.now == JOIN else quit_).add(change.room_nid)
    return entered, quit_


def _is_join(event: bytes | None) -> bool:
    return event is not None and orjson.loads(event + b"}")["content"].get("membership") == JOIN
