"""What a connection has been told: kept for the position that its client has, and for those that came of it.

A standing never changes; each answer that tells something of a room anew makes another one. On disk it is what differs
from the one before it, or now and then the whole, written with others' in one commit before the answer goes out; so a
position survives a restart. An answer that changes nothing but the time writes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
from immutables import Map

from homeserver.protocol.errors import NodeUnavailable, UnknownPos
from homeserver.runtime.lru import Lru
from homeserver.storage import sliding
from homeserver.storage.nodes import Mirror
from homeserver.storage.sliding import StoredPosition
from homeserver.sync.sliding import wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.sync.sliding.request import Pos
    from homeserver.sync.sliding.wanted import Wanted

LIVE: Final = -1
"""Sent up to the position of the token: nothing is missing before it."""
NEVER: Final = -2

CONNECTIONS: Final = 10
"""Connections of one device."""
LIFETIME_MS: Final = 7 * 24 * 3600 * 1000
"""How long a connection is kept that nobody uses."""
RENEWED_MS: Final = LIFETIME_MS // 7
CHAIN: Final = 16
"""Differences that are kept in a row."""
BRANCHES: Final = 4
"""Answers to one position that are kept: a client may have asked more than once."""
MEMORY_BYTES: Final = 64 * 1024 * 1024

STANDING_BYTES = 1500
"""What CPython 3.11 needs for one, as measured."""


class Sent(NamedTuple):
    """What a connection has been told of a room: its timeline, the user's own data in it, receipts. Each up to a
    position, or LIVE, or NEVER.

    ``limit`` and ``wanted``: of how much of the timeline, and of which state; ``members``: of whom it has the member
    event, as it is; ``direct``: whether it was told that this is a direct chat.
    """

    timeline: int
    limit: int
    wanted: Wanted
    members: frozenset[str] = frozenset()
    data: int = NEVER
    receipts: int = NEVER
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a connection has been told as of a position. ``account``: all global account data.

    ``chain``: the numbers of the positions on disk that it is read from, the whole first and its own last; ``written``:
    when (milliseconds). ``size``: bytes on disk of the whole, and of the differences.
    """

    rooms: Map[int, Sent]
    account: bool = False
    chain: tuple[int, ...] = ()
    written: int = 0
    size: tuple[int, int] = (0, 0)

    def weight(self) -> int:
        """The bytes of memory that it takes, as an estimate."""
        return STANDING_BYTES + 4 * self.size[0] + 8 * self.size[1]


NEW: Final = Standing(Map())


@dataclass(frozen=True, slots=True)
class Change:
    """What an answer tells anew: by room row id, None for a room that is no more to be spoken of."""

    rooms: Mapping[int, Sent | None]
    account: bool = False


@dataclass(slots=True)
class Connection:
    """The standings of a connection in memory, by number, the oldest first. ``base``: the number of the position that
    the client had last; the others are of answers to it.
    """

    base: int | None
    standings: dict[int, Standing]

    def weight(self) -> int:
        """The bytes of memory that it takes, as an estimate; standings share most of what they have."""
        return max(each.weight() for each in self.standings.values()) + STANDING_BYTES * len(self.standings)


class Connections(Mirror):
    """The connections of a node's devices (``node.memory(Connections)``), by device row id and ``conn_id``."""

    def __init__(self) -> None:
        self.held: Lru[tuple[int, str], Connection] = Lru(MEMORY_BYTES, Connection.weight, "sliding_connections")

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.held.clear()


async def find(server: Server, caller: Caller, conn_id: str, pos: Pos | None) -> Standing:
    """What a connection of the caller's device has been told as of a position. Raises UnknownPos."""
    if pos is None:
        return NEW
    node = caller.node
    if pos.token.position > node.position:
        raise UnknownPos("That position is none that this server has given")
    memory = node.memory(Connections).held
    held = memory.get((caller.device_nid, conn_id))
    found = None if held is None else held.standings.get(pos.number)
    if found is None:
        rows = await node.read(sliding.positions, caller.device_nid, conn_id)
        found = _read(rows, pos.number)
        if found is None:
            raise UnknownPos("That position is not known any more")
        if held is None:
            memory[caller.device_nid, conn_id] = Connection(None, {pos.number: found})
        else:
            held.standings[pos.number] = found
    if found.written < server.clock.now_ms() - LIFETIME_MS:
        raise UnknownPos("That position has not been used for too long")
    return found


