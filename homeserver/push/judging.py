"""Which events a resident is to be told of: what their rules notify them of, unless they have read it already.

Judged once for each resident who has pushers, however many these are; what does not depend on who it is, is shared
with the counts of unread events.

spec: client-server-api/#push-rules
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.accounts import ignored, push_rules
from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.push_evaluation import Subject
from homeserver.push import unread
from homeserver.push.notification import Due
from homeserver.rooms import blocking, state
from homeserver.rooms.receipts import MAIN
from homeserver.rooms.state import timed
from homeserver.storage import pushers as stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.push.lines import Follower
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.nodes import Node
    from homeserver.storage.pushers import Behind

MOST_BEHIND = 500
"""Events that are looked at, the newest ones, of what came while nobody looked."""


async def of_room(node: Node, room: Room, follower: Follower, events: Sequence[Timed]) -> list[Due]:
    """What a resident is to be told of these events of a timeline, oldest first. Usually no trip."""
    own = max((event.pos for event in events if event.sender == follower.user_id), default=None)
    found = await unread.notable(node, room, follower.user_nid, follower.user_id, events)
    if not found:
        return []
    read = await unread.read_of(node, follower.user_nid, room.nid)
    return [
        Due(room.nid, room.room_id, event.pos, event, thread, outcome)
        for event, thread, outcome in found
        if not read.covers(thread, event.pos) and (own is None or event.pos > own)
    ]


async def invitation(node: Node, follower: Follower, room_id: str, pos: int, event: Timed) -> Due | None:
    """What a resident is to be told of an invitation to them, of whose room not much may be known."""
    if event.sender == follower.user_id or event.sender in await ignored.of_user(node, follower.user_nid):
        return None
    if blocking.hides(await node.read(blocking.permissions, follower.user_nid), event.sender):
        return None
    evaluator = node.memory(push_rules.Compiled).find(follower.user_nid)
    if evaluator is None:
        evaluator = (await node.read(push_rules.evaluators, node, [follower.user_nid]))[follower.user_nid]
    outcome = evaluator.outcome(_outside(room_id, event), follower.user_id)
    return Due(0, room_id, pos, event, MAIN, outcome) if outcome.notify else None


class _Nobody:
    """The levels of a room that one is not in."""

    def of(self, _: str) -> int:
        """See `NotificationLevels`."""
        return 0

    def to_notify(self, _: str) -> int:
        """See `NotificationLevels`."""
        return 1


def _outside(room_id: str, event: Timed) -> Subject:
    content = orjson.loads(content_of(event.client))
    return Subject(room_id, event.event_id, MEMBER, event.sender, event.state_key, content, 0, _Nobody())


async def missed(node: Node, follower: Follower, after: int, upto: int, not_before: int) -> list[Due]:
    """What a resident is to be told of what came with ``after < position <= upto``, oldest first.

    Of the newest events only, and of none that was sent before a time (milliseconds since 1970): nobody wants to be
    rung up for what is that old.
    """
    if after >= upto:
        return []
    by_room: dict[str, list[Timed]] = {}
    for row in await node.read(stored.behind, follower.user_nid, after, upto, MOST_BEHIND):
        by_room.setdefault(row.room_id, []).append(timed(row.event))
    found: list[Due] = []
    for room_id, events in by_room.items():
        room = await state.find(node, room_id)
        if room is not None:
            found += await of_room(node, room, follower, events)
    for row in await node.read(stored.invitations_behind, follower.user_nid, after, upto):
        due = await invitation(node, follower, row.room_id, row.pos, _placed(row))
        found += [] if due is None else [due]
    return sorted((due for due in found if due.event.ts >= not_before), key=lambda due: due.pos)


def _placed(row: Behind) -> Timed:
    return timed(row.event._replace(pos=row.pos))


async def is_read(node: Node, follower: Follower, due: Due) -> bool:
    """Whether a resident has read meanwhile what they were to be told of. Usually no trip."""
    if not due.room_nid:
        return False
    return (await unread.read_of(node, follower.user_nid, due.room_nid)).covers(due.thread, due.pos)
