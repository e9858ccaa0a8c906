"""Sticky events that come to a node far back in the timeline of their room, with its history: no token has passed them,
and those who are in the room are told of them all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.rooms.state import Rooms
from homeserver.storage import sticky_events
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import NewEvent
    from homeserver.storage.nodes import Node


def keep(tx: Transaction, server: Server, node: Node, room_id: str, copies: Sequence[NewEvent], pos: int) -> None:
    """Queue those that are sticky of events that got places far back in a room's timeline, and have members told.

    ``pos``: a position taken in this transaction, the last one.
    """
    found = sticky_events.keep(tx, server.clock.now_ms(), copies, pos)
    if found:
        tx.after_commit(lambda: _announce(server, node, room_id, found, pos))


def _announce(server: Server, node: Node, room_id: str, room_nids: Sequence[int], pos: int) -> None:
    node.announce(pos, [(Stream.STICKY, room_nids)])
    room = node.memory(Rooms).get(room_id)
    server.wake_residents(node, () if room is None else room.residents.values())
