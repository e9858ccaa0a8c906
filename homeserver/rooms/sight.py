"""Who may see what of a room's past: what decides are the reader's own memberships over time, together with the room's
history visibility at each event.

spec: client-server-api/#room-history-visibility
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import orjson

from homeserver.protocol import access
from homeserver.protocol.event_view import CREATE, MEMBER
from homeserver.rooms.state import Room, Timed, membership_in
from homeserver.storage import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

BEGINNING = -(10**17)
"""A position before every event. It has as many digits as a token may have."""

OUTSIDE = ("invite", "knock")

JOINED = "join"


@dataclass(frozen=True, slots=True)
class Sight:
    """What one user may see of a room: their memberships and the room's visibility, each as (position, value)."""

    user_id: str
    memberships: Sequence[tuple[int, str]]
    visibilities: Sequence[tuple[int, str]]
    joins: Sequence[int]
    ignored: frozenset[str] = frozenset()

    def sees(self, event: Timed) -> bool:
        """Whether the user may see an event of the timeline, and did not ask not to (``ignored``: whom they ignore)."""
        if event.sender in self.ignored and event.state_key is None:
            return False
        visibility = value_before(self.visibilities, event.pos, "shared")
        membership = value_before(self.memberships, event.pos, "leave")
        later = bool(self.joins) and self.joins[-1] >= event.pos
        if access.allows(visibility, membership, joined_later=later):
            return True
        if membership in OUTSIDE and (event.type, event.state_key) == (MEMBER, self.user_id):
            return True  # what became of their invitation or knock
        return event.state_key is not None and access.may_see(
            _Shown(event), self.user_id, visibility=visibility, membership=membership, joined_later=later
        )

    def membership_at(self, pos: int) -> str:
        """The user's membership once the event at ``pos`` has happened."""
        index = bisect_right(self.memberships, pos, key=_position)
        return self.memberships[index - 1][1] if index else "leave"

    def looks_back_to(self, pos: int) -> bool:
        """Whether the user may see the room as it was once the event at ``pos`` had happened."""
        visibility = value_before(self.visibilities, pos + 1, "shared")
        later = bool(self.joins) and self.joins[-1] > pos
        return access.allows(visibility, self.membership_at(pos), joined_later=later)

    @property
    def left_at(self) -> int | None:
        """The position at which the user's last stay in the room ended; None while it lasts, or if there was none."""
        if self.last[1] == "join":
            return None
        ends = [pos for (_, before), (pos, _) in pairwise(self.memberships) if before == "join"]
        return ends[-1] if ends else None

    @property
    def last(self) -> tuple[int, str]:
        """The newest membership and its position."""
        return self.memberships[-1] if self.memberships else (0, "leave")


def membership_at(seen: Sight | None, pos: int | None) -> str | None:
    """What ``unsigned.membership`` of an event says to a reader who is shown it; None where that is not known.

    ``seen`` None: they were in the room all the time that is told of, as in an answer that goes on from an earlier one.
    spec: client-server-api/#room-event-format
    """
    if seen is None:
        return JOINED
    return None if pos is None else seen.membership_at(pos)


class _Shown:
    """A timeline event as the rule of visibility looks at it."""

    __slots__ = ("content", "sender", "state_key", "type")

    def __init__(self, event: Timed) -> None:
        self.type = event.type
        self.state_key = event.state_key
        self.sender = event.sender
        self.content = orjson.loads(event.client + b"}")["content"]


def _position(entry: tuple[int, str]) -> int:
    return entry[0]


def value_before(entries: Sequence[tuple[int, str]], pos: int, default: str) -> str:
    """What held just before a position, of (position, value) in order; the default when nothing did."""
    index = bisect_left(entries, pos, key=_position)
    return entries[index - 1][1] if index else default


async def of_room(node: Node, room: Room, user_id: str) -> Sight:
    """What a user may see of a room."""
    return (await of_rooms(node, [room.nid], user_id))[room.nid]


async def of_rooms(node: Node, room_nids: Sequence[int], user_id: str) -> dict[int, Sight]:
    """What a user may see of rooms, by row id; two trips for each 500 rooms."""
    return await node.read(_sights, room_nids, user_id)


async def _sights(tx: Transaction, room_nids: Sequence[int], user_id: str) -> dict[int, Sight]:
    memberships: dict[int, list[tuple[int, str]]] = {room_nid: [] for room_nid in room_nids}
    for room_nid, pos, client in await events.of_state_key(tx, room_nids, MEMBER, user_id):
        if pos is not None:
            memberships[room_nid].append((pos, membership_in(client)))
    visible = await visibilities(tx, room_nids)
    return {
        room_nid: Sight(user_id, found, visible[room_nid], [pos for pos, value in found if value == "join"])
        for room_nid, found in memberships.items()
    }


async def renewed(node: Node, room: Room, seen: Sight) -> Sight:
    """What somebody may see by the visibility that is known now: history that came meanwhile may have told of more."""
    return replace(seen, visibilities=(await of_room(node, room, seen.user_id)).visibilities)


async def visibilities(tx: Transaction, room_nids: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
    """How the history visibility of rooms changed, each as (position, value), oldest first.

    Where the beginning of a room is not held, and neither is what was in force before the first change that is, that
    counts as ``joined``: a doubt is a no.
    """
    found: dict[int, list[tuple[int, str]]] = {room_nid: [] for room_nid in room_nids}
    whole: set[int] = set()
    for room_nid, kind, pos, client in await events.landmarks(tx, room_nids):
        if (kind, "") == CREATE:
            whole.update([room_nid] if pos is not None else [])
            continue
        # One outside the timeline came with the state of a replica, and is older than all that the timeline has yet.
        value = orjson.loads(client + b"}")["content"].get("history_visibility")
        found[room_nid].append((BEGINNING if pos is None else pos, value if isinstance(value, str) else "shared"))
    for room_nid, changes in found.items():
        if changes and changes[0][0] != BEGINNING and room_nid not in whole:
            changes.insert(0, (BEGINNING, "joined"))
    return found
