"""Receipts: how far somebody has read. Public ones are shown to the room, on all nodes where the policy lets them go;
private ones rest with their owner and are shown to nobody else.

Invariant: of one kind and thread a user's receipt never moves backwards.

spec: client-server-api/#receipts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from config.residency import DataClass
from homeserver.accounts.account_data import FULLY_READ
from homeserver.protocol.client_format import content_of
from homeserver.protocol.errors import Forbidden, InvalidParam, NotFound
from homeserver.residency import gate
from homeserver.rooms import application_services, outgoing, state
from homeserver.rooms.replicas import ParcelKind, caught_up
from homeserver.rooms.steps import relation_of
from homeserver.storage import account_data, events, outbox, streams, users
from homeserver.storage import receipts as stored
from homeserver.storage.outbox import NewParcel
from homeserver.storage.peers import OutgoingReceipt
from homeserver.storage.receipts import Receipt
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.rooms.seeding import Mark
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Parcel

READ: Final = "m.read"
READ_PRIVATE: Final = "m.read.private"
KINDS: Final = (READ, READ_PRIVATE, FULLY_READ)

MAIN: Final = "main"
UNTHREADED: Final = ""
HOPS: Final = 3
"""Relations that are followed from an event to the root of its thread.

spec: client-server-api/#threaded-read-receipts
"""

PARCEL: Final = "receipt"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a client says it has read: a kind of KINDS, an event, and the thread (see `Receipt`)."""

    kind: str
    event_id: str
    thread_id: str = UNTHREADED


@dataclass(frozen=True, slots=True)
class _Placed:
    """A reading whose event was found, at its place in the timeline."""

    kind: str
    receipt: Receipt


async def mark_read(
    server: Server,
    caller: Caller,
    room_id: str,
    readings: Sequence[Reading],
    forget: Callable[[Node, int, int], None],
) -> None:
    """Note how far the caller has read, all at once. ``forget(node, user_nid, room_nid)`` is called after the commit,
    before anybody is woken: unread counts start anew.

    Raises Forbidden for who is not in the room, NotFound for an event that is not in it, InvalidParam when an event
    does not belong to the thread.

    spec: client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
    """
    room = await state.find(caller.node, room_id)
    if room is None or caller.user_id not in room.residents:
        raise Forbidden("You are not in that room")
    placed = [await _placed(server, caller, room, reading) for reading in readings]
    if placed:
        await caller.node.advance(_mark, server, caller, room, placed, forget)


async def _placed(server: Server, caller: Caller, room: Room, reading: Reading) -> _Placed:
    place = await _place(caller.node, room, reading.event_id)
    if place is None:  # it may be on its way from the node that ordered it
        home = await server.nodes.of_room(room.room_id)
        if home is not None and home.engine.health().up:
            await caught_up(server, home, caller.node)
        place = await _place(caller.node, room, reading.event_id)
    if place is None:
        raise NotFound("There is no such event in the room")
    if reading.thread_id != UNTHREADED:
        await _check_thread(caller.node, room, reading)
    now = server.clock.now_ms()
    return _Placed(reading.kind, Receipt(caller.user_id, reading.thread_id, reading.event_id, place, now))


async def _place(node: Node, room: Room, event_id: str) -> int | None:
    """The place of an event in the timeline; no trip for recent ones."""
    for event in reversed(room.recent):
        if event.event_id == event_id:
            return event.pos
    return await node.read(stored.place, room.nid, event_id)


async def _check_thread(node: Node, room: Room, reading: Reading) -> None:
    root = await node.read(_root_of, room.nid, reading.event_id)
    # The root is shown on top of its thread, and clients send receipts for it there as well.
    if root != reading.thread_id and reading.event_id != reading.thread_id:
        raise InvalidParam("That event is not in that thread")


async def _root_of(tx: Transaction, room_nid: int, event_id: str) -> str:
    """The root of the thread that an event is in; MAIN when it is in none."""
    for _ in range(1 + HOPS):
        row = await events.by_id(tx, room_nid, event_id)
        relation = None if row is None else relation_of(orjson.loads(content_of(row.client)))
        if relation is None:
            return MAIN
        if relation[0] == "m.thread":
            return relation[1]
        event_id = relation[1]
    return MAIN


