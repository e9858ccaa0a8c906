"""What users of other servers do that is no event: how far they have read, that they type, whether they are there.

It is kept on the nodes whose residents may see it and to which it may flow from there. That the users belong to the
server that says so has been checked.

spec: server-server-api/#receipts, server-server-api/#typing-notifications, server-server-api/#presence
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.residency import DataClass
from homeserver.protocol.errors import NodeUnavailable
from homeserver.residency import gate, traffic
from homeserver.rooms import application_services, presence, presence_elsewhere, receipts, state, typing_notices
from homeserver.rooms.presence import Shown
from homeserver.rooms.state import Rooms
from homeserver.storage import receipts as stored
from homeserver.storage import rooms, streams, users
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.receipts import Receipt

TYPING_SECONDS: Final = 60.0
"""How long somebody types whose server says no more of it."""


def readers(server: Server, room: Room, origin: str, data_class: DataClass) -> tuple[Sequence[Node], int]:
    """The nodes with members in a room to which a class of data may flow from another server, and to how many not."""
    there = server.policy.now.jurisdiction_of_server(origin)
    nodes = [server.nodes[name] for name in sorted(room.head.nodes)]
    allowed = [node for node in nodes if gate.may_in_time(server, data_class, there, node.jurisdiction)]
    return allowed, len(nodes) - len(allowed)


# receipts -----------------------------------------------------------------------------------------


async def take_receipts(server: Server, room: Room, origin: str, found: Sequence[Receipt]) -> int:
    """Keep receipts of joined members of a room, whose ``event_pos`` does not matter. Nodes that are down get none.

    Returns to how many nodes the residency policy let them not. spec: server-server-api/#receipts
    """
    nodes, denied = readers(server, room, origin, DataClass.RECEIPTS)
    for node in nodes:
        try:
            replica = await state.find(node, room.room_id)
            if replica is not None:
                await node.advance(_take_receipts, server, node, replica, found)
        except NodeUnavailable:
            continue
    return denied


async def _take_receipts(tx: Transaction, server: Server, node: Node, room: Room, found: Sequence[Receipt]) -> None:
    ahead = [each for each in [await _placed(tx, room, receipt) for receipt in found] if each is not None]
    if not ahead:
        return
    users.intern(tx, {receipt.user_id for receipt in ahead})
    first = await streams.allocate(tx, len(ahead))
    for pos, receipt in enumerate(ahead, first):
        stored.put(tx, room.nid, receipt, pos, private=False)
    application_services.mark_receipts(tx, server, node, room, range(first, first + len(ahead)), [])

    def announce() -> None:
        node.announce(first + len(ahead) - 1, [(Stream.RECEIPTS, [room.nid])])
        receipts.wake(server, node, room)

    tx.after_commit(announce)


async def _placed(tx: Transaction, room: Room, receipt: Receipt) -> Receipt | None:
    """A receipt with the place of its event; None when it is not ahead of the one that is held.

    One for an event that is not here (yet) has no place: it counts when it is newer than what is held.
    """
    held = await stored.held(tx, room.nid, receipt.user_id, receipt.thread_id)
    place = await stored.place(tx, room.nid, receipt.event_id)
    if held is not None:
        event_pos, ts = held
        if (place is not None and event_pos and place <= event_pos) or (place is None and receipt.ts <= ts):
            return None
    return receipt._replace(event_pos=place or 0)


# typing -------------------------------------------------------------------------------------------


def take_typing(server: Server, room: Room, origin: str, user_id: str, typing: bool) -> int:
    """A joined member of a room types, or types no more.

    Returns to how many nodes the residency policy let that not. spec: server-server-api/#typing-notifications
    """
    nodes, denied = readers(server, room, origin, DataClass.RECEIPTS)
    for node in nodes:
        replica = node.memory(Rooms).get(room.room_id)
        if replica is not None:  # else: nobody there has looked at the room for long
            typing_notices.note(server, node, replica, user_id, TYPING_SECONDS if typing else 0.0)
    return denied


# presence -----------------------------------------------------------------------------------------


async def take_presence(server: Server, origin: str, shown: Shown) -> int:
    """Show the presence of a user to the residents who share a room with them. Nodes that are down show none.

    Returns to how many nodes the residency policy let it not. spec: server-server-api/#presence
    """
    if not presence.tracked(server):
        return 0
    denied = 0
    there = server.policy.now.jurisdiction_of_server(origin)
    for node in server.nodes:
        if not gate.may_in_time(server, DataClass.PRESENCE, there, node.jurisdiction):
            denied += 1
            continue
        traffic.concerns(node)
        try:
            residents = await node.read(rooms.sharing_with, shown.user_id)
        except NodeUnavailable:
            continue
        copy = Shown(shown.user_id, shown.state, shown.status, shown.active_ms)
        if residents and presence_elsewhere.show(server, node, copy):
            server.wake_residents(node, residents)
    return denied
