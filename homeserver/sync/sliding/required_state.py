"""The state beside the timelines of an answer: what is wanted of it, as far as the connection has not been told.

A change of an entry that is wanted is always told. Of members that are wanted lazily, a connection is told when the
timeline is about them, and again when their membership has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.event_view import MEMBER
from homeserver.storage import state as stored
from homeserver.sync.sliding import wanted as wants
from homeserver.sync.sliding.wanted import NOTHING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.state import Timed
    from homeserver.storage.nodes import Node
    from homeserver.sync.sliding.telling import Draft
    from homeserver.sync.sliding.wanted import Wanted

MEMBERS_REMEMBERED = 500
"""Of how many members of a room a connection is remembered to have been told."""

PAIRS_REMEMBERED = 200
"""How many pairs that are not wanted just now are remembered."""


async def fill(node: Node, draft: Draft) -> None:
    """Set the changes of a draft's state, and what is told of it. The timeline has been set."""
    room = draft.room
    assert room is not None
    if not draft.joined:
        draft.then = await node.read(stored.at, room.nid, draft.upto)
    if draft.since is not None:
        draft.changes = await _changes(node, draft, draft.since)
    wanted = draft.config.wanted
    if draft.since is None:
        draft.state = beginning(draft, wanted, people(draft.events) if wanted.lazy else ())
        return
    told: dict[StateKey, int | None] = {key: nid for key, nid in draft.changes.items() if wanted.takes(key)}
    before = NOTHING if draft.sent is None else draft.sent.wanted
    if not before.covers(wanted):
        told.update((key, draft.nid_of(key)) for key in _chosen(draft, wanted) if not before.takes(key))
    if wanted.lazy:
        told.update(_held(draft, _lazy(draft)))
    draft.state = told


def beginning(draft: Draft, wanted: Wanted, about: Collection[str]) -> dict[StateKey, int | None]:
    """The state that is told to who is told everything; ``about``: of whose members, beside those that are wanted."""
    assert draft.room is not None
    told: dict[StateKey, int | None] = {}
    if draft.then is None:
        told.update([(key, entry.nid) for key, entry in wanted.chosen(draft.room.now.state).items()])
    else:
        told.update(wanted.chosen(draft.then))
    told.update(_held(draft, [(MEMBER, user_id) for user_id in about]))
    return told


def _held(draft: Draft, keys: Iterable[StateKey]) -> Mapping[StateKey, int | None]:
    """Those entries of the state that there are."""
    assert draft.room is not None
    if draft.then is not None:
        return {key: nid for key in keys if (nid := draft.then.get(key)) is not None}
    find = draft.room.now.state.get
    return {key: entry.nid for key in keys if (entry := find(key)) is not None}


def _chosen(draft: Draft, wanted: Wanted) -> Collection[StateKey]:
    assert draft.room is not None
    return wanted.chosen(draft.room.now.state) if draft.then is None else wanted.chosen(draft.then)


async def _changes(node: Node, draft: Draft, since: int) -> Mapping[StateKey, int | None]:
    """What became of entries of the state after a position; from memory when events of the timeline say it all."""
    room = draft.room
    assert room is not None
    if draft.joined and room.state_pos <= since:
        return {}
    if since >= room.recent_floor and since >= room.merged_at:
        recent = [event for event in room.recent if event.state_key is not None and since < event.pos <= draft.upto]
        found = {(event.type, event.state_key or ""): event.event_nid for event in recent}
        if not draft.joined or all(draft.nid_of(key) == nid for key, nid in found.items()):
            return found
    return await node.read(stored.changes_between, room.nid, since, draft.upto)


def people(events: Iterable[Timed]) -> set[str]:
    """Whom a timeline is about: who sent its events, and whose membership they change."""
    found = set()
    for event in events:
        found.add(event.sender)
        if event.type == MEMBER and event.state_key:
            found.add(event.state_key)
    return found


def _lazy(draft: Draft) -> set[StateKey]:
    """The members to be told of: those of the timeline whom the connection does not have as they are; and with a
    timeline that is whole, all whose membership changed."""
    known = frozenset() if draft.sent is None else draft.sent.members
    about = [(MEMBER, user_id) for user_id in people(draft.events)]
    found = {key for key in about if key in draft.changes or key[1] not in known}
    if not draft.limited:
        found.update(key for key in draft.changes if key[0] == MEMBER)
    return found


def members_after(draft: Draft) -> frozenset[str]:
    """Of whom the connection has the member event, as it is, after this answer."""
    told = frozenset([key[1] for key, nid in draft.state.items() if key[0] == MEMBER and nid is not None])
    if draft.opening is not None:
        told = draft.opening.members | told if told else draft.opening.members
    if draft.since is None or draft.sent is None:
        return told if len(told) <= MEMBERS_REMEMBERED else frozenset()
    before = draft.sent.members
    if draft.changes:
        before -= {key[1] for key in draft.changes if key[0] == MEMBER}
    if told <= before:
        return before
    together = before | told
    return together if len(together) <= MEMBERS_REMEMBERED else told


def wanted_after(draft: Draft) -> Wanted:
    """Which state the connection has, as it is, after this answer: also what was wanted before, unless it changed
    since without being told."""
    wanted = draft.config.wanted
    if draft.since is None or draft.sent is None:
        return wanted
    before = draft.sent.wanted
    if before is wanted:
        return wanted
    if any(before.takes(key) and not wanted.takes(key) for key in draft.changes):
        return wanted
    if before.covers(wanted):
        return before
    together = wants.together((before, wanted))
    return together if together.size <= PAIRS_REMEMBERED else wanted
