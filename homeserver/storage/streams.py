"""Positions: each node counts everything durable with one counter, and remembers what changed lately.

Invariant: positions become visible in their order. They are allocated by an UPDATE of one row inside the
writing transaction (which makes later writers wait on both engines), and `Node.advance` announces what
changed before it lets the next such transaction begin.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import IntEnum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.storage.engine import Transaction


class Stream(IntEnum):  # an integer is hashed without Python code: this happens a thousand times a request
    """What changed. The key of a change is named behind each."""

    TIMELINE = auto()  # room_nid: an event joined the room's timeline, or its state changed
    MEMBERSHIP = auto()  # user_nid of a resident: their membership in some room changed
    MEMBERS = auto()  # room_nid: somebody's membership in the room changed
    RECEIPTS = auto()  # room_nid
    PRIVATE_RECEIPTS = auto()  # user_nid of a resident
    ACCOUNT_DATA = auto()  # user_nid of a resident: account data, tags or push rules
    TO_DEVICE = auto()  # device_nid
    DEVICE_LISTS = auto()  # user_nid: public device or cross-signing keys
    THREADS = auto()  # user_nid of a resident: which threads they follow
    STICKY = auto()  # room_nid: an event that is sticky came to the room, also far back in its timeline


async def allocate(tx: Transaction, count: int = 1) -> int:
    """Take ``count`` positions; returns the first. Only inside `Node.advance`."""
    row = await tx.one("UPDATE stream SET position = position + ? WHERE id = 1 RETURNING position", count)
    assert row is not None
    tx.taken += count
    return int(row[0]) - count + 1


def take(tx: Transaction, last: int, count: int) -> int:
    """Like `allocate`, without a trip, for whoever knows the position: ``last`` is `Node.position`.

    Should another position have been the last, the transaction fails, and `Node.advance` runs it again.
    """
    last += tx.taken
    tx.taken += count
    tx.later("UPDATE stream SET position = CASE WHEN position = ? THEN position + ? END WHERE id = 1", [(last, count)])
    return last + 1


async def allocate_history(tx: Transaction, count: int) -> int:
    """Take ``count`` positions before everything known; returns the highest (the newest of them)."""
    row = await tx.one("UPDATE stream SET history = history - ? WHERE id = 1 RETURNING history", count)
    assert row is not None
    return int(row[0]) + count - 1


async def current(tx: Transaction) -> int:
    """The position up to which everything is visible to this transaction."""
    row = await tx.one("SELECT position FROM stream WHERE id = 1")
    assert row is not None
    return int(row[0])


class Changes:
    """Which keys changed after a position, from memory.

    Exact for what happened after ``floor``; before it the answer is "maybe" (True), and the caller asks the
    database. Bounded: the oldest entries are dropped and the floor rises to them.
    """

    def __init__(self, floor: int, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._floor = dict.fromkeys(Stream, floor)
        self._last: dict[Stream, OrderedDict[int, int]] = {stream: OrderedDict() for stream in Stream}
        self._newest = dict.fromkeys(Stream, floor)

    def note(self, stream: Stream, keys: Iterable[int], pos: int) -> None:
        """``keys`` changed at ``pos``; positions are noted in ascending order."""
        last = self._last[stream]
        for key in keys:
            last[key] = pos
            last.move_to_end(key)
            self._newest[stream] = pos
        while len(last) > self._capacity:
            self._floor[stream] = last.popitem(last=False)[1]

    def changed(self, stream: Stream, key: int, since: int) -> bool:
        """May ``key`` have changed after position ``since``?"""
        last = self._last[stream].get(key)
        if last is not None:
            return last > since
        return since < self._floor[stream]

    def any(self, stream: Stream, since: int) -> bool:
        """May anything of this kind have changed after position ``since``?"""
        return since < self._newest[stream]

    def after(self, stream: Stream, since: int) -> list[tuple[int, int]] | None:
        """The keys that changed after position ``since``, each with the position of its last change, the newest first;
        None when that is not remembered as far back.
        """
        if since < self._floor[stream]:
            return None
        found: list[tuple[int, int]] = []
        for key, pos in reversed(self._last[stream].items()):
            if pos <= since:
                break
            found.append((key, pos))
        return found

    def last(self, stream: Stream, key: int) -> int | None:
        """The position of the last change of ``key``, when it is remembered."""
        return self._last[stream].get(key)
