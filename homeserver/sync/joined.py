"""One joined room in an answer of `/sync`: its timeline, state, summary and counts, as bytes.

The usual case, a member who was there before and is told of new events, is answered from memory without any trip.

spec: client-server-api/#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import orjson

from homeserver.protocol import stickiness
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.events import pdu_bytes
from homeserver.push import unread
from homeserver.rooms import aggregations, erasure, showing, sight, sticky, tokens
from homeserver.rooms.receipts import MAIN
from homeserver.rooms.state import Room, Timed, timed
from homeserver.runtime.lru import Lru
from homeserver.storage import events
from homeserver.storage import state as stored_state
from homeserver.storage.streams import Stream
from homeserver.sync import echoes, heroes

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.epochs import Past
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.rooms import StoredMembership
    from homeserver.storage.sticky_events import Sticky
    from homeserver.sync.filters import SyncFilter


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is about: changes with ``since < position <= upto``; ``since`` None: everything.

    ``state_after``: state is wanted as it is after the timeline, under this name; None: as it is before it.
    ``ignored``: users of whom only state is shown; ``erased``: see rooms/erasure.py. ``past``: what the client was told
    on another node; of a room, ``given`` stands behind ``since`` and was told already, and with ``gap`` it is not known
    what was.
    """

    server: Server
    caller: Caller
    since: int | None
    upto: int
    chosen: SyncFilter
    full_state: bool = False
    state_after: str | None = None
    ignored: frozenset[str] = frozenset()
    erased: Mapping[str, int] = field(default_factory=dict)
    past: Past | None = None
    given: frozenset[int] = frozenset()
    gap: bool = False

    def of_room(self, room_nid: int) -> Asked:
        """What is asked about one room."""
        if self.past is None:
            return self
        told = self.past.rooms.get(room_nid)
        if told is None:
            return replace(self, since=None, gap=True)
        return replace(self, since=told.position, given=told.given)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a timeline, oldest first. ``floor``: the position before its first event."""

    events: Sequence[Timed]
    limited: bool
    floor: int


class SentMembers:
    """Which member events a device has been given lately (``node.memory(SentMembers)``), by device and room.

    Each with the position of the token that came with it: who has not used that token may not have got the answer.
    """

    def __init__(self) -> None:
        self.sent: Lru[tuple[int, int], dict[str, tuple[str, int]]] = Lru(200_000, lambda users: 1 + len(users))


# the timeline -------------------------------------------------------------------------------


async def stretch(asked: Asked, room: Room, since: int | None, seen: sight.Sight | None) -> Stretch:
    """The newest events of a room behind ``since``, as many as the filter wants."""
    limit = min(asked.chosen.timeline_limit, asked.server.settings.limits.page_size)
    part = asked.chosen.timeline
    node = asked.caller.node
    after = room.recent_floor if since is None else since
    if after >= room.recent_floor and (since is not None or len(room.recent) > limit):
        found = [event for event in room.recent if after < event.pos <= asked.upto]
        complete = since is not None
    else:
        rows = await node.read(events.timeline_backwards, room.nid, asked.upto, since, limit + 1)
        found = [timed(row) for row in reversed(rows)]
        complete = len(rows) <= limit
    passed = found if part.open else [event for event in found if part.passes(event)]
    if asked.ignored:
        passed = [event for event in passed if event.state_key is not None or event.sender not in asked.ignored]
    if seen is not None:
        passed = [event for event in passed if seen.sees(event)]
    if asked.given:
        passed = [event for event in passed if event.pos not in asked.given]
    limited = len(passed) > limit or not complete or asked.gap
    passed = passed[-limit:] if limit else []
    passed = list(erasure.shown(room, asked.erased, seen, passed))
    if not passed:
        return Stretch((), limited, asked.upto if limited or since is None else since)
    return Stretch(passed, limited, passed[0].pos - 1)


# the state ----------------------------------------------------------------------------------


async def _state_nids(asked: Asked, room: Room, since: int | None, timeline: Stretch) -> set[int]:
    node = asked.caller.node
    lazy = asked.chosen.state.lazy_members
    edge = asked.upto if asked.state_after else timeline.floor
    wanted: dict[StateKey, int]
    if since is None or asked.full_state:
        wanted = await _whole_state(asked, room, edge)
        if lazy:
            people = _people(asked, timeline)
            wanted = {key: nid for key, nid in wanted.items() if key[0] != MEMBER or key[1] in people}
            _note_sent(asked, room, wanted)
    else:
        wanted = {}
        if room.state_pos > since and (asked.state_after or timeline.limited or room.merged_at > since):
            changes = await node.read(stored_state.changes_between, room.nid, since, edge)
            wanted = {key: nid for key, nid in changes.items() if nid is not None}
        if lazy:
            if timeline.limited:
                people = _people(asked, timeline)
                wanted = {key: nid for key, nid in wanted.items() if key[0] != MEMBER or key[1] in people}
            wanted.update(_unsent_members(asked, room, timeline))
    if asked.state_after:
        return set(wanted.values())
    shown = {event.event_nid: (event.type, event.state_key) for event in timeline.events if event.state_key is not None}
    if not asked.chosen.timeline.open and room.state_pos > (edge if since is None else since):
        wanted.update(await _hidden_changes(asked, room, since, timeline, set(shown.values())))
    return set(wanted.values()) - shown.keys()


async def _hidden_changes(
    asked: Asked, room: Room, since: int | None, timeline: Stretch, shown: Collection[tuple[str, str | None]]
) -> dict[StateKey, int]:
    """State that became what it is without the client seeing it: changes that the filter keeps out of the timeline.

    Not those of an entry of which the timeline shows a change: that would be undone.
    """
    behind = timeline.floor if since is None or timeline.limited else since
    changes = await asked.caller.node.read(stored_state.changes_between, room.nid, behind, asked.upto)
    return {key: nid for key, nid in changes.items() if nid is not None and key not in shown}


async def _whole_state(asked: Asked, room: Room, edge: int) -> dict[StateKey, int]:
    """The state at a position; from memory when little or nothing has changed behind it."""
    now = {key: entry.nid for key, entry in room.now.state.items() if entry.nid is not None}
    if edge >= room.state_pos:
        return now
    node = asked.caller.node
    if edge >= room.recent_floor:
        undone: Mapping[StateKey, int | None] = await node.read(stored_state.changed_after, room.nid, edge)
        now.update({key: nid for key, nid in undone.items() if nid is not None})
        then = {key: nid for key, nid in now.items() if undone.get(key, nid) is not None}
    else:
        then = await node.read(stored_state.at, room.nid, edge)
    # Empty: the replica is younger than the timeline that is shown, and the state it began with has to do.
    return then or {key: entry.nid for key, entry in room.now.state.items() if entry.nid is not None}


def _people(asked: Asked, timeline: Stretch) -> set[str]:
    return {asked.caller.user_id, *(event.sender for event in timeline.events)}


def _note_sent(asked: Asked, room: Room, wanted: dict[StateKey, int]) -> None:
    known = {
        key[1]: (room.now.state[key].event_id, asked.upto)
        for key in wanted
        if key[0] == MEMBER and key in room.now.state
    }
    asked.caller.node.memory(SentMembers).sent[asked.caller.device_nid, room.nid] = known


def _unsent_members(asked: Asked, room: Room, timeline: Stretch) -> dict[StateKey, int]:
    """Member events of the timeline's senders that the device has not been given, as far as is remembered."""
    memory = asked.caller.node.memory(SentMembers).sent
    key = (asked.caller.device_nid, room.nid)
    sent = memory.get(key) or {}
    fresh: dict[StateKey, int] = {}
    for user_id in {event.sender for event in timeline.events}:
        entry = room.now.state.get((MEMBER, user_id))
        if entry is None or entry.nid is None:
            continue
        event_id, given_at = sent.get(user_id, ("", 0))
        received = event_id == entry.event_id and asked.since is not None and asked.since >= given_at
        if asked.chosen.state.redundant_members or not received:
            fresh[MEMBER, user_id] = entry.nid
            sent = {**sent, user_id: (entry.event_id, asked.upto)}
    if fresh:
        memory[key] = sent
    return fresh


