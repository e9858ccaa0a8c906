"""Rooms that a node has nothing to do with any more: another one orders them, and the replica goes.

A room's home goes to a node that has members; what is said meanwhile where it was ordered goes the way of all that is
said away from home (decision 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.residency import DataClass
from homeserver.residency import gate
from homeserver.rooms import replicas, seeding, state
from homeserver.rooms.holders import follow_home
from homeserver.rooms.persist import commit
from homeserver.rooms.state import Rooms
from homeserver.rooms.state_rows import StateRows
from homeserver.runtime.jobs import Postponed
from homeserver.runtime.parts import in_parts
from homeserver.storage import application_services, events, replica_erasure, rooms, users
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.context import Server
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

AT_ONCE = 1000
"""Snapshots that are deleted in one transaction."""


def heir_of(server: Server, room: Room, old: Node, preferred: str = "", without: Collection[str] = ()) -> str | None:
    """The node that is to order a room in place of ``old``: one with members, and of these ``preferred``, or else the
    one that has the most. None when nobody of ours is in it elsewhere."""
    there = {node.name for node in server.nodes} - {old.name, *without}
    members = {name: count for name, count in room.now.nodes.items() if count > 0 and name in there}
    if preferred in members:
        return preferred
    return max(members, key=lambda name: (members[name], name), default=None)


async def rehome(server: Server, room_id: str, old: Node, new: Node) -> bool:
    """Have ``new``, which holds the room, order it, with its aliases and its places in directories. May be done twice.

    False, and nothing done, when ``new`` does not hold it yet. Raises NodeUnavailable.
    """
    await replicas.caught_up(server, old, new)
    room = await state.find(old, room_id)
    heir = await state.find(new, room_id)
    if room is None or heir is None:
        return False
    names = {node.name for node in server.nodes} & {old.name, new.name, *room.head.nodes, *heir.head.nodes}
    await _complete(server, room_id, old, new)
    aliases, networks, published = await old.read(_belongings, room.nid)
    await new.write(_take_over, heir.nid, aliases, networks, published)
    for name in sorted(names - {old.name, new.name}):
        await _follow_history(room_id, new, server.nodes[name])
    routes = [(Kind.ROOM, room_id), *((Kind.ALIAS, alias) for alias, _ in aliases)]
    await server.nodes.directory.reroute_all(routes, new.name)
    await all_follow(server, room_id, new, names)
    await old.write(_give_away, room.nid, [alias for alias, _ in aliases], networks)
    return True


async def all_follow(server: Server, room_id: str, home: Node, names: Collection[str]) -> None:
    """Have nodes that hold a room know which one orders it. Raises NodeUnavailable."""
    for name in sorted({node.name for node in server.nodes}.intersection(names)):
        await follow_home(server.nodes[name], room_id, home.name)


async def _complete(server: Server, room_id: str, old: Node, new: Node) -> None:
    """Copy what the new home lacks of the history: others will ask it for that."""
    if not gate.may(server, DataClass.EVENTS, old.jurisdiction, new.jurisdiction):
        return
    held = await new.read(rooms.find, room_id)
    with new.memory(replicas.BeingCopied).alone(room_id):
        while held is not None and held.history_before is not None:
            await seeding.copy_history(server, old, new, held)
            held = await new.read(rooms.by_nid, held.room_nid)


async def _follow_history(room_id: str, new: Node, other: Node) -> None:
    """Have a node that has not been copied all of the history go on with it at the new home: how far it has come is a
    position of the home."""
    held = await other.read(rooms.find, room_id)
    if held is None or held.history_before is None:
        return
    for oldest in await other.read(events.timeline_forwards, held.room_nid, -(2**62), 2**62, 1):
        for there in await new.read(events.by_ids, [oldest.event_id]):
            await other.write(_set_history, held.room_nid, there.pos)


async def _set_history(tx: Transaction, room_nid: int, before: int | None) -> None:
    rooms.set_history_before(tx, room_nid, before)


async def _belongings(tx: Transaction, room_nid: int) -> tuple[list[tuple[str, str]], list[str], bool]:
    """Aliases with who made them; networks in whose directories the room is; and whether it is in ours."""
    room = await rooms.by_nid(tx, room_nid)
    found = [(alias, await rooms.find_alias(tx, alias)) for alias in await rooms.aliases(tx, room_nid)]
    aliases = [(alias, meant[1]) for alias, meant in found if meant is not None]
    return aliases, await rooms.networks(tx, room_nid), room.published


async def _take_over(
    tx: Transaction, room_nid: int, aliases: list[tuple[str, str]], networks: list[str], published: bool
) -> None:
    users.intern(tx, [creator for _, creator in aliases])
    for alias, creator in aliases:
        await rooms.add_alias(tx, alias, room_nid, creator)
    for network in networks:
        await application_services.publish(tx, network, room_nid, True)
    if published:
        await rooms.publish(tx, room_nid, True)


async def _give_away(tx: Transaction, room_nid: int, aliases: list[str], networks: list[str]) -> None:
    """What stands with the new home stands here no more: it may be taken away there."""
    for alias in aliases:
        await rooms.drop_alias(tx, alias)
    for network in networks:
        await application_services.publish(tx, network, room_nid, False)
    await rooms.publish(tx, room_nid, False)


async def erase_unneeded(server: Server, node: Node, user_id: str) -> int:
    """Erase what a node has of rooms of a user with which no resident has anything to do; of how many.

    Raises Postponed while something of one waits to be sent, NodeUnavailable.
    """
    for other in server.nodes:
        if other is not node and other.engine.health().up:
            await replicas.caught_up(server, other, node)  # a replica may be on its way, which nobody wants any more
    user_nid = await node.read(users.nid, user_id)
    known = {} if user_nid is None else await node.read(replica_erasure.rooms_of, user_nid)
    gone = await node.read(replica_erasure.unneeded, list(known))
    for room_nid in gone:
        await erase_replica(server, node, room_nid, known[room_nid])
    return len(gone)


async def erase_replica(server: Server, node: Node, room_nid: int, room_id: str) -> None:
    """Erase what a node has of a room with which no resident has anything to do. May be done twice, and goes on where
    it was cut off. Raises Postponed while something of it waits to be sent, NodeUnavailable."""
    await commit(server, node, [])
    if await node.read(replica_erasure.is_unsent, room_nid):
        raise Postponed(f"waits until what {node.name} has to send of a room has been sent")
    while True:
        if not await node.write(replica_erasure.hide, room_nid):
            return
        node.memory(Rooms).drop(room_id)
        node.memory(StateRows).clear()
        await commit(server, node, [])  # an event that was under way goes on from the room as it was before
        if not await node.read(replica_erasure.is_held, room_nid):
            break
    while await node.write(replica_erasure.erase_events, room_nid):
        pass
    groups = await node.read(replica_erasure.groups, room_nid)
    for part in in_parts(groups, AT_ONCE):
        await node.write(replica_erasure.erase_groups, room_nid, part)
    peers = await node.read(replica_erasure.peers_of, room_nid)
    named = await node.read(replica_erasure.is_named, room_nid)
    names = [each.name for each in server.nodes]
    await node.write(replica_erasure.erase_rest, room_nid, peers, names, named=named)
    node.memory(Rooms).drop(room_id)
