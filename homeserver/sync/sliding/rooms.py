"""The rooms of an answer: which are told of, what of each, and what the connection knows of them afterwards.

What they need from the database is read for all of them together; most of it is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import aggregations, showing, sight, state, state_rows
from homeserver.rooms.sight import Sight
from homeserver.storage import rooms as stored_rooms
from homeserver.sync import echoes, heroes
from homeserver.sync.sliding import beginnings, openings, recency, required_state, timeline
from homeserver.sync.sliding.connections import LIVE, NEVER, Sent
from homeserver.sync.sliding.room_entry import AVATAR, NAME, Entry, text_in
from homeserver.sync.sliding.telling import Draft
from homeserver.sync.sliding.traits import OUTSIDE

if TYPE_CHECKING:
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.state import Room
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node
    from homeserver.storage.sliding import Beginnings
    from homeserver.sync.sliding.connections import Standing
    from homeserver.sync.sliding.request import Extensions
    from homeserver.sync.sliding.room_list import RoomList
    from homeserver.sync.sliding.selection import Selection
    from homeserver.sync.sliding.telling import Telling
    from homeserver.sync.sliding.wanted import Wanted


@dataclass(slots=True)
class Told:
    """What is told of rooms: ``entries`` by room id; ``sent``: what the connection knows afterwards, where that
    differs, by row id; ``drafts`` of those whose timeline was looked at, by row id; ``first``: see beginnings.py.
    """

    entries: dict[str, bytes] = field(default_factory=dict)
    sent: dict[int, Sent | None] = field(default_factory=dict)
    drafts: dict[int, Draft] = field(default_factory=dict)
    first: Beginnings | None = None


async def tell(
    telling: Telling, standing: Standing, selection: Selection, listed: RoomList, wanted: Extensions
) -> Told:
    """What is to be said of the rooms that a request is about; and which others it will have to catch up with.
    ``wanted``: what is told beside rooms.
    """
    told = Told()
    drafts = _due(telling, standing, selection, listed)
    _note_missed(telling, standing, selection, listed, told)
    inside = [draft for draft in drafts if draft.listed.membership not in OUTSIDE]
    outside = [draft for draft in drafts if draft.listed.membership in OUTSIDE]
    inside, strange = await _with_rooms(telling, inside)
    await timeline.fill(telling, inside)
    for draft in inside:
        if not openings.serves(draft):
            await required_state.fill(telling.caller.node, draft)
    await openings.fill(telling, [draft for draft in inside if openings.serves(draft)])
    await _shown_outside(telling, strange)
    told.drafts = {draft.listed.room_nid: draft for draft in (*inside, *strange)}
    told.first = await beginnings.read(telling, selection, wanted, [*inside, *strange])
    await _write(telling, selection, [*inside, *strange], told)
    await _write_invitations(telling, selection, outside, told)
    for draft in drafts:
        _note(telling, standing, listed, draft, told)
    return told


# which rooms --------------------------------------------------------------------------------


def _due(telling: Telling, standing: Standing, selection: Selection, listed: RoomList) -> list[Draft]:
    """The rooms that something may have to be said of."""
    found: list[Draft] = []
    covered: dict[tuple[int, int], bool] = {}
    newest, told, direct, position = listed.newest, standing.rooms, telling.direct, telling.since or 0
    for nid, config in selection.rooms.items():
        sent = told.get(nid)
        if sent is not None:
            since = position if sent.timeline == LIVE else sent.timeline
            place = newest.get(nid)
            if (
                place is not None
                and place <= since
                and config.limit <= sent.limit
                and (sent.wanted is config.wanted or _covered(sent.wanted, config.wanted, covered))
                and sent.direct == (bool(direct) and listed.rooms[nid].room_id in direct)
            ):
                continue
        room = listed.find(nid)
        if room is None or room.pos > telling.upto:
            continue  # it came while this answer was made: the next one tells
        found.append(
            Draft(
                room,
                None,
                config,
                sent,
                None if sent is None else since,
                telling.upto,
                expanded=sent is not None and config.limit > sent.limit,
            )
        )
    return found


def _covered(before: Wanted, now: Wanted, known: dict[tuple[int, int], bool]) -> bool:
    key = (id(before), id(now))
    found = known.get(key)
    if found is None:
        found = known[key] = before.covers(now)
    return found


def _note_missed(telling: Telling, standing: Standing, selection: Selection, listed: RoomList, told: Told) -> None:
    """Rooms that the request is not about, and in which something happened: they are told from here on one day."""
    if telling.since is None:
        return
    for nid in listed.changed_after(telling.since):
        sent = standing.rooms.get(nid)
        if sent is not None and sent.timeline == LIVE and nid not in selection.rooms:
            told.sent[nid] = sent._replace(timeline=telling.since)


async def _with_rooms(telling: Telling, drafts: Sequence[Draft]) -> tuple[list[Draft], list[Draft]]:
    """Give the drafts their rooms; those to be told as a single event, because the user never was in the room as this
    node knows it, or of what came after their stay, stand apart."""
    node, user_id = telling.caller.node, telling.caller.user_id
    found: list[Draft] = []
    strange: list[Draft] = []
    rooms = await _rooms_of(node, [draft.listed.room_id for draft in drafts])
    renewed = [
        room.nid
        for draft, room in zip(drafts, rooms, strict=True)
        if room is not None and (not draft.joined or (draft.since is not None and draft.listed.pos > draft.since))
    ]
    sights = await sight.of_rooms(node, renewed, user_id) if renewed else {}
    for draft, room in zip(drafts, rooms, strict=True):
        draft.room = room
        seen = draft.seen = None if room is None else sights.get(room.nid)
        if draft.joined:
            if room is None:
                continue
            if draft.since is not None and seen is not None and _has_come(seen, draft.since):
                draft.since, draft.expanded = None, False
            found.append(draft)
            continue
        left_at = None if seen is None else seen.left_at
        if seen is None or left_at is None or (draft.since is not None and draft.since >= left_at):
            strange.append(draft)
            continue
        draft.upto = min(draft.upto, left_at)
        if draft.since is not None and seen.membership_at(draft.since) != "join":
            draft.since = left_at - 1
        found.append(draft)
    return found, strange


def _has_come(seen: Sight, since: int) -> bool:
    """Whether somebody has joined a room after a position, from outside."""
    before = seen.membership_at(since)
    for pos, membership in seen.memberships:
        if pos > since:
            if membership == "join" and before != "join":
                return True
            before = membership
    return False


async def _rooms_of(node: Node, room_ids: Sequence[str]) -> list[Room | None]:
    """Rooms as the node has them; those that are not in memory are read at the same time."""
    memory = node.memory(state.Rooms)
    held = {room_id: memory.get(room_id) for room_id in room_ids}
    missing = [room_id for room_id, room in held.items() if room is None]
    if missing:
        held.update(zip(missing, await asyncio.gather(*(state.find(node, each) for each in missing)), strict=True))
    return [held[room_id] for room_id in room_ids]


async def _shown_outside(telling: Telling, drafts: Sequence[Draft]) -> None:
    """Of these the one event is told that changed the user's membership."""
    rows = await state_rows.find(telling.caller.node, [draft.listed.event_nid for draft in drafts]) if drafts else {}
    for draft in drafts:
        row = rows.get(draft.listed.event_nid)
        if row is not None:
            draft.events = [state.timed(row._replace(pos=draft.listed.pos))]
        draft.floor = draft.listed.pos - 1
        draft.seen = Sight(telling.caller.user_id, [(draft.listed.pos, draft.listed.membership)], (), ())


