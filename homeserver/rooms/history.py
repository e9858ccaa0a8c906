"""Reading a room's past: who may see what, and the bytes of events as readers get them.

A reader's own memberships over time decide, together with the room's history visibility at each event.

spec: client-server-api/#room-history-visibility
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.accounts import ignored
from homeserver.protocol import access, stickiness
from homeserver.protocol.access import StateAccess
from homeserver.protocol.client_format import sticky_ms
from homeserver.protocol.errors import Forbidden, NotFound
from homeserver.protocol.event_view import CREATE, MEMBER
from homeserver.rooms import aggregations, erasure, state
from homeserver.rooms.state import Room, Timed, membership_in, timed
from homeserver.rooms.transactions import DELAYED
from homeserver.storage import client_transactions, events, rooms
from homeserver.storage import state as stored_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node


BEGINNING = -(10**17)
"""A position before every event. It has as many digits as a token may have."""

OUTSIDE = ("invite", "knock")

JOINED = "join"
MEMBERSHIPS = (JOINED, "invite", "knock", "leave", "ban")


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


async def sight(node: Node, room: Room, user_id: str) -> Sight:
    """What a user may see of a room."""
    return (await sights(node, [room.nid], user_id))[room.nid]


async def sights(node: Node, room_nids: Sequence[int], user_id: str) -> dict[int, Sight]:
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
    return replace(seen, visibilities=(await sight(node, room, seen.user_id)).visibilities)


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


async def reader(server: Server, caller: Caller, room_id: str) -> tuple[Room, Sight]:
    """The room as the caller's own node has it, and what they may see of it.

    A room of which their node has no replica can be read by nobody there, and one that they forgot not by them. Raises
    Forbidden. spec: client-server-api/#post_matrixclientv3roomsroomidforget
    """
    room = await state.find(caller.node, room_id)
    if room is None:
        raise Forbidden("You are not in that room")
    seen = await sight(caller.node, room, caller.user_id)
    if seen.left_at is not None and await caller.node.read(rooms.has_forgotten, caller.user_nid, room.nid):
        seen = replace(seen, memberships=(), joins=())
    if not any(value == "join" for _, value in seen.memberships) and not _world_readable(seen):
        raise Forbidden("You are not in that room")
    return room, replace(seen, ignored=await ignored.of_user(caller.node, caller.user_nid))


def _world_readable(seen: Sight) -> bool:
    return bool(seen.visibilities) and seen.visibilities[-1][1] == "world_readable"


def state_access(room: Room, seen: Sight) -> StateAccess:
    """Which state of a room somebody may read."""
    visibility = seen.visibilities[-1][1] if seen.visibilities else "shared"
    return access.may_read_state(seen.last[1], was_joined=bool(seen.joins), visibility=visibility)


async def state_rows(node: Node, room: Room, seen: Sight) -> list[StoredEvent]:
    """The state of a room that somebody may read: as it is, or as it was when they left. Raises Forbidden."""
    what = state_access(room, seen)
    if what is StateAccess.NONE:
        raise Forbidden("You may not read the state of that room")
    if what is StateAccess.CURRENT:
        nids = {entry.nid for entry in room.now.state.values() if entry.nid is not None}
        return await node.read(events.by_nids, nids)
    at = await node.read(stored_state.at, room.nid, _leaving(seen))
    return await node.read(events.by_nids, set(at.values()))


async def state_entry(node: Node, room: Room, seen: Sight, key: StateKey) -> StoredEvent:
    """One event of the state that somebody may read. Raises Forbidden, NotFound."""
    what = state_access(room, seen)
    if what is StateAccess.NONE:
        raise Forbidden("You may not read the state of that room")
    if what is StateAccess.CURRENT:
        entry = room.now.state.get(key)
        nid = None if entry is None else entry.nid
    else:
        nid = await node.read(stored_state.key_at, room.nid, *key, _leaving(seen))
    found = [] if nid is None else await node.read(events.by_nids, [nid])
    if not found:
        raise NotFound("There is no such event in the state of the room")
    return found[0]


async def member_rows(node: Node, room: Room, seen: Sight, at: int | None) -> list[StoredEvent]:
    """The member events of a room that somebody may read; ``at`` a position, as they were then, or else at the next
    moment that this user may see. Raises Forbidden.
    """
    what = state_access(room, seen)
    if what is StateAccess.NONE:
        raise Forbidden("You may not read the members of that room")
    if what is StateAccess.CURRENT and at is None:
        nids = {entry.nid for (kind, _), entry in room.now.state.items() if kind == MEMBER and entry.nid is not None}
        return await node.read(events.by_nids, nids)
    position = node.position if at is None else at
    if what is StateAccess.AT_LEAVING:
        position = min(position, _leaving(seen))
    if not seen.looks_back_to(position):
        position = next((joined for joined in seen.joins if joined > position), position)
    then = await _state_then(node, room, position)
    return await node.read(events.by_nids, {nid for (kind, _), nid in then.items() if kind == MEMBER})


async def _state_then(node: Node, room: Room, pos: int) -> dict[StateKey, int]:
    """The state at a position. Of history that came later there are no snapshots: what is here of it has to do."""
    return await node.read(stored_state.at, room.nid, pos) or await node.read(events.newest_state, room.nid, pos)


def _leaving(seen: Sight) -> int:
    return seen.last[0] if seen.left_at is None else seen.left_at


def membership_passes(row: StoredEvent, wanted: str | None, unwanted: str | None) -> bool:
    """Whether a member event is among those asked for: with both given, one is enough.

    spec: client-server-api/#get_matrixclientv3roomsroomidmembers
    """
    membership = membership_in(row.client)
    if wanted is None and unwanted is None:
        return True
    return membership == wanted or (unwanted is not None and membership != unwanted)


async def find(node: Node, room: Room, seen: Sight, event_id: str) -> Timed:
    """An event of the timeline that somebody may see. Raises NotFound, which also stands for what is not theirs."""
    row = await node.read(events.by_id, room.nid, event_id)
    if row is not None and row.pos is not None and row.verdict == 0 and seen.sees(timed(row)):
        return timed(row)
    raise NotFound("There is no such event, or you may not see it")


async def members_shown(server: Server, caller: Caller, room: Room, seen: Sight, user_ids: Collection[str]) -> bytes:
    """The member events of some users, as a JSON array; for who has left, as they were then."""
    if seen.left_at is None:
        found = (room.now.state.get((MEMBER, user_id)) for user_id in user_ids)
        nids = {entry.nid for entry in found if entry is not None and entry.nid is not None}
    else:
        then = await caller.node.read(stored_state.at, room.nid, seen.left_at)
        nids = {then[MEMBER, user_id] for user_id in user_ids if (MEMBER, user_id) in then}
    return _array_of(server, room, seen, await caller.node.read(events.by_nids, nids))


async def state_at(
    server: Server,
    caller: Caller,
    room: Room,
    seen: Sight,
    pos: int,
    senders: Collection[str] | None,
    wanted: Callable[[StoredEvent], bool] | None = None,
) -> bytes:
    """The state of a room at a position, as a JSON array; with ``senders``, of the members only these."""
    then = await _state_then(caller.node, room, pos)
    nids = {nid for (kind, key), nid in then.items() if senders is None or kind != MEMBER or key in senders}
    rows = await caller.node.read(events.by_nids, nids)
    return _array_of(server, room, seen, [row for row in rows if wanted is None or wanted(row)])


def _array_of(server: Server, room: Room, seen: Sight, rows: Sequence[StoredEvent]) -> bytes:
    now, room_id = server.clock.now_ms(), orjson.dumps(room.room_id)
    return array([show_stored(row, now, room_id=room_id, membership=membership_at(seen, row.pos)) for row in rows])


# bytes --------------------------------------------------------------------------------------


_UNSAID = b',"unsigned":{"age":%d'
_OPENINGS: dict[str | None, bytes] = {each: _UNSAID + b',"membership":"%s"' % each.encode() for each in MEMBERSHIPS}
"""How the ``unsigned`` of an event begins, by the membership of the reader."""

PLAIN_STATE = b"%b" + _UNSAID + b"}}"
"""A state event of which nothing is told but its bytes and its age: what `show_stored` makes of it."""

FRESH_MS = 1000
"""How long (milliseconds) the formatted bytes of an event are given to further readers."""


def show(
    event: Timed,
    now_ms: int,
    *,
    room_id: bytes = b"",
    membership: str | None = None,
    transaction_id: str | None = None,
    relations: bytes | None = None,
) -> bytes:
    """An event as a client reads it. ``room_id``: the JSON string of the room id, where the answer wants it;
    ``membership``: the reader's at the event (see `membership_at`); ``relations``: what is bundled with it (see
    aggregations.py).

    What is the same for all who were in the room is formatted once.
    """
    plain = membership == JOINED and transaction_id is None and relations is None and not room_id
    if plain:
        shown = event.shown
        if shown is not None and now_ms - shown[0] < FRESH_MS:
            return shown[1]
    parts = [event.client]
    if room_id:
        parts += (b',"room_id":', room_id)
    parts.append(_OPENINGS.get(membership, _UNSAID) % max(0, now_ms - event.ts))
    if event.unsigned is not None:
        parts += (b",", event.unsigned)
    lasts = sticky_ms(event.client)
    if lasts is not None:
        parts.append(stays(stickiness.expiry(lasts, event.ts, now_ms) - now_ms))
    if transaction_id is not None:
        parts += own(transaction_id)
    if relations is not None:
        parts += (b",", relations)
    parts.append(b"}}")
    formatted = b"".join(parts)
    if plain:
        event.shown = (now_ms, formatted)
    return formatted


def stays(ttl_ms: int) -> bytes:
    """What tells for how long an event is still sticky (MSC4354)."""
    return b',"msc4354_sticky_duration_ttl_ms":%d' % max(0, ttl_ms)


def own(transaction_id: str) -> tuple[bytes, bytes]:
    """What tells a device that an event is its own."""
    name, _, delay_id = transaction_id.partition("=")
    if name + "=" == DELAYED:
        return b',"org.matrix.msc4140.delay_id":', orjson.dumps(delay_id)
    return b',"transaction_id":', orjson.dumps(transaction_id)


def show_stored(row: StoredEvent, now_ms: int, *, room_id: bytes = b"", membership: str | None = None) -> bytes:
    """A stored event, of the state for example, as a client reads it."""
    age, unsigned = now_ms - row.ts, row.unsigned
    opening = _OPENINGS.get(membership, _UNSAID) % (age if age > 0 else 0)
    if unsigned is None and not room_id:  # nearly always, and there are hundreds in an answer
        return b"%b%b}}" % (row.client, opening)
    parts = [row.client]
    if room_id:
        parts += (b',"room_id":', room_id)
    parts.append(opening)
    if unsigned is not None:
        parts += (b",", unsigned)
    parts.append(b"}}")
    return b"".join(parts)


def array(items: Sequence[bytes]) -> bytes:
    """A JSON array of encoded items."""
    return b"[" + b",".join(items) + b"]"


async def transactions_of(caller: Caller, event_ids: Sequence[str]) -> dict[str, str]:
    """Transaction ids under which the calling device sent events: event id to transaction id."""
    return await caller.node.read(client_transactions.of_events, caller.device_nid, event_ids)


async def show_all(server: Server, caller: Caller, room: Room, seen: Sight, shown: Sequence[Timed]) -> list[bytes]:
    """Events with their room id, the caller's own transaction ids, and what relates to them."""
    mine = [event.event_id for event in shown if event.sender == caller.user_id]
    own = await transactions_of(caller, mine) if mine else {}
    now, room_id = server.clock.now_ms(), orjson.dumps(room.room_id)
    erased = await erasure.known(caller.node)
    shown = erasure.shown(room, erased, seen, shown)
    reader = aggregations.Reader(caller.node, caller.user_nid, caller.user_id, seen.ignored, erased)
    related = await aggregations.bundled(reader, aggregations.parents_of(room, seen, shown, room_ids=True), now)
    return [
        show(
            event,
            now,
            room_id=room_id,
            membership=seen.membership_at(event.pos),
            transaction_id=own.get(event.event_id),
            relations=related.get(event.event_id),
        )
        for event in shown
    ]