async def keep(
    server: Server, caller: Caller, conn_id: str, pos: Pos | None, standing: Standing, change: Change
) -> int:
    """Keep what an answer tells anew, on disk too, before it is given; returns the number of the position for it."""
    node, now = caller.node, server.clock.now_ms()
    if pos is not None and not change.rooms and change.account == standing.account:
        if now - standing.written > RENEWED_MS:
            await node.write(sliding.touch, caller.device_nid, conn_id, now)
            _replace(caller, conn_id, pos.number, _renewed(standing, now))
        return pos.number
    number = secrets.randbits(52)
    made, stored = _next(standing, change, number, now)
    memory = node.memory(Connections).held
    held = None if pos is None else memory.get((caller.device_nid, conn_id))
    branches: dict[int, Standing] = {}
    if held is not None and pos is not None and held.base == pos.number:
        branches = {n: each for n, each in held.standings.items() if n != pos.number}
        for surplus in list(branches)[: 1 - BRANCHES]:
            del branches[surplus]
    kept = {*standing.chain, *(n for each in branches.values() for n in each.chain)}
    await node.advance_together(_keep, caller, conn_id, stored, kept, pos is None)
    standings = {} if pos is None else {pos.number: standing}
    base = None if pos is None else pos.number
    memory[caller.device_nid, conn_id] = Connection(base, {**standings, **branches, number: made})
    return number


async def _keep(
    tx: Transaction, caller: Caller, conn_id: str, stored: StoredPosition, kept: set[int], first: bool
) -> None:
    await sliding.keep(tx, caller.user_nid, caller.device_nid, conn_id, stored, kept)
    if first:
        await sliding.drop_oldest(tx, caller.device_nid, CONNECTIONS)


def _replace(caller: Caller, conn_id: str, number: int, standing: Standing) -> None:
    held = caller.node.memory(Connections).held.get((caller.device_nid, conn_id))
    if held is not None and number in held.standings:
        held.standings[number] = standing


def _renewed(standing: Standing, now: int) -> Standing:
    return Standing(standing.rooms, standing.account, standing.chain, now, standing.size)


def _next(standing: Standing, change: Change, number: int, now: int) -> tuple[Standing, StoredPosition]:
    """The standing that a change makes, and how it rests on disk."""
    rooms = standing.rooms
    if rooms:
        with rooms.mutate() as changed:
            for nid, sent in change.rooms.items():
                if sent is not None:
                    changed[nid] = sent
                else:
                    changed.pop(nid, None)
            rooms = changed.finish()
    else:
        rooms = Map({nid: sent for nid, sent in change.rooms.items() if sent is not None})
    whole, differing = standing.size
    if standing.chain and len(standing.chain) < CHAIN:
        body = _encoded(change.rooms, change.account)
        if differing + len(body) <= whole + 2000:
            chain = (*standing.chain, number)
            made = Standing(rooms, change.account, chain, now, (whole, differing + len(body)))
            return made, StoredPosition(number, standing.chain[-1], now, body)
    body = _encoded(rooms, change.account)
    return Standing(rooms, change.account, (number,), now, (len(body), 0)), StoredPosition(number, None, now, body)


# on disk ------------------------------------------------------------------------------------


def _encoded(rooms: Mapping[int, Sent | None], account: bool) -> bytes:
    """JSON: the wanted state that there is, each once, and the rooms that refer to it by its place."""
    known: dict[Wanted, int] = {}
    entries = [
        [nid]
        if sent is None
        else [
            nid,
            sent.timeline,
            sent.limit,
            known.setdefault(sent.wanted, len(known)),
            list(sent.members),
            sent.data,
            sent.receipts,
            int(sent.direct),
        ]
        for nid, sent in rooms.items()
    ]
    return orjson.dumps({"wanted": [each.as_json() for each in known], "rooms": entries, "account": int(account)})


def _read(rows: Sequence[StoredPosition], number: int) -> Standing | None:
    """The standing of a position, from the whole that it comes of and what differs; None when something is missing."""
    by_number = {row.number: row for row in rows}
    chain: list[StoredPosition] = []
    at: int | None = number
    while at is not None:
        row = by_number.get(at)
        if row is None or len(chain) > CHAIN:
            return None
        chain.append(row)
        at = row.parent
    chain.reverse()
    rooms: dict[int, Sent] = {}
    account = False
    for row in chain:
        body = orjson.loads(row.body)
        known = [wanted.from_json(value) for value in body["wanted"]]
        account = bool(body["account"])
        for nid, *sent in body["rooms"]:
            if sent:
                timeline, limit, which, members, data, receipts, direct = sent
                rooms[nid] = Sent(timeline, limit, known[which], frozenset(members), data, receipts, bool(direct))
            else:
                rooms.pop(nid, None)
    size = (len(chain[0].body), sum(len(row.body) for row in chain[1:]))
    return Standing(Map(rooms), account, tuple(row.number for row in chain), chain[-1].ts, size)


# what grows with time -----------------------------------------------------------------------


async def drop_unused(server: Server) -> None:
    """Forget the connections that nobody has used for long, on all nodes."""
    before = server.clock.now_ms() - LIFETIME_MS
    for node in server.nodes:
        try:
            await node.write(sliding.drop_unused, before)
        except NodeUnavailable:
            continue