# what of them -------------------------------------------------------------------------------


async def _write(telling: Telling, selection: Selection, drafts: Sequence[Draft], told: Told) -> None:
    rows = await _rows(telling, drafts)
    chosen = await _heroes(telling, drafts, rows)
    own = await _own_transactions(telling, drafts) if told.first is None else told.first.sent
    related = await _related(telling, drafts, told.first)
    for draft in drafts:
        nid = draft.listed.room_nid
        entry = Entry(telling, draft, rows, own, related)
        entry.heroes = chosen.get(nid)
        entry.bump_stamp = await recency.stamp(telling, draft)
        written = entry.encoded(selection.names(nid))
        if written is not None:
            told.entries[draft.listed.room_id] = written


async def _rows(telling: Telling, drafts: Sequence[Draft]) -> Mapping[int, StoredEvent]:
    """The state events that are shown, or looked into."""
    nids = {nid for draft in drafts for nid in draft.state.values() if nid is not None}
    others = [draft for draft in drafts if draft.opening is None]
    nids.update(nid for draft in others for key in (NAME, AVATAR) if (nid := draft.nid_of(key)) is not None)
    return await state_rows.find(telling.caller.node, nids) if nids else {}


async def _heroes(
    telling: Telling, drafts: Sequence[Draft], rows: Mapping[int, StoredEvent]
) -> dict[int, list[tuple[str, StoredEvent | None]]]:
    """By room row id, of rooms that have no name, where it is to be told: users and their member events."""
    node, reader = telling.caller.node, telling.caller.user_id
    chosen: dict[int, list[str]] = {}
    wanted: dict[tuple[int, str], int] = {}
    for draft in drafts:
        if not draft.joined or draft.room is None or not (draft.has_moved(MEMBER) or NAME in draft.changes):
            continue
        if draft.opening.named if draft.opening else text_in(rows, draft.nid_of(NAME), "name"):
            continue
        nid = draft.room.nid
        chosen[nid] = heroes.of_room(node, draft.room, reader)
        for user_id in chosen[nid]:
            member: StateKey = (MEMBER, user_id)
            event_nid = draft.nid_of(member)
            if event_nid is not None:
                wanted[nid, user_id] = event_nid
    members = await state_rows.find(node, set(wanted.values())) if wanted else {}
    return {
        nid: [(user_id, members.get(wanted.get((nid, user_id), 0))) for user_id in users]
        for nid, users in chosen.items()
    }


