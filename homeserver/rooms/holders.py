"""Which nodes hold a room: those where its members are at home, counted anew when somebody has moved.

Whoever is being moved counts where they go, too: so a room is there before they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from homeserver.protocol.event_view import MEMBER
from homeserver.rooms.persist import commit, submit
from homeserver.rooms.state import Rooms, find
from homeserver.storage import outbox, rooms, streams
from homeserver.storage.outbox import NewParcel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.rooms.state import Room, Snapshot
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


class Travellers:
    """Users who are being moved, and to which node (``directory.memory(Travellers)``)."""

    def __init__(self) -> None:
        self.to: dict[str, str] = {}


async def recount(server: Server, node: Node, room_id: str) -> bool:
    """Count anew, on one node that holds a room, how many members each node has; those that come to hold it are sent
    it.

    False when the node does not hold the room. Raises NodeUnavailable.
    """
    while True:
        await commit(server, node, [])  # what is under way
        room = await find(node, room_id)
        if room is None:
            return False
        head = room.head
        counts = await count(server, head)
        if room.head is not head or room.now is not head or node.memory(Rooms).get(room_id) is not room:
            continue
        if counts != head.nodes:
            await _write(server, node, room, counts)
        return True


async def follow_home(node: Node, room_id: str, home: str) -> None:
    """Have a node know which one orders a room."""
    room = await find(node, room_id)
    if room is not None and room.home != home:
        await node.write(_set_home, room.nid, home)
        room.home = home


async def _set_home(tx: Transaction, room_nid: int, home: str) -> None:
    rooms.set_home(tx, room_nid, home)


async def count(server: Server, snapshot: Snapshot) -> dict[str, int]:
    """How many joined members of a room are at home on each node, or on their way there."""
    joined = [
        key
        for (kind, key), entry in snapshot.state.items()
        if kind == MEMBER and entry.membership == "join" and server.nodes.is_local(key)
    ]
    counts = Counter((await server.nodes.of_users(joined)).values())
    travellers = server.nodes.directory.memory(Travellers).to
    counts.update(travellers[user_id] for user_id in travellers.keys() & set(joined))
    return dict(counts)


async def _write(server: Server, node: Node, room: Room, counts: Mapping[str, int]) -> None:
    """From here on to the submission nothing waits: the next event is built on top of it, and shipped accordingly."""
    new = sorted(counts.keys() - room.head.nodes.keys() - {node.name, room.home})
    newest = room.recent[-1].event_nid if room.recent else None
    parcels = [] if newest is None else [NewParcel(name, "room", room.nid, newest) for name in new]
    memory = node.memory(Rooms)
    room.head = room.now = replace(room.head, nodes=counts)
    memory.begin(room)
    try:
        put = partial(_put, room_nid=room.nid, counts=counts, parcels=parcels)
        await asyncio.shield(submit(server, node, [], first=put))
    except BaseException:
        memory.end(room)
        memory.drop(room.room_id)
        raise
    memory.end(room)
    if parcels:
        server.wake_outbox(node)


async def _put(tx: Transaction, room_nid: int, counts: Mapping[str, int], parcels: list[NewParcel]) -> None:
    rooms.clear_nodes(tx, room_nid)
    rooms.set_nodes(tx, [(room_nid, name, number) for name, number in counts.items()])
    if parcels:
        outbox.put(tx, await streams.allocate(tx, len(parcels)), parcels)
