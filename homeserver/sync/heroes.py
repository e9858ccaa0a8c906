"""What a room without a name is called after: how many are in it, and its first members.

spec: client-server-api/#calculating-the-display-name-for-a-room
"""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

import orjson

from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import state
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Caller
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

HEROES = 5

_NAMES: tuple[StateKey, ...] = (("m.room.name", ""), ("m.room.canonical_alias", ""))


async def summary(caller: Caller, room: Room) -> bytes:
    """Counts of members, and the heroes of a room without a name. spec: client-server-api/#get_matrixclientv3sync"""
    found: dict[str, object] = {
        "m.joined_member_count": room.now.joined,
        "m.invited_member_count": room.now.invited,
    }
    names = [key for key in _NAMES if key in room.now.state]
    while missing := state.lacking(room.now, names):
        await state.load_entries(caller.node, room, missing)
    if not any(_named(room, key) for key in names):
        found["m.heroes"] = of_room(caller.node, room, caller.user_id)
    return orjson.dumps(found)


def _named(room: Room, key: StateKey) -> bool:
    event = room.now.event(key)
    name = None if event is None else event.content.get("name" if key[0] == "m.room.name" else "alias")
    return isinstance(name, str) and name != ""


class Eldest:
    """The first members of rooms, those who are there and those who are gone, with the position of the state that says
    so (``node.memory(Eldest)``): whoever is told of a change in a large room needs the same.
    """

    def __init__(self) -> None:
        self.members: Lru[int, tuple[int, list[str], list[str]]] = Lru(10_000)


def of_room(node: Node, room: Room, reader: str) -> list[str]:
    """The first members beside the reader: those who are in or invited, or else those who left."""
    memory = node.memory(Eldest).members
    held = memory.get(room.nid)
    if held is None or held[0] != room.state_pos:
        held = memory[room.nid] = (room.state_pos, _first(room, "join", "invite"), _first(room, "leave", "ban"))
    present, gone = ([user_id for user_id in users if user_id != reader] for users in held[1:])
    return (present or gone)[:HEROES]


def _first(room: Room, *memberships: str) -> list[str]:
    found = (
        (entry.nid or 0, key[1])
        for key, entry in room.now.state.items()
        if key[0] == MEMBER and entry.membership in memberships
    )
    return [user_id for _, user_id in nsmallest(HEROES + 1, found)]
