"""Member events that reach a node without a replica of the room: invitations, knocks, and what ends them.

The invited see the room's stripped state and the event itself; the room is planted when they join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.rooms.state import Rooms, membership_in
from homeserver.storage import events, rooms, streams, users
from homeserver.storage.events import NewEvent, Verdict
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.rooms.seeding import Mark
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredRoom

OUTSIDE = ("invite", "knock")
"""The memberships of who is outside a room and may come in."""


async def take(
    server: Server, node: Node, room: StoredRoom, event: StoredEvent, stripped: bytes | None, mark: Mark
) -> None:
    """Keep a member event about a resident of ``node``; ``stripped`` is a JSON array of stripped state.

    It gets a place in the timeline when the events before it do, should the resident join.
    """
    await node.advance(_take, server, node, room, event, stripped, mark)


async def _take(
    tx: Transaction,
    server: Server,
    node: Node,
    room: StoredRoom,
    event: StoredEvent,
    stripped: bytes | None,
    mark: Mark,
) -> None:
    member, membership = event.state_key or "", membership_in(event.client)
    room_nid = await rooms.create(tx, room.room_id, room.version, room.home)
    users.intern(tx, [event.sender, member])
    known = (await events.known(tx, [event.event_id])).get(event.event_id)
    pos = await streams.allocate(tx)
    nid = pos if known is None else known[0]
    events.insert(
        tx,
        [
            NewEvent(
                nid,
                event.event_id,
                room_nid,
                None,
                event.depth,
                event.ts,
                event.type,
                event.state_key,
                event.sender,
                None,
                Verdict.ACCEPTED,
                event.client,
                event.rest,
                event.unsigned,
            )
        ],
    )
    rooms.set_membership(tx, [(member, room_nid, membership, nid, pos)])
    if stripped is not None:
        rooms.invite(tx, member, room_nid, stripped)
    mark(tx)
    resident = await users.resident(tx, member)
    people = [] if resident is None else [resident]

    def announce() -> None:
        node.memory(Rooms).drop(room.room_id)
        node.announce(pos, [(Stream.MEMBERSHIP, people), (Stream.TIMELINE, [room_nid])])
        for user_nid in people:
            server.wakeups.wake((node.name, user_nid))

    tx.after_commit(announce)
