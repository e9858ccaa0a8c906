"""One joined room in an answer of `/sync`: its timeline, state, summary and counts, as bytes.

The usual case, a member who was there before and is told of new events, is answered from memory without any trip.

spec: client-server-api/#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from homeserver.protocol.event_view import MEMBER
from homeserver.push import unread
from homeserver.rooms import history, state, tokens
from homeserver.rooms.state import Room, Timed, timed
from homeserver.runtime.lru import Lru
from homeserver.storage import events
from homeserver.storage import state as stored_state

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.storage.rooms import StoredMembership
    from homeserver.sync.filters import SyncFilter

HEROES = 5
_NAMES: tuple[StateKey, ...] = (("m.room.name", ""), ("m.room.canonical_alias", ""))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is about: changes with ``since < position <= upto``; ``since`` None: everything.

    ``state_after``: state is wanted as it is after the timeline, not before it.
    """

    server: Server
    caller: Caller
    since: int | None
    upto: int
    chosen: SyncFilter
    full_state: bool = False
    state_after: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a timeline, oldest first. ``floor``: the position before its first event."""

    events: Sequence[Timed]
    limited: bool
    floor: int


class SentMembers:
    """Which member events a device has been given lately (``node.memory(SentMembers)``), by device and room."""

    def __init__(self) -> None:
        self.sent: Lru[tuple[int, int], dict[str, str]] = Lru(200_000, lambda users: 1 + len(users))


# the timeline -------------------------------------------------------------------------------


async def stretch(asked: Asked, room: Room, since: int | None, seen: history.Sight | None) -> Stretch:
    """The newest events of a room behind ``since``, as many as the filter wants."""
    limit = asked.chosen.timeline_limit
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
    if seen is not None:
        passed = [event for event in passed if seen.sees(event)]
    limited = len(passed) > limit or not complete
    passed = passed[-limit:] if limit else []
    if not passed:
        return Stretch((), limited, asked.upto if limited or since is None else since)
    return Stretch(passed, limited, passed[0].pos - 1)


# the state ----------------------------------------------------------------------------------


async def state_bytes(asked: Asked, room: Room, since: int | None, timeline: Stretch) -> list[bytes]:
    """The state events that a client needs beside the timeline."""
    nids = await _state_nids(asked, room, since, timeline)
    if not nids:
        return []
    rows = await asked.caller.node.read(events.by_nids, nids)
    now = asked.server.clock.now_ms()
    part = asked.chosen.state
    return [history.show_stored(row, now) for row in rows if part.open or part.takes(row.type, row.sender)]


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
        if asked.state_after or timeline.limited or room.merged_at > since:
            changes = await node.read(stored_state.changes_between, room.nid, since, edge)
            wanted = {key: nid for key, nid in changes.items() if nid is not None}
        if lazy:
            if timeline.limited:
                people = _people(asked, timeline)
                wanted = {key: nid for key, nid in wanted.items() if key[0] != MEMBER or key[1] in people}
            wanted.update(_unsent_members(asked, room, timeline))
    if not asked.state_after:
        shown = {event.event_nid for event in timeline.events if event.state_key is not None}
        return set(wanted.values()) - shown
    return set(wanted.values())


async def _whole_state(asked: Asked, room: Room, edge: int) -> dict[StateKey, int]:
    """The state at a position; from memory when nothing has changed behind it."""
    if edge >= room.state_pos:
        return {key: entry.nid for key, entry in room.now.state.items() if entry.nid is not None}
    then = await asked.caller.node.read(stored_state.at, room.nid, edge)
    if then:
        return then
    # The replica is younger than the timeline that is shown: the state it began with has to do.
    return {key: entry.nid for key, entry in room.now.state.items() if entry.nid is not None}


def _people(asked: Asked, timeline: Stretch) -> set[str]:
    return {asked.caller.user_id, *(event.sender for event in timeline.events)}


def _note_sent(asked: Asked, room: Room, wanted: dict[StateKey, int]) -> None:
    known = {key[1]: room.now.state[key].event_id for key in wanted if key[0] == MEMBER and key in room.now.state}
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
        if asked.chosen.state.redundant_members or sent.get(user_id) != entry.event_id:
            fresh[MEMBER, user_id] = entry.nid
            sent = {**sent, user_id: entry.event_id}
    if fresh:
        memory[key] = sent
    return fresh


# the summary --------------------------------------------------------------------------------


async def summary(asked: Asked, room: Room) -> bytes:
    """Counts of members, and the heroes of a room without a name. spec: client-server-api/#get_matrixclientv3sync"""
    found: dict[str, object] = {
        "m.joined_member_count": room.now.joined,
        "m.invited_member_count": room.now.invited,
    }
    names = [key for key in _NAMES if key in room.now.state]
    while missing := state.lacking(room.now, names):
        await state.load_entries(asked.caller.node, room, missing)
    if not any(_named(room, key) for key in names):
        found["m.heroes"] = heroes(room, asked.caller.user_id)
    return orjson.dumps(found)


