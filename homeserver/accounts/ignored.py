"""Whom a user ignores: what these send is not shown to them, but for state.

spec: client-server-api/#ignoring-users
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from homeserver.runtime.lru import Lru
from homeserver.storage import account_data
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from homeserver.storage.nodes import Node

LIST: Final = "m.ignored_user_list"

NOBODY: Final[frozenset[str]] = frozenset()


class Ignored(Mirror):
    """The lists of residents in memory (``node.memory(Ignored)``), with the position at which they were read."""

    def __init__(self) -> None:
        self.of_user: Lru[int, tuple[int, frozenset[str]]] = Lru(200_000, lambda held: 1 + len(held[1]))

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.of_user.clear()


async def of_user(node: Node, user_nid: int) -> frozenset[str]:
    """The user ids that a resident ignores. Usually no trip."""
    known = remembered(node, user_nid)
    if known is not None:
        return known
    await node.start()
    at = node.position
    return remember(node, user_nid, at, await node.read(account_data.find, user_nid, account_data.GLOBAL, LIST))


def remembered(node: Node, user_nid: int) -> frozenset[str] | None:
    """The user ids that a resident ignores; None when a trip would be needed."""
    held = node.memory(Ignored).of_user.get(user_nid)
    if held is None or node.changes.changed(Stream.ACCOUNT_DATA, user_nid, held[0]):
        return None
    return held[1]


def remember(node: Node, user_nid: int, at: int, content: bytes | None) -> frozenset[str]:
    """Keep what somebody has read of a resident, after the position ``at``; returns what it says."""
    listed = None if content is None else orjson.loads(content).get("ignored_users")
    found = frozenset(listed) if isinstance(listed, dict) and listed else NOBODY
    node.memory(Ignored).of_user[user_nid] = (at, found)
    return found
