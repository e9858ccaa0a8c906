"""The rooms of a user go ahead: the node that they go to holds all of them before they are there.

A room with others in it becomes one that spans that node, as if somebody there had joined: the policy is asked, and
what is shipped goes the way of everything that is shipped. A room in which they are alone is theirs, and goes where
they go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.residency import DataClass
from homeserver.protocol.errors import NodeUnavailable
from homeserver.residency import gate
from homeserver.rooms import replicas, seeding, state
from homeserver.rooms.holders import Travellers, count, recount
from homeserver.storage import events, rooms
from homeserver.storage import moves as stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.residency.moves.journal import Move
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.moves import Held
    from homeserver.storage.nodes import Node

COMPARED = 50
"""Events of a timeline of which the other node must have all, before the user is switched; and whose places on both
nodes are kept."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A room that the user is in. ``home``: the node that orders it; ``alone``: no other user of ours is in it;
    ``missing``: which flow is missing for it to come along, in words, or None."""

    held: Held
    home: Node
    alone: bool
    missing: str | None = None

    @property
    def room_id(self) -> str:
        """Its id."""
        return self.held.room_id


async def shared(server: Server, source: Node, target: Node, user_id: str, user_nid: int) -> list[Shared]:
    """The rooms that a user is in, each with what keeps it from coming along. Raises NodeUnavailable."""
    found = []
    for held in await source.read(stored.rooms_of, user_nid):
        if held.membership == "join" and held.replica:
            home = await server.nodes.of_room(held.room_id)
            if home is not None:
                found.append(await _examined(server, source, target, user_id, held, home))
    return found


async def _examined(server: Server, source: Node, target: Node, user_id: str, held: Held, home: Node) -> Shared:
    try:
        room = await state.find(home, held.room_id)
    except NodeUnavailable:
        room = None
    room = room or await state.get(source, held.room_id)
    others = await count(server, room.now)
    travellers = server.nodes.directory.memory(Travellers).to
    for name in filter(None, (source.name, travellers.get(user_id))):
        others[name] = others.get(name, 0) - 1
    names = {name for name, number in others.items() if number > 0}
    alone = not names
    policy = server.policy.now
    if not alone:
        names.add(home.name)
    jurisdictions = {server.nodes[name].jurisdiction for name in names} | {target.jurisdiction}
    jurisdictions |= {policy.jurisdiction_of_server(name) for name in room.now.servers}
    missing = policy.room_may_span(jurisdictions)
    return Shared(held, home, alone, missing[0].message if missing else None)


async def bring(server: Server, move: Move, found: Sequence[Shared]) -> None:
    """Have the target come to hold the rooms, as far as it does not. Raises NodeUnavailable."""
    server.nodes.directory.memory(Travellers).to[move.user_id] = move.target.name
    for each in found:
        if each.missing is not None or each.home is move.target:
            continue
        if each.alone:
            await _plant(server, move.target, each)
        else:
            room = await state.find(each.home, each.room_id)
            if room is not None and move.target.name not in room.head.nodes:
                await recount(server, each.home, each.room_id)


async def _plant(server: Server, target: Node, each: Shared) -> None:
    """Copy a room in which nobody else of ours is, and all of its history."""
    room = await state.get(each.home, each.room_id)
    newest = room.recent[-1] if room.recent else None
    if newest is not None:
        await _copy(server, each.home, target, each.room_id, room.nid, newest.event_id, newest.event_nid)


async def bring_left(server: Server, move: Move) -> None:
    """Have the target come to hold what the user may still read of rooms that they have left, where the policy lets the
    events of others go there. Raises NodeUnavailable."""
    if not gate.may(server, DataClass.EVENTS, move.source.jurisdiction, move.target.jurisdiction):
        return
    left = [
        held
        for held in await move.source.read(stored.rooms_of, move.user_nid)
        if held.replica and held.membership in ("leave", "ban")
    ]
    held_there = await move.target.read(stored.replicas_of, [held.room_id for held in left])
    for held in left:
        if held.room_id not in held_there:
            for row in await move.source.read(events.by_ids, [held.event_id]):
                if row.pos is not None and row.state_group is not None:
                    where = (held.room_id, held.room_nid, row.event_id, row.event_nid)
                    await _copy(server, move.source, move.target, *where)


async def _copy(
    server: Server, source: Node, target: Node, room_id: str, room_nid: int, event_id: str, event_nid: int
) -> None:
    """Copy a room as it was after an event, and all of its history before."""
    if await target.read(_has, event_id):
        return
    with target.memory(replicas.BeingCopied).alone(room_id):
        await seeding.plant(server, source, target, room_nid, event_nid, _unmarked)
        held = await target.read(rooms.find, room_id)
        while held is not None and held.history_before is not None:
            await seeding.copy_history(server, source, target, held)
            held = await target.read(rooms.by_nid, held.room_nid)


def _unmarked(_: Transaction) -> None:
    """What is planted is no parcel."""


async def _has(tx: Transaction, event_id: str) -> bool:
    return (await events.known(tx, [event_id])).get(event_id, (0, None))[1] is not None


async def behind(server: Server, move: Move, found: Sequence[Shared]) -> list[str]:
    """The rooms of which the target lacks what the user may have seen by now. Waits for what is on its way."""
    seen = {
        each.room_id: await move.source.read(stored.timeline_places, each.held.room_nid, COMPARED) for each in found
    }
    homes = {each.home.name: each.home for each in found if not each.alone}
    for home in homes.values():
        await replicas.caught_up(server, home, move.target)
    held = await move.target.read(stored.replicas_of, [each.room_id for each in found])
    lacking = []
    for each in found:
        theirs = held.get(each.room_id)
        wanted = [event_id for event_id, _ in seen[each.room_id]]
        if theirs is None or not theirs[1] or await move.target.read(_lacks, wanted):
            lacking.append(each.room_id)
    return lacking


async def _lacks(tx: Transaction, event_ids: Sequence[str]) -> bool:
    known = await events.known(tx, event_ids)
    return any(known.get(event_id, (0, None))[1] is None for event_id in event_ids)


async def call_back(server: Server, move: Move) -> None:
    """The user stays: the target holds their rooms no more, where nobody else of it is. Raises NodeUnavailable."""
    server.nodes.directory.memory(Travellers).to.pop(move.user_id, None)
    for held in await move.source.read(stored.rooms_of, move.user_nid):
        if held.membership == "join" and held.replica:
            home = await server.nodes.of_room(held.room_id)
            if home is not None:
                await recount(server, home, held.room_id)


async def holders(server: Server, room: Room | None, *others: Node) -> list[Node]:
    """The nodes that hold a room."""
    names = {node.name for node in others}
    if room is not None:
        names |= set(room.head.nodes) | ({room.home} if room.home is not None else set())
    return [server.nodes[name] for name in sorted(names)]
