"""Member events that reach a node without a replica of the room: invitations, knocks, and what ends them.

The invited see the room's stripped state and the event itself; the room is planted when they join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol import versions
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.events import build, from_stored
from homeserver.rooms import application_services, references
from homeserver.rooms.onlookers import Arrival, Onlookers
from homeserver.rooms.state import Rooms, membership_in, timed
from homeserver.rooms.steps import MemberChange
from homeserver.storage import events, rooms, streams, users
from homeserver.storage.events import NewEvent, StoredEvent, Verdict
from homeserver.storage.rooms import StoredRoom
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.seeding import Mark
    from homeserver.rooms.state import Entry, Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredMembership

OUTSIDE = ("invite", "knock")
"""The memberships of who is outside a room and may come in."""


async def take(
    server: Server, node: Node, room: StoredRoom, event: StoredEvent, stripped: bytes | None, mark: Mark
) -> None:
    """Keep a member event about a resident of ``node``; ``stripped`` is a JSON array of stripped state.

    It gets a place in the timeline when the events before it do, should the resident join.
    """
    await node.advance(_take, server, node, room, event, stripped, mark)


async def keep(server: Server, node: Node, event: Event, stripped: bytes | None) -> None:
    """`take` for an event that came from another server, or was made for one, about a room that nobody here is in."""
    room = StoredRoom(0, event.room_id, event.rules.version, None, (), None, False, None)
    await take(server, node, room, _row_of(event), stripped, lambda tx: None)


def _row_of(event: Event) -> StoredEvent:
    return StoredEvent(
        0,
        event.event_id,
        None,
        event.depth,
        event.origin_server_ts,
        event.type,
        event.state_key,
        event.sender,
        None,
        Verdict.ACCEPTED,
        event.client,
        event.rest,
        None,
    )


async def answer(server: Server, node: Node, held: StoredMembership, content: dict[str, Any]) -> Event:
    """The event by which a resident ends an invitation or a knock, when no server in the room will hear of it.

    It follows on the event that it ends, and goes nowhere.
    """
    room = await node.read(rooms.by_nid, held.room_nid)
    rules = versions.rules_of(room.version)
    (row,) = await node.read(events.by_nids, [held.event_nid])
    ended = from_stored(rules, room.room_id, row.client, row.rest)
    member = row.state_key or ""
    return build(
        rules,
        type=MEMBER,
        sender=member,
        room_id=room.room_id,
        content=content,
        state_key=member,
        prev_events=[ended.event_id],
        auth_events=[ended.event_id],
        depth=ended.depth + 1,
        origin_server_ts=server.clock.now_ms(),
        reference_hashes={} if rules.event_id_is_hash else {ended.event_id: ended.reference_hash},
        event_id=references.new_event_id(rules, server.name),
        server_name=server.name,
        key=server.identity.key,
    )


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
    if known is None:
        application_services.mark_event(tx, server, node, room.room_id, pos, nid, [event.sender, member])
    mark(tx)
    resident = await users.resident(tx, member)
    people = [] if resident is None else [resident]

    def announce() -> None:
        node.memory(Rooms).drop(room.room_id)
        node.announce(pos, [(Stream.MEMBERSHIP, people), (Stream.TIMELINE, [room_nid])])
        for user_nid in people:
            change = MemberChange(member, membership, None, user_nid, stripped)
            node.memory(Onlookers).add(Arrival(None, room.room_id, timed(event._replace(pos=pos)), [change]))
            server.wake_residents(node, [user_nid])

    tx.after_commit(announce)


async def cited(node: Node, member: str, event: Event) -> StoredMembership | None:
    """The invitation, or the knock, of a resident that is open now, if the event cites it."""
    return await node.read(_cited, member, event)


async def _cited(tx: Transaction, member: str, event: Event) -> StoredMembership | None:
    user_nid = await users.resident(tx, member)
    held = [] if user_nid is None else await rooms.memberships_of(tx, user_nid)
    for each in held:
        if each.room_id == event.room_id and each.membership in OUTSIDE:
            rows = await events.by_nids(tx, [each.event_nid])
            return each if any(row.event_id in event.auth_events for row in rows) else None
    return None


async def settle(server: Server, node: Node, room: Room, entry: Entry) -> None:
    """Let a resident's membership be what the state of the room on their node says, which they were not told."""
    stored = await node.read(rooms.by_nid, room.nid)
    for row in await node.read(events.by_nids, [] if entry.nid is None else [entry.nid]):
        await take(server, node, stored, row, None, lambda tx: None)