# the whole ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """A room of an answer, before what it needs from the database is there: that is read for all rooms together.

    ``nids`` are the row ids of the state events beside the timeline. ``joined``: the user is in the room.
    """

    asked: Asked
    room: Room
    since: int | None
    timeline: Stretch
    nids: set[int]
    ephemeral: Sequence[bytes]
    account_data: Sequence[bytes]
    joined: bool
    seen: sight.Sight | None

    @property
    def first(self) -> bool:
        """Whether the client is told everything about the room."""
        return self.since is None or self.asked.full_state


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the rooms of an answer need from the database: state events by row id (all events, where they are wanted as
    servers have them); own transaction ids, and what relates to events, by event id; and by row id of the room what is
    sticky there and not in the timeline that is told.
    """

    rows: Mapping[int, StoredEvent]
    own: Mapping[str, str]
    related: Mapping[str, bytes]
    sticky: Mapping[int, Sequence[Sticky]]


async def begin(
    asked: Asked,
    room: Room,
    since: int | None,
    *,
    seen: sight.Sight | None,
    ephemeral: Sequence[bytes],
    account_data: Sequence[bytes],
    joined: bool,
) -> Draft:
    """Begin a room of the ``join`` or ``leave`` part.

    ``seen`` is given when not all events behind ``since`` can be taken as visible.
    """
    timeline = await stretch(asked, room, since, seen)
    nids = await _state_nids(asked, room, since, timeline)
    return Draft(asked, room, since, timeline, nids, ephemeral, account_data, joined, seen)


