"""Unpacking: what has been staged of a user becomes theirs, in one transaction of the node that they go to.

What would have something done (pushers, delayed events) stays staged until the directory says that the user is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from homeserver.e2ee import one_time_keys
from homeserver.residency.moves import carrying, copying
from homeserver.residency.moves.copying import MEMBERSHIPS, check_digests, digest
from homeserver.residency.moves.rooms_ahead import COMPARED
from homeserver.rooms import delayed, transactions
from homeserver.rooms.onlookers import Onlookers
from homeserver.rooms.outgoing import Lines
from homeserver.rooms.state import Rooms
from homeserver.runtime.parts import in_parts
from homeserver.storage import belongings, events, pins, rooms, users
from homeserver.storage import moves as stored
from homeserver.storage.belongings import BELONGINGS, CARRIED, Fate, Translation
from homeserver.storage.pins import PinEvidence
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.residency.moves.copying import Rows
    from homeserver.residency.moves.journal import Move
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

HOLDERS = "key_holders"
"""A table that says something else on every node."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """What is known of the source when a user is unpacked: its position, the last change of their keys, the newest
    events of their rooms with their positions, and the digest of each table."""

    position: int
    keys_changed_at: int | None
    places: Mapping[str, Sequence[tuple[str, int]]]
    digests: Mapping[str, str]


async def places_of(tx: Transaction, user_nid: int) -> dict[str, list[tuple[str, int]]]:
    """The newest events of each room of a user, with their positions: to be read on the source."""
    found = {}
    for held in await stored.rooms_of(tx, user_nid):
        if held.replica:
            found[held.room_id] = await stored.timeline_places(tx, held.room_nid, COMPARED)
    return found


async def unpack(tx: Transaction, server: Server, move: Move, arriving: Arriving) -> None:
    """Make a user a resident, with all that was staged of them; and note that this has been done.

    Raises Impossible when what is read back is not what was sent.
    """
    rows: Rows = {each.table: await stored.all_staged(tx, move.move_id, each.table) for each in CARRIED}
    held = [carrying.Membership(row) for row in await stored.all_staged(tx, move.move_id, MEMBERSHIPS)]
    user_nid = await users.settle(tx, move.user_id)
    room_nids = await _rooms(tx, rows, held)
    replicas = await stored.replicas_of(tx, list(room_nids))
    wanted = {each.event_id for each in held}
    for each in CARRIED:
        wanted |= belongings.events_in(each, rows[each.table])
    known = await _known(tx, wanted)
    now = [each for each in CARRIED if each.fate is Fate.CARRIED]
    positions = 1 + len(held) + sum(len(rows[each.table]) for each in now if belongings.has_positions(each))
    arrival = await stored.jump(tx, arriving.position, positions)
    stored.take_over_keys(tx, user_nid, arriving.keys_changed_at)
    belongings.make_way(tx, user_nid)
    carrying.write(tx, move.user_id, held, room_nids, known, replicas.keys(), arrival + 1)
    places = {event_id: place for event_id, (_, place) in known.items() if place is not None}
    translation = Translation(user_nid, {}, room_nids, places, arrival)
    epoch = len(rows["earlier_homes"])
    following = arrival + 1 + len(held)
    for each in now:
        if each.table == "devices":
            belongings.write(tx, each, rows[each.table], translation, following)
            translation = translation._replace(devices=await stored.device_nids(tx, user_nid))
            continue
        ordered = sorted(rows[each.table], key=lambda row: orjson.loads(row.key)) if each.counted else rows[each.table]
        taken = belongings.write(tx, each, ordered, translation, following)
        following += len(taken)
        if each.table == "to_device":
            letters = [
                (pos, user_nid, translation.devices[_device(row.content)], epoch, row.place or 0)
                for pos, row in zip(taken, ordered, strict=True)
            ]
            stored.carry_letters(tx, letters)
    await _verify(tx, user_nid, arriving.digests)
    pins.put(tx, user_nid, PinEvidence("admin", "", server.clock.now_ms()))
    stored.note_holders(tx, user_nid, move.target.name, move.source.name)
    stored.note_home(tx, user_nid, epoch, move.source.name, arriving.position, arrival)
    await _note_places(tx, move, arriving.places, room_nids)
    last = arrival + positions - 1
    devices = list(translation.devices.values())
    keys = [row.key for table in ("event_transactions", "client_transactions") for row in rows[table]]
    joined = {each.room_id: each.membership == "join" for each in held}
    tx.after_commit(lambda: _announce(server, move, user_nid, last, devices, keys, joined))
    account = {**move.account, "left_pos": arriving.position, "came_pos": arrival}
    await stored.note_arrival(tx, move.move_id, "unpacked", copying.encoded(account))


def _device(content: bytes) -> str:
    return str(orjson.loads(content)[0])


async def _rooms(tx: Transaction, rows: Rows, held: Sequence[carrying.Membership]) -> dict[str, int]:
    """Row ids of all rooms that are spoken of; those that are not known are made known."""
    versions = {each.room_id: each.version for each in held}
    wanted = set(versions)
    for each in CARRIED:
        wanted |= belongings.rooms_in(each, rows[each.table])
    return {room_id: await rooms.create(tx, room_id, versions.get(room_id, "1"), None) for room_id in sorted(wanted)}


async def _known(tx: Transaction, event_ids: set[str]) -> dict[str, tuple[int, int | None]]:
    found: dict[str, tuple[int, int | None]] = {}
    wanted = sorted(event_ids)
    for part in in_parts(wanted, belongings.PAGE):
        found |= await events.known(tx, part)
    return found


async def _verify(tx: Transaction, user_nid: int, expected: Mapping[str, str]) -> None:
    """Read back what has been written, as it would be read on the source."""
    found = {}
    for each in CARRIED:
        if each.fate is Fate.CARRIED and each.table != HOLDERS:
            rows = await belongings.all_of(tx, each, user_nid)
            if rows:
                found[each.table] = digest(rows)
    told = {table for table, each in BELONGINGS.items() if each.fate is Fate.CARRIED and table != HOLDERS}
    check_digests({table: one for table, one in expected.items() if table in told}, found, tx.node)


async def _note_places(
    tx: Transaction, move: Move, places: Mapping[str, Sequence[tuple[str, int]]], room_nids: Mapping[str, int]
) -> None:
    known = await _known(tx, {event_id for found in places.values() for event_id, _ in found})
    stored.note_places(
        tx,
        [
            (move.source.name, room_nids[room_id], there, here)
            for room_id, found in places.items()
            if room_id in room_nids
            for event_id, there in found
            if (here := known.get(event_id, (0, None))[1]) is not None
        ],
    )


def _announce(
    server: Server,
    move: Move,
    user_nid: int,
    last: int,
    devices: Sequence[int],
    keys: Sequence[str],
    joined: Mapping[str, bool],
) -> None:
    target = move.target
    target.memory(one_time_keys.Remembered).forget(devices)
    seen = target.memory(transactions.Seen)
    if seen.loaded:
        for key in keys:
            seen.add(belongings.raw_key(key))
    memory = target.memory(Rooms)
    for room_id, is_in in joined.items():
        room = memory.get(room_id)
        if room is not None and is_in:
            room.residents[move.user_id] = user_nid
    people = [user_nid]
    target.announce(
        last,
        [
            (Stream.MEMBERSHIP, people),
            (Stream.ACCOUNT_DATA, people),
            (Stream.PRIVATE_RECEIPTS, people),
            (Stream.TO_DEVICE, devices),
        ],
    )


async def wake(tx: Transaction, server: Server, move: Move, user_nid: int) -> int | None:
    """Write what has things done, once the user is here, and throw away what was staged; returns the last position that
    was taken. Does nothing the second time."""
    waking = [each for each in CARRIED if each.fate is Fate.WAKES]
    rows = {each.table: await stored.all_staged(tx, move.move_id, each.table) for each in waking}
    await stored.clear_staged(tx, move.move_id)
    if not any(rows.values()):
        return None
    positions = 1 + sum(len(rows[each.table]) for each in waking if belongings.has_positions(each))
    arrival = await stored.jump(tx, 0, positions)
    translation = Translation(user_nid, await stored.device_nids(tx, user_nid), {}, {}, arrival)
    following = arrival + 1
    for each in waking:
        ordered = sorted(rows[each.table], key=lambda row: orjson.loads(row.key)) if each.counted else rows[each.table]
        following += len(belongings.write(tx, each, ordered, translation, following))
    last = arrival + positions - 1
    tx.after_commit(lambda: _awake(server, move.target, user_nid, last))
    return last


def _awake(server: Server, target: Node, user_nid: int, last: int) -> None:
    target.memory(Onlookers).change(user_nid)
    target.announce(last, [])
    target.memory(Lines).clear()  # what waits for other servers is looked for in the database
    server.wakeups.wake(delayed.key(target))


async def undo(tx: Transaction, user_id: str) -> None:
    """The user did not come after all: nothing is here of them but what is staged, and what replicas have."""
    user_nid = await users.resident(tx, user_id)
    if user_nid is not None:
        belongings.erase(tx, user_nid, replicas=False)
