"""Events that a node holds as state or as authority only, outside the timeline.

Invariant: none is stored before all that it cites, so that auth chains are whole and without circles.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from homeserver.protocol import auth_chain
from homeserver.rooms import references, state
from homeserver.rooms.clear_text import without_text
from homeserver.rooms.persist import Persister, commit
from homeserver.rooms.state import Rooms
from homeserver.rooms.steps import Step
from homeserver.runtime.apart import Apart
from homeserver.runtime.breath import unhurried
from homeserver.runtime.parts import in_parts
from homeserver.storage import events as stored
from homeserver.storage import graph, streams, users
from homeserver.storage.events import NewEvent, Verdict
from homeserver.storage.state import Group

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node

AT_ONCE: Final = 200
"""Events written together."""
LONG: Final = 500
"""Events that are judged apart: a server may give a hundred thousand of them as the state of a room."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of events that were to be kept: the ids of those that are here now, and what others of them cite that
    is not."""

    here: frozenset[str]
    lacking: frozenset[str]


async def keep(server: Server, node: Node, room_id: str, events: Sequence[Event]) -> Kept:
    """Judge events of another server by what they cite, and store those that could be judged, allowed or not.

    Format, signatures and hashes have been checked. Raises NotFound without the room, NodeUnavailable.
    """
    room = await state.get(node, room_id)
    wanted = {event.event_id: event for event in events}
    if wanted.keys() & node.memory(Persister).under_way:
        await commit(server, node, [])
    creation = state.creation(room).event_id
    cited = {each async for event in unhurried(wanted.values()) for each in event.auth_events}
    rows = await node.read(graph.of_room, room.nid, {creation, *wanted, *cited})
    known = {row.event_id: state.parse(room, row) async for row in unhurried(rows)}
    rejected = {row.event_id for row in rows if row.verdict == Verdict.REJECTED}
    untrue = await _untrue(wanted, known)
    judge = partial(auth_chain.judge, room.rules, wanted, known, rejected | untrue)
    judged = judge() if len(wanted) < LONG else await node.memory(Apart).run(judge)
    refused = judged.rejected | untrue
    for part in in_parts(judged.ordered, AT_ONCE):
        await _store(server, node, room_id, [(wanted[each], each in refused) for each in part])
    return Kept(frozenset((known.keys() & wanted.keys()) | set(judged.ordered)), frozenset(judged.lacking))


async def _untrue(wanted: Mapping[str, Event], known: Mapping[str, Event]) -> set[str]:
    """The ids of events that cite others which are here, but not as they are: with other hashes. Only where ids are no
    hashes can there be any."""
    if not any(not event.rules.event_id_is_hash for event in wanted.values()):
        return set()
    hashes = {event_id: event.reference_hash async for event_id, event in unhurried({**wanted, **known}.items())}
    return {event_id async for event_id, event in unhurried(wanted.items()) if not references.is_true(event, hashes)}


async def _store(server: Server, node: Node, room_id: str, judged: Sequence[tuple[Event, bool]]) -> None:
    while True:
        room = await state.get(node, room_id)
        if node.memory(Rooms).get(room_id) is room:
            await commit(server, node, [_step(server, room, event, rejected) for event, rejected in judged])
            return


def _step(server: Server, room: Room, event: Event, rejected: bool) -> Step:
    verdict = Verdict.REJECTED if rejected else Verdict.ACCEPTED
    return Step(room, without_text(server, event), room.head, Group(None, 0, None), verdict, timeline=False)


async def lacking(node: Node, room: Room, event_ids: Collection[str]) -> set[str]:
    """Those of the events that the node does not have."""
    return set(event_ids) - {row.event_id for row in await node.read(graph.of_room, room.nid, event_ids)}


async def copy(node: Node, room_id: str, rows: Sequence[StoredEvent]) -> None:
    """Copy events from another node of this deployment, which has judged them. Raises NotFound without the room."""
    room = await state.get(node, room_id)
    for part in in_parts(rows, AT_ONCE):
        await node.advance(_copy, node, room.nid, part)


async def _copy(tx: Transaction, node: Node, room_nid: int, rows: Sequence[StoredEvent]) -> None:
    known = await stored.known(tx, [row.event_id for row in rows])
    fresh = [row for row in rows if row.event_id not in known]
    if not fresh:
        return
    users.intern(tx, {row.sender for row in fresh})
    first = await streams.allocate(tx, len(fresh))
    stored.insert(tx, [_row(row, first + offset, room_nid) for offset, row in enumerate(fresh)])
    tx.after_commit(lambda: node.announce(first + len(fresh) - 1, []))


def _row(row: StoredEvent, nid: int, room_nid: int) -> NewEvent:
    return NewEvent(
        nid,
        row.event_id,
        room_nid,
        None,
        row.depth,
        row.ts,
        row.type,
        row.state_key,
        row.sender,
        None,
        Verdict(row.verdict),
        row.client,
        row.rest,
        row.unsigned,
    )