def _named(room: Room, key: StateKey) -> bool:
    event = room.now.event(key)
    name = None if event is None else event.content.get("name" if key[0] == "m.room.name" else "alias")
    return isinstance(name, str) and name != ""


def heroes(room: Room, reader: str) -> list[str]:
    """The first members beside the reader: those who are in or invited, or else those who left."""
    others = sorted(
        (entry.nid or 0, key[1], entry.membership)
        for key, entry in room.now.state.items()
        if key[0] == MEMBER and key[1] != reader
    )
    present = [user_id for _, user_id, membership in others if membership in ("join", "invite")]
    gone = [user_id for _, user_id, membership in others if membership in ("leave", "ban")]
    return (present or gone)[:HEROES]


# the whole ----------------------------------------------------------------------------------


async def section(
    asked: Asked,
    room: Room,
    since: int | None,
    *,
    seen: history.Sight | None,
    ephemeral: Sequence[bytes],
    account_data: Sequence[bytes],
    joined: bool,
) -> bytes | None:
    """A room of the ``join`` or ``leave`` part; None when there is nothing to say.

    ``seen`` is given when not all events behind ``since`` can be taken as visible.
    """
    timeline = await stretch(asked, room, since, seen)
    state_events = await state_bytes(asked, room, since, timeline)
    first = since is None or asked.full_state
    if not (first or timeline.events or timeline.limited or state_events or ephemeral or account_data):
        return None
    own = await _own_transactions(asked.caller, timeline.events)
    now = asked.server.clock.now_ms()
    shown = [history.show(event, now, transaction_id=own.get(event.event_id)) for event in timeline.events]
    parts = [
        b'{"timeline":{"events":[',
        b",".join(shown),
        b'],"limited":true' if timeline.limited else b'],"limited":false',
        b',"prev_batch":"%s"}' % tokens.between(timeline.floor).encode(),
        b',"state_after":{"events":[' if asked.state_after else b',"state":{"events":[',
        b",".join(state_events),
        b"]}",
        b',"account_data":{"events":[',
        b",".join(account_data),
        b"]}",
    ]
    if joined:
        parts += await _joined_parts(asked, room, first, timeline, state_events, ephemeral)
    parts.append(b"}")
    return b"".join(parts)


async def outsider_section(asked: Asked, membership: StoredMembership, account_data: Sequence[bytes]) -> bytes | None:
    """A room of which the node has no replica, in the ``leave`` part: the event that ended the user's membership."""
    rows = await asked.caller.node.read(events.by_nids, [membership.event_nid])
    now = asked.server.clock.now_ms()
    return b"".join(
        (
            b'{"timeline":{"events":[',
            b",".join(history.show_stored(row, now) for row in rows),
            b'],"limited":false},"state":{"events":[]},"account_data":{"events":[',
            b",".join(account_data),
            b"]}}",
        )
    )


async def _joined_parts(
    asked: Asked, room: Room, first: bool, timeline: Stretch, state_events: Sequence[bytes], ephemeral: Sequence[bytes]
) -> list[bytes]:
    caller = asked.caller
    count = await unread.count(caller.node, room, caller.user_nid, caller.user_id, asked.upto)
    parts = [
        b',"ephemeral":{"events":[',
        b",".join(ephemeral),
        b']},"unread_notifications":{"notification_count":%d,"highlight_count":%d}' % count,
    ]
    moved = timeline.limited or state_events or any(event.type == MEMBER for event in timeline.events)
    if first or moved:
        parts += [b',"summary":', await summary(asked, room)]
    return parts


async def _own_transactions(caller: Caller, shown: Collection[Timed]) -> dict[str, str]:
    """Transaction ids of what the calling device sent; a trip only for own events of which memory does not tell."""
    own: dict[str, str] = {}
    unknown = []
    for event in shown:
        if event.sender == caller.user_id:
            if event.echo is None:
                unknown.append(event.event_id)
            elif event.echo[0] == caller.device_nid:
                own[event.event_id] = event.echo[1]
    if unknown:
        own |= await history.transactions_of(caller, unknown)
    return own