async def _own_transactions(telling: Telling, drafts: Sequence[Draft]) -> Mapping[str, str]:
    """Transaction ids of the caller's device, of those events of which memory does not tell."""
    unknown = [event_id for draft in drafts for event_id in echoes.unknown(telling.caller, draft.events)]
    return await showing.transactions_of(telling.caller, unknown) if unknown else {}


async def _related(telling: Telling, drafts: Sequence[Draft], first: Beginnings | None) -> Mapping[str, bytes]:
    """What is bundled with the events of limited timelines."""
    if first is not None and not first.related:
        return {}
    parents = [
        parent
        for draft in drafts
        if beginnings.bundles(draft) and draft.room is not None
        for parent in aggregations.parents_of(draft.room, draft.seen, draft.events, room_ids=False)
        if first is None or parent.event.event_id in first.related
    ]
    if not parents:
        return {}
    caller = telling.caller
    reader = aggregations.Reader(caller.node, caller.user_nid, caller.user_id, telling.ignored, telling.erased)
    return await aggregations.bundled(reader, parents, telling.now)


async def _write_invitations(telling: Telling, selection: Selection, drafts: Sequence[Draft], told: Told) -> None:
    """Rooms to which the user is invited, or at which they knock, with their stripped state."""
    fresh = [draft for draft in drafts if draft.since is None or draft.listed.pos > draft.since]
    if not fresh:
        return
    caller = telling.caller
    previews = await caller.node.read(
        stored_rooms.invitations, caller.user_nid, [draft.listed.room_nid for draft in fresh]
    )
    for draft in fresh:
        nid = draft.listed.room_nid
        draft.since = None
        entry = Entry(telling, draft, {}, {}, {})
        entry.bump_stamp = max(draft.listed.pos, 0)
        told.entries[draft.listed.room_id] = entry.invitation(selection.names(nid), previews.get(nid, b"[]"))


# what is known afterwards -------------------------------------------------------------------


def _note(telling: Telling, standing: Standing, listed: RoomList, draft: Draft, told: Told) -> None:
    nid, config = draft.listed.room_nid, draft.config
    if draft.joined and draft.room is None:
        return
    if nid in listed.left:
        told.sent[nid] = None
        return
    before = draft.sent or Sent(NEVER, 0, config.wanted)
    limit = config.limit
    if draft.since is not None and limit < before.limit and not draft.limited:
        limit = before.limit
    inside = nid in told.drafts
    after = Sent(
        LIVE,
        limit,
        required_state.wanted_after(draft) if inside else config.wanted,
        required_state.members_after(draft) if inside else frozenset(),
        before.data,
        before.receipts,
        draft.listed.room_id in telling.direct,
    )
    if after != standing.rooms.get(nid):
        told.sent[nid] = after
