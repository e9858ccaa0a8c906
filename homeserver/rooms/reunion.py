"""Reunion: a node that came back from an archive is told by the others what it has forgotten.

Others shipped it events after the archive was made, which are not shipped twice, and have replicas of what it ordered
itself since. Both are received as if they had been ordered elsewhere while it was away: in their order, each at most
once, and checked. What it was forbidden to know it is not told: a room that its users have left ends for it where they
left. It is done node by node, and begun again if it was cut off; a node that is down is waited for.

Not told again are receipts, which come with the next; and what only the lost database knew is lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from config.residency import DataClass
from homeserver.accounts.devices import KEYS_CHANGED
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.events import from_stored
from homeserver.protocol.versions import rules_of
from homeserver.rooms import holders, invitations, replicas, seeding, state
from homeserver.rooms.persist import commit
from homeserver.rooms.receive import receive
from homeserver.rooms.state import membership_in
from homeserver.rooms.stripped import stripped_keys, stripped_state
from homeserver.runtime.parts import in_parts
from homeserver.storage import aftermath, chores, erasures, events, forgotten, rooms, streams
from homeserver.storage.directory import Kind
from homeserver.storage.erasures import Erased

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.storage.aftermath import Reunion
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.forgotten import Held
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.reunion")

AT_ONCE: Final = 200
"""Events that are read together."""

ENOUGH: Final = 100
"""Events in a row that were in the archive, behind which none is looked for that was not."""


async def reunite(server: Server) -> None:
    """Have nodes that came back from an archive told what they have forgotten. A job. Raises NodeUnavailable, or what
    else kept something from being told, when all the rest has been."""
    faults: list[Exception] = []
    for node in server.nodes:
        try:
            for each in await node.read(aftermath.reunions):
                await _meet(server, node, each, faults)
        except Exception as fault:
            faults.append(fault)
    if faults:
        raise faults[0]


async def _meet(server: Server, node: Node, asked: Reunion, faults: list[Exception]) -> None:
    there = {other.name for other in server.nodes}
    if asked.node in there:
        other = server.nodes[asked.node]
        if not server.policy.now.may(DataClass.EVENTS, other.jurisdiction, node.jurisdiction).allowed:
            return  # no more than is held back of what is new
        found: list[Exception] = []
        try:
            told = await _rooms(server, node, other, asked.since, found)
            told += await _invitations(server, node, other)
            await _erased(node, other)
            await other.write(forgotten.tell_keys, node.name, KEYS_CHANGED)
        except NodeUnavailable as down:
            found.append(down)
        if found:
            faults += found
            return  # all of it once more
        server.wakeups.wake(chores.key(other.name, KEYS_CHANGED))
        log.info("told what it had forgotten", node=node.name, by=other.name, events=told)
    await node.write(chores.done, [asked.chore_nid])


# rooms --------------------------------------------------------------------------------------


async def _rooms(server: Server, node: Node, other: Node, since: int, faults: list[Exception]) -> int:
    """Returns how many events were told. What keeps one room from it keeps no other."""
    told, after = 0, 0
    while found := await other.read(forgotten.rooms_with, node.name, after):
        after = found[-1].room_nid
        for held in found:
            try:
                told += await _room(server, node, other, held, since)
            except NodeUnavailable:
                raise
            except Exception as fault:
                log.exception("a room could not be told", node=node.name, by=other.name)
                faults.append(fault)
    return told


async def _room(server: Server, node: Node, other: Node, held: Held, since: int) -> int:
    home = await server.nodes.directory.find(Kind.ROOM, held.room_id)
    if home not in (node.name, other.name):
        return 0  # told by the node that orders it
    concerns = held.has_members or home == node.name
    room = await state.find(node, held.room_id)
    upto: int | None = None
    if room is None:
        if not concerns or not await _plant(server, node, other, held):
            return 0
    else:
        await holders.follow_home(node, held.room_id, home)
        if not concerns:
            if not room.residents:
                return 0
            upto = await other.read(forgotten.last_membership, held.room_nid, list(room.residents))
            if upto is None:
                return 0
    return await _tell(server, node, other, held, since, upto)


async def _plant(server: Server, node: Node, other: Node, held: Held) -> bool:
    """Copy a room of which the node knows nothing any more, with its history; False where there is nothing of it."""
    theirs = await state.get(other, held.room_id)
    await commit(server, other, [])  # what is under way
    if not theirs.recent:
        return False
    newest = theirs.recent[-1]
    with node.memory(replicas.BeingCopied).alone(held.room_id):
        await seeding.plant(server, other, node, held.room_nid, newest.event_nid, _unmarked)
        copied = await node.read(rooms.find, held.room_id)
        while copied is not None and copied.history_before is not None:
            await seeding.copy_history(server, other, node, copied)
            copied = await node.read(rooms.by_nid, copied.room_nid)
    return True


def _unmarked(_: Transaction) -> None:
    """What is told is no parcel."""


async def _tell(server: Server, node: Node, other: Node, held: Held, since: int, upto: int | None) -> int:
    missing = await _missing(node, other, held.room_nid, since, upto)
    rules = rules_of((await other.read(rooms.by_nid, held.room_nid)).version)
    for part in in_parts(missing, AT_ONCE):
        found = {row.event_nid: row for row in await other.read(events.by_nids, part)}
        keys = await other.read(events.transactions_of, [row.event_id for row in found.values()])
        under_way: list[asyncio.Future[None]] = []
        try:
            for row in (found[nid] for nid in part if nid in found):
                done = await receive(
                    server,
                    node,
                    held.room_id,
                    from_stored(rules, held.room_id, row.client, row.rest),
                    orderer=other.name,
                    txn_key=keys.get(row.event_id),
                    source=replicas.Ordered(other, row.state_group),
                )
                under_way += [] if done is None else [done]
        finally:
            if under_way:
                await asyncio.wait(under_way)
        await asyncio.gather(*under_way)
    return len(missing)


async def _missing(node: Node, other: Node, room_nid: int, since: int, upto: int | None) -> list[int]:
    """The events of a room's timeline on the other node that this one lacks, by row id there, the oldest first."""
    found: list[int] = []
    place, met = 2**62 if upto is None else upto, 0
    while rows := await other.read(events.timeline_backwards, room_nid, place, None, AT_ONCE):
        known = await node.read(events.known, [row.event_id for row in rows])
        for row in rows:
            _, pos = known.get(row.event_id, (0, None))
            if pos is None:
                found.append(row.event_nid)
                met = 0
            elif pos <= since:
                met += 1
        if met >= ENOUGH:
            break
        place = (rows[-1].pos or 0) - 1
    return found[::-1]


