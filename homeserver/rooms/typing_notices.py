"""Who is typing, in memory only: a notice ends by itself, and is told on all nodes to which receipts may flow.

Invariant: only a change of who is typing wakes anybody; a client that says once more that it goes on typing wakes
nobody.

spec: client-server-api/#typing-notifications
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import nlargest
from typing import TYPE_CHECKING

import orjson

from config.residency import DataClass
from homeserver.protocol import canonical
from homeserver.protocol.errors import Forbidden
from homeserver.residency import gate
from homeserver.rooms import outgoing, state, ticks
from homeserver.rooms.outgoing import Fleeting, pass_on
from homeserver.rooms.state import Rooms
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Caller, Server
    from homeserver.rooms.state import Room
    from homeserver.runtime.clock import Timer
    from homeserver.storage.nodes import Node

LONGEST_MS = 120_000
"""A client that types for longer says so again."""

DEFAULT_MS = 30_000
TOLD_AGAIN = 30.0
"""Seconds after which other servers are told once more: they forget who types after a minute or so."""
ROOMS_REMEMBERED = 10_000


@dataclass(eq=False, slots=True)
class Typists:
    """Who is typing in a room, each until a moment of the monotonic clock; ``tick``: when that set last changed.

    ``told``: when other servers were last told of a resident who types.
    """

    room: Room
    until: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    tick: int = 0
    timer: Timer | None = None

    def event(self) -> bytes:
        """The m.typing event. spec: client-server-api/#mtyping"""
        return orjson.dumps({"type": "m.typing", "content": {"user_ids": sorted(self.until)}})


class Typing:
    """The rooms of a node in which somebody types or did lately (``node.memory(Typing)``)."""

    def __init__(self) -> None:
        self.rooms: Lru[str, Typists] = Lru(ROOMS_REMEMBERED)
        self.last_tick = 0


async def set_typing(server: Server, caller: Caller, room_id: str, milliseconds: int) -> None:
    """The caller types for that long; 0: no more. Raises Forbidden for who is not in the room.

    spec: client-server-api/#put_matrixclientv3roomsroomidtypinguserid
    """
    room = await state.find(caller.node, room_id)
    if room is None or caller.user_id not in room.residents:
        raise Forbidden("You are not in that room")
    seconds = min(milliseconds, LONGEST_MS) / 1000
    note(server, caller.node, room, caller.user_id, seconds)
    _tell_servers(server, caller.node, room, caller.user_id, bool(seconds))
    for name in room.now.nodes:
        if name == caller.node.name:
            continue
        node = server.nodes[name]
        if not gate.may(server, DataClass.RECEIPTS, caller.node.jurisdiction, node.jurisdiction):
            continue
        replica = node.memory(Rooms).get(room_id)
        if replica is not None:  # else: nobody there has looked at the room for long
            note(server, node, replica, caller.user_id, seconds)


def _tell_servers(server: Server, node: Node, room: Room, user_id: str, typing: bool) -> None:
    """Tell the other servers that a resident types, again and again as long as they do, or types no more.

    spec: server-server-api/#typing-notifications
    """
    typists = node.memory(Typing).rooms.get(room.room_id)
    if typists is None or not room.now.servers:
        return
    now = server.clock.monotonic()
    last = typists.told.pop(user_id, None)
    if typing:
        fresh = last is None or now - last >= TOLD_AGAIN
        typists.told[user_id] = now if fresh else last or now
    else:
        fresh = last is not None
    if fresh:
        content = canonical.encode({"room_id": room.room_id, "typing": typing, "user_id": user_id})
        edu = Fleeting(DataClass.RECEIPTS, "m.typing", content)
        pass_on(node, _largest(room.now.servers), f"typing {room.room_id} {user_id}", edu)


def _largest(servers: Mapping[str, int]) -> Collection[str]:
    """The servers that are told: the same ones when it begins and when it ends."""
    if len(servers) <= outgoing.MOST_TOLD:
        return servers
    return nlargest(outgoing.MOST_TOLD, servers, key=lambda name: (servers[name], name))


def note(server: Server, node: Node, room: Room, user_id: str, seconds: float) -> None:
    """Somebody types in a room for so many seconds, as a node shows it; 0: no more."""
    typing = node.memory(Typing)
    typists = typing.rooms.get(room.room_id)
    if typists is None:
        if not seconds:
            return
        typists = typing.rooms[room.room_id] = Typists(room)
    typists.room = room
    changed = (user_id in typists.until) != bool(seconds)
    if seconds:
        typists.until[user_id] = server.clock.monotonic() + seconds
    else:
        typists.until.pop(user_id, None)
    if changed:
        _tell(server, node, typists)
    _set_timer(server, node, typists)


def _set_timer(server: Server, node: Node, typists: Typists) -> None:
    if typists.until and typists.timer is None:
        left = min(typists.until.values()) - server.clock.monotonic()
        typists.timer = server.clock.call_later(max(left, 0.0), _expire, server, node, typists)


def _expire(server: Server, node: Node, typists: Typists) -> None:
    """Some notice may have ended: the timer was set before it was renewed."""
    typists.timer = None
    now = server.clock.monotonic()
    over = [user_id for user_id, until in typists.until.items() if until <= now]
    for user_id in over:
        del typists.until[user_id]
        if user_id in typists.told:
            _tell_servers(server, node, node.memory(Rooms).get(typists.room.room_id) or typists.room, user_id, False)
    if over:
        _tell(server, node, typists)
    _set_timer(server, node, typists)


def _tell(server: Server, node: Node, typists: Typists) -> None:
    typists.tick = node.memory(Typing).last_tick = ticks.tick(node)
    room = node.memory(Rooms).get(typists.room.room_id) or typists.room
    server.wake_residents(node, room.residents.values())


def event_of(node: Node, room_id: str, seen: int) -> bytes | None:
    """The m.typing event of a room, when who is typing has changed after the tick ``seen``; at first (0) not while
    nobody types.
    """
    typists = node.memory(Typing).rooms.get(room_id)
    if typists is None or typists.tick <= seen or not (typists.until or seen):
        return None
    return typists.event()


def since(node: Node, seen: int) -> list[tuple[str, list[str]]]:
    """The rooms in which who is typing has changed after the tick ``seen``, each with who does now."""
    typing = node.memory(Typing)
    if typing.last_tick <= seen:
        return []
    return [(each.room.room_id, sorted(each.until)) for each in typing.rooms.values() if each.tick > seen]


def changed(node: Node, seen: int) -> bool:
    """Whether anything was told after the tick ``seen``."""
    return node.memory(Typing).last_tick > seen
