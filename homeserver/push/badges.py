"""How much a resident has not read in all their rooms: kept by room in memory, brought up to date room by room.

Found out when it is first asked, from those rooms that have something behind what was read; from then on an event, or
reading, costs the count of its room.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from homeserver.push import unread
from homeserver.push.notification import Tally
from homeserver.rooms import state
from homeserver.storage import receipts, rooms

if TYPE_CHECKING:
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

AT_ONCE = 50
"""Rooms that are counted before others get to run."""


class Badge:
    """What one resident has not read. ``by_room``: room id, unread events and missed calls, where any are."""

    def __init__(self, node: Node, user_nid: int, user_id: str) -> None:
        self.node = node
        self.user_nid = user_nid
        self.user_id = user_id
        self.by_room: dict[int, tuple[str, int, int]] = {}
        self.complete = False
        self._lock = asyncio.Lock()

    async def tally(self) -> Tally:
        """The sum over all rooms."""
        async with self._lock:
            if not self.complete:
                await self._count_all()
                self.complete = True
        return Tally(sum(each[1] for each in self.by_room.values()), sum(each[2] for each in self.by_room.values()))

    def clear(self) -> None:
        """Nothing of it is believed any more."""
        self.by_room.clear()
        self.complete = False

    async def renew(self, room: Room) -> None:
        """Something has changed in a room."""
        if self.complete or self._lock.locked():
            await self._count(room)

    async def read(self, room_nid: int) -> None:
        """The resident has read on in a room. What had nothing unread changes nothing by it."""
        counted = self.by_room.get(room_nid)
        room = None if counted is None else await state.find(self.node, counted[0])
        if room is not None:
            await self.renew(room)

    def leave(self, room_nid: int) -> None:
        """The resident is not in a room any more."""
        self.by_room.pop(room_nid, None)

    async def _count(self, room: Room) -> None:
        if self.user_id not in room.residents:
            self.leave(room.nid)
            return
        count = await unread.count(self.node, room, self.user_nid, self.user_id, room.last_pos)
        if count.notifications:
            self.by_room[room.nid] = (room.room_id, count.notifications, count.calls)
        else:
            self.by_room.pop(room.nid, None)

    async def _count_all(self) -> None:
        for at, room_id in enumerate(await self.node.read(_unread_rooms, self.user_nid)):
            room = await state.find(self.node, room_id)
            if room is not None:
                await self._count(room)
            if at % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)


async def _unread_rooms(tx: Transaction, user_nid: int) -> list[str]:
    """The joined rooms of a resident in which something came behind what they have read."""
    last = {room_nid: (room_id, pos) for room_nid, room_id, pos in await rooms.last_places(tx, user_nid, 2**62)}
    starts = await receipts.unread_starts(tx, user_nid, list(last))
    return [
        room_id
        for room_nid, (room_id, pos) in last.items()
        if starts[room_nid].read_to < pos or starts[room_nid].counts != b"{}"
    ]
