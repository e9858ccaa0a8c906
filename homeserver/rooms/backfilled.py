"""Writing what happened in a room before this deployment was in it, or while it was away, as other servers tell it.

It gets places in the timeline before what is held already, so that nobody's `/sync` shows it. No state is derived from
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from homeserver.protocol.errors import Forbidden
from homeserver.protocol.event_view import CREATE, POWER_LEVELS
from homeserver.rooms import checks, recommendations, state, sticky_copies
from homeserver.rooms.clear_text import is_clear, without_text
from homeserver.rooms.state import Rooms
from homeserver.rooms.state_rows import StateRows
from homeserver.rooms.steps import relation_of
from homeserver.storage import events, streams, timeline_gaps, users
from homeserver.storage.events import NewEvent, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Past, Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


@dataclass(frozen=True, slots=True)
class Place:
    """Where events go: directly below a position of the timeline; None: below everything that is held.

    ``hole``: places that are left free above them, for what is not known yet.
    """

    above: int | None
    hole: int = 0


@dataclass(slots=True)
class _Kept:
    """An event as it is kept, which may be less of it than came."""

    event: Event
    verdict: Verdict
    unsigned: bytes | None = None
    awaits: str | None = None


async def store(server: Server, node: Node, room: Room, past: Sequence[Past], place: Place) -> int:
    """Write events, the newest first; returns how many found a place that had none. Raises NodeUnavailable.

    Those are left out, with all that came before them, of which the room's policy server could not be asked.
    """
    await state.require(node, room, [CREATE, POWER_LEVELS])
    kept = await _judged(server, node, past)
    if not kept:
        return 0
    _redact_each_other(room, kept)
    return await node.advance(_store, server, node, room, kept, place)


async def _judged(server: Server, node: Node, past: Sequence[Past]) -> list[_Kept]:
    asked = [each.event for each in past if not each.rejected and not is_clear(server, each.event)]
    said = await recommendations.of_history(server, node, asked)
    kept = []
    for each in past:
        if each.rejected:
            kept.append(_Kept(without_text(server, each.event), Verdict.REJECTED))
        elif is_clear(server, each.event):
            kept.append(_Kept(without_text(server, each.event), Verdict.SOFT_FAILED))
        elif each.event.event_id not in said:
            break
        else:
            event = said[each.event.event_id]
            kept.append(_Kept(event or each.event, Verdict.SOFT_FAILED if event is None else Verdict.ACCEPTED))
    return kept


def _redact_each_other(room: Room, kept: Sequence[_Kept]) -> None:
    """Let redactions among the events have their effect on others of them."""
    by_id = {each.event.event_id: each for each in kept}
    for each in kept:
        if each.event.redacts is None or each.verdict is not Verdict.ACCEPTED:
            continue
        target = by_id.get(each.event.redacts)
        if target is None:
            each.awaits = each.event.redacts
        else:
            _redact(room, each.event, target)


def _redact(room: Room, redaction: Event, target: _Kept) -> None:
    try:
        done = checks.redacted(room, redaction, target.event)
    except Forbidden:
        return
    if done is not None:
        target.event, target.unsigned = done.event, done.unsigned


async def _store(tx: Transaction, server: Server, node: Node, room: Room, kept: Sequence[_Kept], place: Place) -> int:
    known = await events.known(tx, [each.event.event_id for each in kept])
    fresh = [replace(each) for each in kept if known.get(each.event.event_id, (0, None))[1] is None]
    if place.above is not None:
        fresh = fresh[: max(0, await timeline_gaps.space_below(tx, room.nid, place.above) - place.hole)]
    if not fresh:
        return 0
    for target_id, row in (await timeline_gaps.redactions(tx, room.nid, _ids(fresh))).items():
        target = next(each for each in fresh if each.event.event_id == target_id)
        _redact(room, state.parse(room, row), target)
    users.intern(tx, {each.event.sender for each in fresh})
    top = await _top(tx, place, len(fresh))
    first = await streams.allocate(tx, len(fresh))
    nids = [known.get(each.event.event_id, (first + offset,))[0] for offset, each in enumerate(fresh)]
    written = _write(tx, room, fresh, nids, top)
    held = [each for each in fresh if each.event.event_id in known]
    events.replace_bytes(
        tx,
        [
            (each.event.client, each.event.rest, each.unsigned, each.event.event_id)
            for each in held
            if each.unsigned is not None
        ],
    )
    events.await_no_more(tx, _ids(fresh))
    last = first + len(fresh) - 1
    sticky_copies.keep(tx, server, node, room.room_id, written, last)
    tx.after_commit(lambda: _announce(node, room, last, place))
    return len(fresh)


def _ids(kept: Sequence[_Kept]) -> list[str]:
    return [each.event.event_id for each in kept]


async def _top(tx: Transaction, place: Place, count: int) -> int:
    """The highest of the places that the events get."""
    if place.above is not None:
        return place.above - 1 - place.hole
    return await streams.allocate_history(tx, count + place.hole) - place.hole


def _write(tx: Transaction, room: Room, fresh: Sequence[_Kept], nids: Sequence[int], top: int) -> list[NewEvent]:
    numbered = list(zip(fresh, nids, strict=True))
    made = [
        NewEvent(
            nid,
            each.event.event_id,
            room.nid,
            top - offset,
            each.event.depth,
            each.event.origin_server_ts,
            each.event.type,
            each.event.state_key,
            each.event.sender,
            None,
            each.verdict,
            each.event.client,
            each.event.rest,
            each.unsigned,
        )
        for offset, (each, nid) in enumerate(numbered)
    ]
    events.insert(tx, made)
    events.await_targets(tx, [(each.awaits, nid) for each, nid in numbered if each.awaits is not None])
    relations = [(each, nid, relation_of(each.event.content)) for each, nid in numbered]
    events.relate(
        tx,
        [
            (relation[1], nid, room.nid, relation[0], each.event.type, each.event.sender)
            for each, nid, relation in relations
            if relation is not None and each.verdict is Verdict.ACCEPTED
        ],
    )
    return made


def _announce(node: Node, room: Room, last: int, place: Place) -> None:
    """What is in memory of the timeline reaches down to where events were put, and no further."""
    held = node.memory(Rooms).get(room.room_id) or room
    held.relates()
    if place.above is not None:
        while held.recent and held.recent[0].pos < place.above:
            held.recent.popleft()
        held.recent_floor = max(held.recent_floor, place.above - 1)
    elif held.recent:
        held.recent_floor = max(held.recent_floor, held.recent[0].pos - 1)
    else:
        held.recent_floor = max(held.recent_floor, node.position)
    node.memory(StateRows).clear()  # what came may have redacted what was there
    node.announce(last, [])