async def _mark(
    tx: Transaction,
    server: Server,
    caller: Caller,
    room: Room,
    placed: Sequence[_Placed],
    forget: Callable[[Node, int, int], None],
) -> None:
    node, user_nid = caller.node, caller.user_nid
    fresh = [each for each in placed if await _is_ahead(tx, room, user_nid, each)]
    public = [each.receipt for each in fresh if each.kind == READ]
    if not fresh:
        return
    parcels = [_parcel(name, room, receipt) for receipt in public for name in _others(server, node, room)]
    first = await streams.allocate(tx, len(fresh) + len(parcels))
    last = first + len(fresh) + len(parcels) - 1
    for offset, each in enumerate(fresh):
        if each.kind != FULLY_READ:
            stored.put(tx, room.nid, each.receipt, first + offset, private=each.kind == READ_PRIVATE)
        else:
            content = orjson.dumps({"event_id": each.receipt.event_id})
            await account_data.put(tx, user_nid, room.nid, FULLY_READ, content, first + offset)
    outbox.put(tx, first + len(fresh), parcels)
    application_services.mark_receipts(
        tx,
        server,
        node,
        room,
        [first + at for at, each in enumerate(fresh) if each.kind == READ],
        [(first + at, caller.user_id, user_nid) for at, each in enumerate(fresh) if each.kind == READ_PRIVATE],
    )
    kinds = {each.kind for each in fresh}

    def announce() -> None:
        if kinds & {READ, READ_PRIVATE}:
            forget(node, user_nid, room.nid)
        changes = [
            (Stream.RECEIPTS, [room.nid] if READ in kinds else []),
            (Stream.PRIVATE_RECEIPTS, [user_nid] if READ_PRIVATE in kinds else []),
            (Stream.ACCOUNT_DATA, [user_nid] if FULLY_READ in kinds else []),
        ]
        node.announce(last, changes)
        if public:
            wake(server, node, room)
            _tell_servers(
                node, room, [(first + at, each.receipt) for at, each in enumerate(fresh) if each.kind == READ]
            )
        server.wake_residents(node, [user_nid])
        if parcels:
            server.wake_outbox(node)

    tx.after_commit(announce)


async def _is_ahead(tx: Transaction, room: Room, user_nid: int, placed: _Placed) -> bool:
    receipt = placed.receipt
    if placed.kind == FULLY_READ:
        before = await _fully_read(tx, room, user_nid)
    else:
        private = placed.kind == READ_PRIVATE
        before = await stored.read_to(tx, room.nid, user_nid, receipt.thread_id, private=private)
    return before is None or before < receipt.event_pos


async def _fully_read(tx: Transaction, room: Room, user_nid: int) -> int | None:
    """The place of the fully read marker."""
    content = await account_data.find(tx, user_nid, room.nid, FULLY_READ)
    return None if content is None else await stored.place(tx, room.nid, orjson.loads(content)["event_id"])


def wake(server: Server, node: Node, room: Room) -> None:
    """Wake the residents who are in a room."""
    server.wake_residents(node, room.residents.values())


# to other servers ---------------------------------------------------------------------------


def _tell_servers(node: Node, room: Room, placed: Sequence[tuple[int, Receipt]]) -> None:
    """Have receipts sent that were written at these positions: the table of receipts is what waits for servers.

    spec: server-server-api/#receipts
    """
    servers = list(room.now.servers)
    outgoing.feed(
        node,
        [
            (OutgoingReceipt(pos, room.room_id, one.user_id, one.thread_id, one.event_id, one.ts), servers)
            for pos, one in placed
        ],
    )


# to the other nodes -------------------------------------------------------------------------


def _others(server: Server, node: Node, room: Room) -> list[str]:
    """The other nodes with members to which receipts of this node's residents may go."""
    return [
        name
        for name in sorted(room.now.nodes)
        if name != node.name
        and gate.may_in_time(server, DataClass.RECEIPTS, node.jurisdiction, server.nodes[name].jurisdiction)
    ]


def _parcel(destination: str, room: Room, receipt: Receipt) -> NewParcel:
    body = [room.room_id, receipt.user_id, receipt.thread_id, receipt.event_id, receipt.ts]
    return NewParcel(destination, PARCEL, room.nid, body=orjson.dumps(body))


async def _apply(server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark) -> None:
    assert parcel.body is not None
    room_id, user_id, thread_id, event_id, ts = orjson.loads(parcel.body)
    room = await state.find(destination, room_id)
    if room is None:
        await destination.write(_only, mark)
    else:
        await destination.advance(_take, server, destination, room, Receipt(user_id, thread_id, event_id, 0, ts), mark)


async def _only(tx: Transaction, mark: Mark) -> None:
    mark(tx)


async def _take(tx: Transaction, server: Server, node: Node, room: Room, receipt: Receipt, mark: Mark) -> None:
    """Keep the receipt of somebody from another node, where it has been checked: parcels come in order."""
    place = await stored.place(tx, room.nid, receipt.event_id)
    pos = await streams.allocate(tx)
    users.intern(tx, [receipt.user_id])
    stored.put(tx, room.nid, receipt._replace(event_pos=place or 0), pos, private=False)
    application_services.mark_receipts(tx, server, node, room, [pos], [])
    mark(tx)

    def announce() -> None:
        node.announce(pos, [(Stream.RECEIPTS, [room.nid])])
        wake(server, node, room)

    tx.after_commit(announce)


RECEIPT_PARCELS: Mapping[str, ParcelKind] = {PARCEL: ParcelKind(DataClass.RECEIPTS, _apply, fleeting=True)}
