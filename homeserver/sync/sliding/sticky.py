"""What is sticky in the rooms that a connection knows of, but for what their timelines tell in the same answer. Not
specified yet (MSC4354, MSC4480).

It has a position of its own: behind it, and in a room that is told of for the first time, nothing has been told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from homeserver.rooms import showing, sticky
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.sticky_events import Sticky
    from homeserver.sync.sliding.extensions import Ledger
    from homeserver.sync.sliding.request import StickyWish
    from homeserver.sync.sliding.room_list import RoomList
    from homeserver.sync.sliding.rooms import Told
    from homeserver.sync.sliding.telling import Telling

STICKY: Final = "org.matrix.msc4354.sticky_events"


@dataclass(frozen=True, slots=True)
class StickyTold:
    """The events by room id, encoded; ``next_batch``: up to where they have been told."""

    next_batch: str
    rooms: Mapping[str, Sequence[bytes]]


async def tell(telling: Telling, wish: StickyWish, ledger: Ledger, listed: RoomList, told: Told) -> StickyTold:
    """The oldest of what the connection was not told, at most ``wish.limit``, of rooms that it knows of and in which
    the user is."""
    caller, since = telling.caller, wish.since
    node = caller.node
    if since is not None and (since > telling.upto or since < caller.came_pos):  # a position of another node
        since = None
    moved = None if since is None else node.changes.after(Stream.STICKY, since)
    fresh = {nid for nid, draft in told.drafts.items() if draft.initial}
    others = ledger.before.rooms if moved is None else [nid for nid, _ in moved]
    found: list[Sticky] = []
    for some, after in ((fresh, 0), (set(others) - fresh, since or 0)):
        nids = [nid for nid in some if _is_in(listed, nid) and ledger.of(nid) is not None]
        if nids:
            found += await node.read(sticky.of_rooms, nids, after, telling.upto, telling.now)
    due = [each for each in sorted(found, key=lambda each: each.pos) if _is_due(telling, told, each)]
    chosen = due[: wish.limit]
    upto = chosen[-1].pos if len(chosen) < len(due) else telling.upto
    mine = [each.event.event_id for each in chosen if each.event.sender == caller.user_id]
    own = await showing.transactions_of(caller, mine) if mine else {}
    rooms: dict[str, list[bytes]] = {}
    for each in chosen:
        shown = sticky.show(each, telling.now, own.get(each.event.event_id))
        rooms.setdefault(listed.rooms[each.room_nid].room_id, []).append(shown)
    return StickyTold(str(upto), rooms)


def _is_in(listed: RoomList, nid: int) -> bool:
    room = listed.rooms.get(nid)
    return room is not None and room.membership == "join"


def _is_due(telling: Telling, told: Told, each: Sticky) -> bool:
    draft = told.drafts.get(each.room_nid)
    if draft is not None and any(event.event_nid == each.event.event_nid for event in draft.events):
        return False
    return sticky.is_for(each, telling.ignored, telling.erased)
