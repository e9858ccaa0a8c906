"""The rooms of a resident in the order of their last events, in memory.

Read with one statement, and then kept up by what changed on the node: looking at the first twenty of five thousand
rooms costs what twenty cost.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from homeserver.accounts import ignored
from homeserver.rooms import blocking, sight, state
from homeserver.rooms.state import Rooms
from homeserver.runtime.lru import Lru
from homeserver.storage import sliding
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from homeserver.context import Caller
    from homeserver.storage.nodes import Node
    from homeserver.storage.sliding import Listed

LISTS_BYTES = 64 * 1024 * 1024
"""Memory that the lists of a node's residents may take, as it is estimated."""

# What CPython 3.11 needs for each, as measured.
LIST_BYTES = 1500
ROOM_BYTES = 500


class RoomList:
    """The rooms of a resident, as of the position ``at``.

    ``rooms``: those that are in the list, by row id; ``left``: those that a client is told of only if it knows them,
    because the user left them of their own accord, or was banned without having been in. ``newest``: by row id, the
    position of the last event (of the membership, where the user is not in the room), the lowest first.
    """

    def __init__(self, rooms: dict[int, Listed], left: dict[int, Listed], at: int, *, has_invites: bool) -> None:
        self.rooms = rooms
        self.left = left
        self.at = at
        self.has_invites = has_invites
        """Whether there are invitations, in the list or kept out of it."""
        places = ((nid, _place(room)) for nid, room in rooms.items())
        self.newest = OrderedDict(sorted(places, key=lambda entry: (entry[1], entry[0])))
        self.nids = {room.room_id: nid for nid, room in rooms.items()}
        self.passing: dict[object, object] = {}
        """What lists with filters have, for selection.py; gone with this object when a membership changes."""

    def weight(self) -> int:
        """The bytes of memory that the list takes, as an estimate."""
        return LIST_BYTES + ROOM_BYTES * (len(self.rooms) + len(self.left))

    def find(self, room_nid: int) -> Listed | None:
        """A room by its row id."""
        return self.rooms.get(room_nid) or self.left.get(room_nid)

    def place(self, room_nid: int) -> int:
        """The position by which a room has its place in the list."""
        found = self.newest.get(room_nid)
        return self.left[room_nid].pos if found is None else found

    def ordered(self, also: Iterable[int]) -> Iterator[int]:
        """The row ids of the rooms, the newest first, with these of ``left`` among them."""
        if not also:
            return reversed(self.newest)
        places = [*self.newest.items(), *((nid, self.left[nid].pos) for nid in also)]
        return iter([nid for nid, _ in sorted(places, key=lambda entry: entry[1], reverse=True)])

    def changed_after(self, pos: int) -> list[int]:
        """The rooms whose place is behind a position, the newest first."""
        found = []
        for nid, place in reversed(self.newest.items()):
            if place <= pos:
                break
            found.append(nid)
        return found

    def renew(self, node: Node) -> bool:
        """Take in what happened since; False when that is not known from memory."""
        changes = node.changes.after(Stream.TIMELINE, self.at)
        if changes is None:
            return False
        memory = node.memory(Rooms)
        moved = []
        for nid, pos in changes:
            room = self.rooms.get(nid)
            if room is not None and room.membership == "join":
                held = memory.get(room.room_id)
                moved.append((pos, 0 if held is None else held.last_pos, nid))
        for pos, _, nid in sorted(moved):  # what was committed together has one position in `changes`
            self.newest[nid] = pos
            self.newest.move_to_end(nid)
        self.at = node.position
        return True


def _place(room: Listed) -> int:
    return room.pos if room.newest is None else max(room.newest, room.pos)


class RoomLists(Mirror):
    """The lists of a node's residents (``node.memory(RoomLists)``)."""

    def __init__(self) -> None:
        self.of_user: Lru[int, RoomList] = Lru(LISTS_BYTES, RoomList.weight, "room_lists")

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.of_user.clear()


def is_current(caller: Caller, held: RoomList) -> bool:
    """Whether a list is that of now, after taking in what happened since, if that can be done from memory."""
    return not _is_outdated(caller, held) and held.renew(caller.node)


async def of_caller(caller: Caller) -> RoomList:
    """The caller's rooms. Usually no trip; after one, see `is_current`."""
    node = caller.node
    memory = node.memory(RoomLists).of_user
    held = memory.get(caller.user_nid)
    if held is not None and is_current(caller, held):
        return held
    at = node.position
    rows = await node.read(sliding.listed, caller.user_nid)
    has_invites = any(row.membership == "invite" for row in rows)
    if has_invites:
        rows = await _without_unwanted(caller, rows)
    joined = await _ever_joined(caller, [row for row in rows if row.membership == "ban"])
    rooms: dict[int, Listed] = {}
    left: dict[int, Listed] = {}
    for row in rows:
        own = row.membership == "leave" and row.sender in (caller.user_id, None)
        outside = row.membership == "ban" and row.room_nid not in joined
        (left if own or outside else rooms)[row.room_nid] = row
    made = RoomList(rooms, left, at, has_invites=has_invites)
    memory[caller.user_nid] = made
    return made


def _is_outdated(caller: Caller, held: RoomList) -> bool:
    changed = caller.node.changes.changed
    if changed(Stream.MEMBERSHIP, caller.user_nid, held.at):
        return True
    return held.has_invites and changed(Stream.ACCOUNT_DATA, caller.user_nid, held.at)


async def _without_unwanted(caller: Caller, rows: Sequence[Listed]) -> list[Listed]:
    """The rooms without invitations of users who are ignored, or of whom the user wants none."""
    node = caller.node
    said = await node.read(blocking.permissions, caller.user_nid)
    ignoring = await ignored.of_user(node, caller.user_nid)
    return [
        row
        for row in rows
        if row.membership != "invite"
        or row.sender is None
        or not (row.sender in ignoring or blocking.hides(said, row.sender))
    ]


async def _ever_joined(caller: Caller, banned: Sequence[Listed]) -> set[int]:
    """Those of the rooms from which the caller was banned in which they had been."""
    found = set()
    for row in banned:
        room = await state.find(caller.node, row.room_id)
        if room is not None and (await sight.of_room(caller.node, room, caller.user_id)).joins:
            found.add(row.room_nid)
    return found
