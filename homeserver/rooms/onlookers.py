"""For whoever looks at each event once it is committed, off the path of its sender: push does, for those who want it.

Costs nothing where nobody looks, and else an entry of a queue for each event, whoever is in its room. What was dropped
because the queue was full, or could not be seen, is found again in the database.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.rooms.state import Room, Timed
    from homeserver.rooms.steps import MemberChange

MOST_WAITING = 10_000
"""Events in the queue at most."""


class Arrival(NamedTuple):
    """An event that was committed, and whose membership it changed. ``room`` is None for who is outside of it."""

    room: Room | None
    room_id: str
    event: Timed
    members: Sequence[MemberChange]


class Onlookers(Mirror):
    """What waits to be looked at on one node (``node.memory(Onlookers)``); nothing is kept while ``wanted`` is false.

    ``read``: (user_nid, room_nid) of residents who have read on. ``changed``: residents who changed whether they want
    to be told. ``doubted``: something may have been missed. ``some`` is set with each of these, and ``idle`` once
    all of it has been looked at.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.arrived: deque[Arrival] = deque()
        self.read: set[tuple[int, int]] = set()
        self.changed: set[int] = set()
        self.doubted = True
        self.some = asyncio.Event()
        self.idle = asyncio.Event()

    def rouse(self) -> None:
        """There is something to look at."""
        self.some.set()
        self.idle.clear()

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.arrived.clear()
        self.doubted = True
        self.rouse()

    def add(self, arrival: Arrival) -> None:
        """An event has been committed."""
        if not self.wanted:
            return
        if len(self.arrived) >= MOST_WAITING:
            self.clear()
        self.arrived.append(arrival)
        self.rouse()

    def read_on(self, user_nid: int, room_nid: int) -> None:
        """A resident has read a room, farther than before."""
        if self.wanted:
            self.read.add((user_nid, room_nid))
            self.rouse()

    def change(self, user_nid: int) -> None:
        """A resident has changed whether they want to be told."""
        self.changed.add(user_nid)
        self.rouse()
