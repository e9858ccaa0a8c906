"""The state that a new connection is told of a room: made once, for all who ask the same of it.

It depends on nothing but the state of the room, on what is wanted of it, and on the people whom the timeline is about;
all three are compared. What is wanted because of who asks, their own member event for example, is told beside it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import showing, state_rows
from homeserver.rooms.state_rows import StateRows
from homeserver.runtime.lru import Lru
from homeserver.storage.nodes import Mirror
from homeserver.sync.sliding import required_state, room_entry
from homeserver.sync.sliding import wanted as wants
from homeserver.sync.sliding.room_entry import AVATAR, NAME, text_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from immutables import Map

    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.state import Entry
    from homeserver.sync.sliding.telling import Draft, Telling
    from homeserver.sync.sliding.wanted import Wanted

MEMORY_BYTES: Final = 24 * 1024 * 1024
"""Memory that the openings of a node may take, as it is estimated."""
LARGEST: Final = 256 * 1024
"""The bytes of one beyond which it is not kept."""

# What CPython 3.11 needs at most for one, and for each entry in it, beside the bytes of the events, as measured.
OPENING_BYTES: Final = 900
ENTRY_BYTES: Final = 300

NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Opening:
    """What is told of a room, but for its timeline.

    ``state``, ``generation`` (of the `StateRows`) and ``people``: what it was made of. ``told``: the entries of the
    state; ``members``: whose member events are among them. ``named``: whether the room has a name; ``names``: what
    names it, and its members' number, as fields of a JSON object.
    """

    state: Map[StateKey, Entry]
    generation: int
    people: AbstractSet[str]
    told: frozenset[StateKey]
    members: frozenset[str]
    named: bool
    names: bytes
    _pattern: bytes
    _sent: Sequence[int]

    def made_of(self, state: object, generation: int, people: AbstractSet[str]) -> bool:
        """Whether it would be the same if it were made now."""
        return self.state is state and self.generation == generation and self.people == people

    def at(self, now: int) -> list[bytes]:
        """The state events as they are told at a moment (milliseconds since 1970), in one piece with commas."""
        return [self._pattern % tuple([now - ts if now > ts else 0 for ts in self._sent])] if self._sent else []

    def weight(self) -> int:
        """The bytes of memory that it takes, as an estimate."""
        return OPENING_BYTES + ENTRY_BYTES * len(self.told) + len(self._pattern)


class Openings(Mirror):
    """The openings of a node's rooms (``node.memory(Openings)``), by the room's row id, the limit of the timeline, and
    what is wanted of the state."""

    def __init__(self) -> None:
        self.held: Lru[tuple[int, int, Wanted], Opening] = Lru(MEMORY_BYTES, Opening.weight, "sliding_openings")

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.held.clear()


def serves(draft: Draft) -> bool:
    """Whether a room is told as to anybody who is new to it: to who was in it during all that is shown."""
    return draft.since is None and draft.joined and draft.seen is None


async def fill(telling: Telling, drafts: Sequence[Draft]) -> None:
    """Give drafts that `serves` is true of their opening, and what is told beside it. Their timelines have been set.
    Usually no trip.
    """
    node, user_id = telling.caller.node, telling.caller.user_id
    generation, held = node.memory(StateRows).generation, node.memory(Openings).held
    parts: dict[int, tuple[Wanted, Wanted]] = {}
    plans: list[_Plan] = []
    for draft in drafts:
        room, config = draft.room, draft.config
        assert room is not None
        both = parts.get(id(config))
        if both is None:
            both = parts[id(config)] = wants.parted(config.wanted, user_id)
        common = both[0]
        people = required_state.people(draft.events) if common.lazy else NOBODY
        found = held.get((room.nid, config.limit, common))
        if found is not None and found.made_of(room.now.state, generation, people):
            draft.opening = found
        else:
            plans.append(_plan(draft, common, people))
    if plans:
        await _make(telling, plans)
    for draft in drafts:
        opening, own = draft.opening, parts[id(draft.config)][1]
        if opening is not None:
            beside = own.chosen(opening.state)
            draft.state = {key: entry.nid for key, entry in beside.items() if key not in opening.told}


class _Plan(NamedTuple):
    """An opening to be made: for whom, of what, and the row ids of its entries, of the name, and of the avatar."""

    draft: Draft
    common: Wanted
    people: AbstractSet[str]
    state: Map[StateKey, Entry]
    counts: tuple[int, int]
    told: Mapping[StateKey, int | None]
    name: int | None
    avatar: int | None


def _plan(draft: Draft, common: Wanted, people: AbstractSet[str]) -> _Plan:
    assert draft.room is not None
    now, told = draft.room.now, required_state.beginning(draft, common, people)
    counts = now.joined, now.invited
    return _Plan(draft, common, people, now.state, counts, told, draft.nid_of(NAME), draft.nid_of(AVATAR))


async def _make(telling: Telling, plans: Sequence[_Plan]) -> None:
    node = telling.caller.node
    rows_of, held = node.memory(StateRows), node.memory(Openings).held
    generation = rows_of.generation
    wanted = {nid for plan in plans for nid in (*plan.told.values(), plan.name, plan.avatar) if nid is not None}
    rows = await state_rows.find(node, wanted)
    for plan in plans:
        shown = [row for nid in plan.told.values() if nid is not None and (row := rows.get(nid)) is not None]
        name = text_in(rows, plan.name, "name")
        opening = plan.draft.opening = Opening(
            plan.state,
            generation,
            plan.people,
            frozenset(plan.told),
            frozenset([key[1] for key in plan.told if key[0] == MEMBER]),
            name is not None,
            room_entry.names(name, text_in(rows, plan.avatar, "url"), *plan.counts),
            b",".join([showing.state_pattern(row) for row in shown]),
            [row.ts for row in shown],
        )
        if generation == rows_of.generation and opening.weight() <= LARGEST:
            held[plan.draft.listed.room_nid, plan.draft.config.limit, plan.common] = opening