# pages --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a timeline in the order in which it was read; ``end`` None: there is no more in that direction.

    ``start`` and ``end`` are positions *between* events: the timeline up to and including that position.
    """

    events: list[Timed]
    start: int
    end: int | None


SCANNED = 1000
"""Events that one page looks at, at most: a filter that lets little through ends the page early, with its ``end``."""


async def page(
    node: Node,
    room: Room,
    seen: Sight,
    *,
    start: int,
    to: int | None,
    backwards: bool,
    limit: int,
    wanted: Callable[[Timed], bool] | None = None,
) -> Page:
    """Up to ``limit`` visible events from ``start`` (see `Page`), in either direction; not beyond ``to``.

    spec: client-server-api/#get_matrixclientv3roomsroomidmessages
    """
    timeline = events.timeline_backwards if backwards else events.timeline_forwards

    async def rows(at: int, count: int) -> list[StoredEvent]:
        return await node.read(timeline, room.nid, at, to, count)

    def passes(event: Timed) -> bool:
        return seen.sees(event) and (wanted is None or wanted(event))

    turned = await turn(rows, passes, start=start, backwards=backwards, limit=limit)
    complete = turned.exhausted and (not backwards or to is not None or await _is_whole(node, room))
    return Page(turned.events, start, None if complete else turned.at)


class Turned(NamedTuple):
    """What `turn` found on its way to the position ``at``; ``exhausted``: there are no more rows beyond it."""

    events: list[Timed]
    at: int
    exhausted: bool


async def turn(
    rows: Callable[[int, int], Awaitable[Sequence[StoredEvent]]],
    passes: Callable[[Timed], bool],
    *,
    start: int,
    backwards: bool,
    limit: int,
) -> Turned:
    """Up to ``limit`` events that pass, of ``rows(position, count)`` from ``start`` on (see `Page`)."""
    chosen: list[Timed] = []
    at, scanned = start, 0
    while limit and scanned < SCANNED:
        count = min(max(limit - len(chosen), 20), SCANNED - scanned)
        found = await rows(at, count)
        for row in found:
            event = timed(row)
            at = event.pos - 1 if backwards else event.pos
            scanned += 1
            if passes(event):
                chosen.append(event)
                if len(chosen) == limit:
                    return Turned(chosen, at, exhausted=False)
        if len(found) < count:
            return Turned(chosen, at, exhausted=True)
    return Turned(chosen, at, exhausted=False)


async def _is_whole(node: Node, room: Room) -> bool:
    """Whether no older history has yet to be copied to the node."""
    return (await node.read(rooms.by_nid, room.nid)).history_before is None