async def load(caller: Caller, drafts: Sequence[Draft]) -> Loaded:
    """Read what all these rooms need. No trip when they need nothing."""
    nids = {nid for draft in drafts for nid in draft.nids}
    if any(draft.asked.chosen.federation_format for draft in drafts):
        nids |= {event.event_nid for draft in drafts for event in draft.timeline.events}
    rows = {row.event_nid: row for row in await caller.node.read(events.by_nids, nids)} if nids else {}
    stuck = await _sticky(caller, drafts)
    unknown = [event_id for draft in drafts for event_id in echoes.unknown(caller, draft.timeline.events)]
    events_stuck = [each.event for found in stuck.values() for each in found]
    unknown += [event.event_id for event in events_stuck if event.sender == caller.user_id]
    own = await showing.transactions_of(caller, unknown) if unknown else {}
    return Loaded(rows, own, await _related(caller, drafts), stuck)


async def _sticky(caller: Caller, drafts: Sequence[Draft]) -> Mapping[int, Sequence[Sticky]]:
    """What is sticky in rooms that the user is in and was not told yet, but for what their timelines tell."""
    due: dict[int, dict[int, Draft]] = {}
    for draft in drafts:
        since = None if draft.first or draft.asked.gap else draft.since
        if draft.joined and (since is None or caller.node.changes.changed(Stream.STICKY, draft.room.nid, since)):
            due.setdefault(since or 0, {})[draft.room.nid] = draft
    found: dict[int, list[Sticky]] = {}
    for since, of_room in due.items():
        asked = next(iter(of_room.values())).asked
        now = asked.server.clock.now_ms()
        for each in await caller.node.read(sticky.of_rooms, of_room.keys(), since, asked.upto, now):
            draft = of_room[each.room_nid]
            told = any(event.event_nid == each.event.event_nid for event in draft.timeline.events)
            if not told and sticky.is_for(each, asked.ignored, asked.erased):
                found.setdefault(each.room_nid, []).append(each)
    return found


async def _related(caller: Caller, drafts: Sequence[Draft]) -> Mapping[str, bytes]:
    """What is bundled with the events of limited timelines: of others, the client is given everything anyway.

    spec: client-server-api/#aggregations-of-child-events
    """
    parents = [
        parent
        for draft in drafts
        if draft.timeline.limited
        for parent in aggregations.parents_of(draft.room, draft.seen, draft.timeline.events, room_ids=False)
    ]
    if not parents:
        return {}
    asked = drafts[0].asked
    reader = aggregations.Reader(caller.node, caller.user_nid, caller.user_id, asked.ignored, asked.erased)
    return await aggregations.bundled(reader, parents, asked.server.clock.now_ms())


