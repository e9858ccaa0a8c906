"""How a user has sorted their rooms: which are direct chats, and which have which tags. In memory until their account
data changes.

spec: client-server-api/#direct-messaging, client-server-api/#room-tagging
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from homeserver.accounts import ignored
from homeserver.runtime.lru import Lru
from homeserver.storage import account_data, sliding
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Caller

DIRECT: Final = "m.direct"
TAG: Final = "m.tag"

NO_ROOMS: Final[frozenset[str]] = frozenset()


class Marks(Mirror):
    """What is known of residents (``node.memory(Marks)``), each as of a position: the rooms that are direct chats, by
    room id; and tags by room row id.
    """

    def __init__(self) -> None:
        self.direct: Lru[int, tuple[int, frozenset[str]]] = Lru(200_000, lambda held: 1 + len(held[1]))
        self.tags: Lru[int, tuple[int, Mapping[int, frozenset[str]]]] = Lru(200_000, lambda held: 1 + len(held[1]))

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.direct.clear()
        self.tags.clear()


async def direct(caller: Caller) -> frozenset[str]:
    """The room ids of the caller's direct chats. Usually no trip; one tells whom they ignore, too (see ignored.py)."""
    node, user_nid, memory = caller.node, caller.user_nid, caller.node.memory(Marks).direct
    held = memory.get(user_nid)
    if held is not None and not node.changes.changed(Stream.ACCOUNT_DATA, user_nid, held[0]):
        return held[1]
    at = node.position
    contents = await node.read(account_data.of_types, user_nid, (DIRECT, ignored.LIST))
    ignored.remember(node, user_nid, at, contents.get(ignored.LIST))
    found = _rooms_in(contents[DIRECT]) if DIRECT in contents else NO_ROOMS
    if held is not None and held[1] == found:
        found = held[1]
    memory[user_nid] = (at, found)
    return found


def _rooms_in(content: bytes) -> frozenset[str]:
    """The rooms of an m.direct entry, which a client may have set to anything."""
    by_user = orjson.loads(content)
    lists = [rooms for rooms in by_user.values() if isinstance(rooms, list)]
    return frozenset(room for rooms in lists for room in rooms if isinstance(room, str))


async def tags(caller: Caller) -> Mapping[int, frozenset[str]]:
    """The tags of the caller's rooms, by row id. Usually no trip."""
    node, memory = caller.node, caller.node.memory(Marks).tags
    held = memory.get(caller.user_nid)
    if held is not None and not node.changes.changed(Stream.ACCOUNT_DATA, caller.user_nid, held[0]):
        return held[1]
    at = node.position
    rows = await node.read(sliding.account_data_of_type, caller.user_nid, TAG)
    found = {room_nid: _tags_in(content) for room_nid, content in rows}
    memory[caller.user_nid] = (at, found)
    return found


def _tags_in(content: bytes) -> frozenset[str]:
    found = orjson.loads(content).get("tags")
    return frozenset(found) if isinstance(found, dict) else NO_ROOMS