# people -------------------------------------------------------------------------------------


async def _invitations(server: Server, node: Node, other: Node) -> int:
    """Who was invited since, or knocked, and whose invitation or knock has ended; returns how many events were told."""
    waiting = await other.read(forgotten.outside)
    homes = await server.nodes.of_users({each.user_id for each in waiting})
    told = 0
    for each in waiting:
        if homes.get(each.user_id) == node.name and each.home == other.name:
            (row,) = await other.read(events.by_nids, [each.event_nid])
            told += await _say(server, node, other, each.room_nid, row)
    for user_id, room_id, event_id in await node.read(forgotten.own_outside):
        nid = await other.read(forgotten.membership_event, room_id, user_id)
        for row in await other.read(events.by_nids, [] if nid is None else [nid]):
            if row.event_id != event_id and membership_in(row.client) in ("leave", "ban"):
                held = await other.read(rooms.find, room_id)
                told += 0 if held is None else await _say(server, node, other, held.room_nid, row)
    return told


async def _say(server: Server, node: Node, other: Node, room_nid: int, row: StoredEvent) -> int:
    if (await node.read(events.known, [row.event_id])).get(row.event_id) is not None:
        return 0
    stored = await other.read(rooms.by_nid, room_nid)
    if await state.find(node, stored.room_id) is not None:
        return 0  # it comes with the room
    stripped = None
    if membership_in(row.client) in invitations.OUTSIDE:
        room = await state.get(other, stored.room_id)
        await state.require(other, room, stripped_keys(room.head, row.sender))
        stripped = stripped_state(room.head, state.parse(room, row))
    await invitations.take(server, node, stored, row, stripped, _unmarked)
    return 1


async def _erased(node: Node, other: Node) -> None:
    """Users who asked to be forgotten since."""
    users = list(await other.read(erasures.all_of_them))
    if users:
        await node.advance(_put_erased, node, users)


async def _put_erased(tx: Transaction, node: Node, users: Sequence[str]) -> None:
    known = await erasures.known_among(tx, users)
    if known:
        erasures.put(tx, known, await streams.allocate(tx))
        tx.after_commit(node.memory(Erased).clear)
