"""Rooms whose home moves though nobody is moved: because an operator wants it, or because the node goes.

A room is ordered where it has members, so only a node with members becomes its home. Each step may be done twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import Conflict, NodeUnavailable, NotFound
from homeserver.residency.moves.rehoming import all_follow, heir_of, rehome
from homeserver.rooms import state
from homeserver.storage import application_services, rooms, surveys
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from homeserver.context import Server
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

AT_ONCE = 500
"""Rooms that are read together."""


# one, as an operator wants it ---------------------------------------------------------------


async def examine(server: Server, room_id: str, target: Node) -> tuple[Node, list[str]]:
    """The node that orders a room, and what keeps ``target`` from ordering it, in words. Raises NotFound,
    NodeUnavailable when the node that orders it is down."""
    home = await server.nodes.of_room(room_id)
    if home is None:
        raise NotFound(f"There is no room {room_id} here")
    if not home.engine.health().up:
        raise NodeUnavailable(home.name)
    if home is target:
        return home, []
    room = await state.get(home, room_id)
    members = sorted(name for name, count in room.now.nodes.items() if count > 0)
    found = []
    if not target.engine.health().up:
        found.append(f"node {target.name} is down")
    if target.name in server.policy.leaving:
        found.append(f"node {target.name} is about to go")
    if target.name not in members:
        there = f"; it has members on {', '.join(members)}" if members else ""
        found.append(f"nobody in that room rests on {target.name}, and a room is ordered where it has members{there}")
    missing = server.policy.now.room_may_span({home.jurisdiction, target.jurisdiction})
    return home, [*found, *(verdict.message for verdict in missing[:1])]


async def move(server: Server, room_id: str, target: Node) -> Node:
    """Have another node order a room; returns the one that did. Asked once more, it ends what was cut off.

    Raises Conflict when that cannot be, NotFound, NodeUnavailable.
    """
    home, obstacles = await examine(server, room_id, target)
    if obstacles:
        raise Conflict(f"{room_id} cannot be ordered by {target.name}: " + "; ".join(obstacles))
    if home is target:
        held = await state.get(home, room_id)
        await all_follow(server, room_id, target, {target.name, *held.now.nodes})
    elif not await rehome(server, room_id, home, target):
        raise Conflict(f"{target.name} has not been sent {room_id} yet: try again in a moment")
    return home


# all, because the node goes -----------------------------------------------------------------


async def give_up(
    server: Server, node: Node, leaving: Collection[str], *, wholly: bool, tell: Callable[[int], None]
) -> None:
    """Have other nodes, none of those that are ``leaving``, order the rooms that a node without users orders.

    ``wholly``: the node itself goes. Then a room that no other node holds is no more: nobody can come back to it. Else
    it stays where it is. ``tell`` is told how many have been seen to. Raises Conflict, NodeUnavailable.
    """
    last = done = 0
    while page := await node.read(surveys.rooms, last, AT_ONCE):
        for _, room_id, _ in page:
            if await server.nodes.directory.ask(Kind.ROOM, room_id) == node.name:
                await _give_up(server, node, room_id, leaving, wholly=wholly)
                done += 1
                tell(done)
        last = page[-1][0]
    if wholly:
        await _give_up_aliases(server, node)
        for other in server.nodes:
            if other is not node:
                await _forget(server, other, node.name)


async def _give_up(server: Server, node: Node, room_id: str, leaving: Collection[str], *, wholly: bool) -> None:
    room = await state.find(node, room_id)
    heir = None if room is None else heir_of(server, room, node, without=leaving)
    if room is not None and heir is None and wholly:
        heir = await _holder(server, room, node, leaving)
    if heir is not None:
        if not await rehome(server, room_id, node, server.nodes[heir]):
            raise Conflict(f"{heir} has not been sent a room yet that {node.name} orders: go on in a moment")
    elif wholly:
        await server.nodes.directory.release(Kind.ROOM, room_id)


async def _holder(server: Server, room: Room, node: Node, leaving: Collection[str]) -> str | None:
    """A node that has what somebody may read of a room which nobody is in any more; in the same jurisdiction first."""
    there = [other for other in server.nodes if other is not node and other.name not in leaving]
    for other in sorted(there, key=lambda each: (each.jurisdiction != node.jurisdiction, each.name)):
        if await state.find(other, room.room_id) is not None:
            return other.name
    return None


async def _give_up_aliases(server: Server, node: Node) -> None:
    """What names of rooms are left: those that were given while the rooms went, and those of rooms that are no more."""
    last = ""
    while page := await node.read(application_services.aliases, last, AT_ONCE):
        for alias, room_id in page:
            if await server.nodes.directory.ask(Kind.ALIAS, alias) != node.name:
                continue
            home = await server.nodes.of_room(room_id)
            if home is not None and home is not node:
                await rehome(server, room_id, node, home)
            else:
                await server.nodes.directory.release(Kind.ALIAS, alias)
        last = page[-1][0]


async def _forget(server: Server, node: Node, gone: str) -> None:
    """No room of a node's is said to be ordered by one that goes; not even those that it knows by an invitation."""
    last = 0
    while page := await node.read(surveys.rooms, last, AT_ONCE):
        for room_nid, room_id, home in page:
            if home == gone:
                becomes = await server.nodes.directory.ask(Kind.ROOM, room_id)
                await node.write(_set_home, room_nid, becomes)
                room = await state.find(node, room_id)
                if room is not None:
                    room.home = becomes
        last = page[-1][0]


async def _set_home(tx: Transaction, room_nid: int, home: str | None) -> None:
    rooms.set_home(tx, room_nid, home)
