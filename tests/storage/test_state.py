"""The state of a room at any position: what it was, at a cost that does not grow with its past."""

from __future__ import annotations

import random
from collections.abc import Mapping
from importlib.resources import files

from homeserver.storage import migrate, state
from homeserver.storage.engine import Param, Row, Transaction
from homeserver.storage.state import Group, NewGroup, StateKey
from tests.support import Databases, aio

MIGRATIONS = migrate.load(files("homeserver.storage") / "schema" / "node")
ROOM = 1
Past = list[tuple[int, dict[StateKey, int]]]


class Room:
    """Writes a room's state, and remembers what it was."""

    def __init__(self) -> None:
        self.pos = 10
        self.group: Group | None = None
        self.now: dict[StateKey, int] = {}
        self.past: Past = [(self.pos, {})]

    def change(self, tx: Transaction, key: StateKey, event_nid: int | None, *, known: bool = True) -> None:
        """An entry of the state becomes another, or goes; ``known``: a snapshot is made of it."""
        self.pos += 3
        self.now = {each: nid for each, nid in {**self.now, key: event_nid}.items() if nid is not None}
        self.past.append((self.pos, self.now))
        change = (ROOM, self.pos, *key, event_nid)
        if not known:
            state.note_changes(tx, [change])
            self.group = None  # the chain was broken off
            return
        previous = self.group
        added: Mapping[StateKey, int]
        if previous is None or event_nid is None:
            self.group, previous, added = Group(None, 0, None), None, self.now
        else:
            self.group, added = previous.successor(), {key: event_nid}
        self.group.nid = self.pos
        state.insert_groups(tx, [NewGroup(ROOM, self.group, previous, [(*each, nid) for each, nid in added.items()])])
        state.change_current(tx, [change], {self.pos: self.group.nid})


class Weighed:
    """A transaction that counts the rows that it gives."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.rows = 0

    async def all(self, sql: str, *params: Param) -> list[Row]:
        found = await self.tx.all(sql, *params)
        self.rows += len(found)
        return found


async def weigh(tx: Transaction, pos: int) -> tuple[dict[StateKey, int], int]:
    weighed = Weighed(tx)
    return await state.at(weighed, ROOM, pos), weighed.rows  # type: ignore[arg-type]  # what `at` uses of it


@aio
async def test_the_state_at_any_position_is_what_it_was_then(engines: Databases) -> None:
    engine = await engines.open(migrations=MIGRATIONS)
    chance, room = random.Random(9), Room()

    async def write(tx: Transaction) -> None:
        for number in range(300):
            key = ("m.room.member", f"@user{chance.randrange(12)}:example.org")
            gone = chance.random() < 0.05
            room.change(tx, key, None if gone else 1000 + number, known=chance.random() < 0.9)

    await engine.write(write)
    for pos, then in room.past:
        assert await engine.read(state.at, ROOM, pos) == then
        assert await engine.read(state.at, ROOM, pos + 2) == then, "between two changes"
        undone = await engine.read(state.changed_after, ROOM, pos)
        rewound = {key: nid for key, nid in {**room.now, **undone}.items() if nid is not None}
        assert rewound == then
    assert await engine.read(state.at, ROOM, 9) == {}
    assert await engine.read(state.at, ROOM + 1, 10**6) == {}


@aio
async def test_the_past_of_a_room_costs_as_much_as_its_state_and_no_more(engines: Databases) -> None:
    engine = await engines.open(migrations=MIGRATIONS)
    room, members = Room(), 6

    async def write(tx: Transaction) -> None:
        for number in range(2000):
            room.change(tx, ("m.room.member", f"@user{number % members}:example.org"), 1000 + number)

    await engine.write(write)
    for pos, then in (room.past[100], room.past[1023], room.past[-1]):
        found, rows = await engine.read(weigh, pos)
        assert found == then
        assert rows <= 2 * members * 11, "a few for each of the eleven snapshots, and not one for each change"
