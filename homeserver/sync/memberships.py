"""The rooms of a resident, in memory until one of their memberships changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.runtime.lru import Lru
from homeserver.storage import rooms
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredMembership


class _Held:
    def __init__(self) -> None:
        self.of_user: Lru[int, tuple[int, Sequence[StoredMembership]]] = Lru(200_000, lambda held: 1 + len(held[1]))


async def of_user(node: Node, user_nid: int) -> Sequence[StoredMembership]:
    """All memberships of a resident, without the rooms that they forgot."""
    memory = node.memory(_Held).of_user
    held = memory.get(user_nid)
    if held is not None and not node.changes.changed(Stream.MEMBERSHIP, user_nid, held[0]):
        return held[1]
    at = node.position
    found = await node.read(rooms.memberships_of, user_nid)
    memory[user_nid] = (at, found)
    return found