async def finish(draft: Draft, loaded: Loaded) -> bytes | None:
    """The encoded room; None when there is nothing to say."""
    asked, timeline = draft.asked, draft.timeline
    now, part = asked.server.clock.now_ms(), asked.chosen.state
    state_events = [
        _shown_state(draft, row, now)
        for row in map(loaded.rows.get, draft.nids)
        if row is not None and (part.open or part.takes(row.type, row.sender))
    ]
    stuck = loaded.sticky.get(draft.room.nid, ())
    if not (
        draft.first
        or timeline.events
        or timeline.limited
        or state_events
        or draft.ephemeral
        or draft.account_data
        or stuck
    ):
        return None
    parts = [
        b'{"timeline":{"events":[',
        b",".join([_shown(draft, event, now, loaded) for event in timeline.events]),
        b'],"limited":true' if timeline.limited else b'],"limited":false',
        b',"prev_batch":"%s"}' % tokens.between(timeline.floor, asked.caller.epoch).encode(),
        b',"%s":{"events":[' % (asked.state_after or "state").encode(),
        b",".join(state_events),
        b"]}",
        b',"account_data":{"events":[',
        b",".join(draft.account_data),
        b"]}",
    ]
    if draft.joined:
        parts += await _joined_parts(draft, bool(state_events))
    if stuck:
        shown = [_shown_sticky(draft, each, now, loaded) for each in stuck]
        parts += [b',"%s":{"events":[' % stickiness.FIELD.encode(), b",".join(shown), b"]}"]
    parts.append(b"}")
    return b"".join(parts)


def _shown(draft: Draft, event: Timed, now: int, loaded: Loaded) -> bytes:
    """An event of the timeline, with the transaction id under which the calling device sent it."""
    caller = draft.asked.caller
    if draft.asked.chosen.federation_format:
        return _as_sent(draft.room, loaded.rows[event.event_nid])
    related = loaded.related.get(event.event_id)
    seen = draft.seen
    membership = sight.JOINED if seen is None else seen.membership_at(event.pos)  # no call where many are told
    if event.sender != caller.user_id:
        return showing.show(event, now, membership=membership, relations=related)
    own = echoes.transaction_id(caller, event, loaded.own)
    return showing.show(event, now, membership=membership, transaction_id=own, relations=related)


def _shown_sticky(draft: Draft, each: Sticky, now: int, loaded: Loaded) -> bytes:
    if draft.asked.chosen.federation_format:
        return _as_sent(draft.room, each.event)
    return sticky.show(each, now, loaded.own.get(each.event.event_id))


def _shown_state(draft: Draft, row: StoredEvent, now: int) -> bytes:
    if draft.asked.chosen.federation_format:
        return _as_sent(draft.room, row)
    then = None if draft.seen is None else sight.membership_at(draft.seen, row.pos)
    return showing.show_stored(row, now, membership=then)


def _as_sent(room: Room, row: StoredEvent) -> bytes:
    """An event as servers send it to one another. spec: client-server-api/#filtering"""
    return pdu_bytes(room.rules, row.client, row.rest)


async def outsider_section(asked: Asked, membership: StoredMembership, account_data: Sequence[bytes]) -> bytes:
    """A room of which the node has no replica, in the ``leave`` part: the event that ended the user's membership."""
    rows = await asked.caller.node.read(events.by_nids, [membership.event_nid])
    now = asked.server.clock.now_ms()
    return b"".join(
        (
            b'{"timeline":{"events":[',
            b",".join(showing.show_stored(row, now, membership=membership.membership) for row in rows),
            b'],"limited":false},"state":{"events":[]},"account_data":{"events":[',
            b",".join(account_data),
            b"]}}",
        )
    )


async def _joined_parts(draft: Draft, has_state: bool) -> list[bytes]:
    asked, timeline = draft.asked, draft.timeline
    caller = asked.caller
    count = await unread.count(caller.node, draft.room, caller.user_nid, caller.user_id, asked.upto)
    by_thread = asked.chosen.timeline.thread_counts
    whole = count.threads.get(MAIN, (0, 0)) if by_thread else count[:2]
    parts = [
        b',"ephemeral":{"events":[',
        b",".join(draft.ephemeral),
        b']},"unread_notifications":{"notification_count":%d,"highlight_count":%d}' % whole,
    ]
    if by_thread:
        threads = {
            root: {"notification_count": found[0], "highlight_count": found[1]}
            for root, found in count.threads.items()
            if root != MAIN
        }
        parts += [b',"unread_thread_notifications":', orjson.dumps(threads)]
    moved = timeline.limited or has_state or any(event.type == MEMBER for event in timeline.events)
    if draft.first or moved:
        parts += [b',"summary":', await heroes.summary(asked.caller, draft.room)]
    return parts
