"""State resolution, versions 2 and 2.1: what is in conflict is put in order by power and by age, and then authorised.

For `resolution` only, which says what holds for every algorithm.

spec: rooms/v12/#state-resolution, rooms/v2/#state-resolution
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from heapq import heappop, heappush
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Final

from homeserver.protocol.auth_rules import auth_types_for, check
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS, EventView, StateIds, StateKey
from homeserver.protocol.missing import Missing
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.rejection import Rejected
from homeserver.protocol.versions import StateResolution

if TYPE_CHECKING:
    from homeserver.protocol.membership_rules import Verify
    from homeserver.protocol.versions import RoomRules

_NONE: Final[frozenset[str]] = frozenset()


def resolve(
    rules: RoomRules,
    state_sets: Sequence[StateIds],
    events: Mapping[str, EventView],
    edges: Mapping[str, Sequence[str]],
    rejected: Set[str],
    verify: Verify,
) -> dict[StateKey, str]:
    """For the arguments see `resolution.resolve`. ``state_sets`` is not empty. Raises Missing.

    spec: rooms/v12/#algorithm
    """
    unconflicted, conflicted = _divide(state_sets)
    if not conflicted:
        return unconflicted
    graph = _Graph(events, edges)
    room = _Room(rules, events, rejected, verify)
    full = _full_conflicted_set(room, graph, unconflicted, conflicted)
    room.require(full)
    room.require(chain.from_iterable(events[event_id].auth_events for event_id in full))

    powerful = _power_events(graph, events, full)
    resolved = {} if room.with_subgraph else dict(unconflicted)
    room.apply(resolved, _reverse_topological_power_order(room, graph, powerful))
    room.apply(resolved, _mainline_order(room, resolved.get(POWER_LEVELS), full - powerful))
    resolved.update(unconflicted)
    return resolved


# -- what is in conflict


def _divide(state_sets: Sequence[StateIds]) -> tuple[dict[StateKey, str], list[set[str]]]:
    """The unconflicted state map, and for each state set its part of the conflicted state set (empty if there is none).

    spec: rooms/v12/#definitions
    """
    first, *others = state_sets
    unconflicted = dict(first.items())
    disputed: set[StateKey] = set()
    for other in others:
        differing = {place for place, event_id in first.items() if other.get(place) != event_id}
        shared = len(first) - sum(place not in other for place in differing)
        if len(other) > shared:
            differing.update(place for place in other if place not in first)
        disputed |= differing
    for place in disputed:
        unconflicted.pop(place, None)
    if not disputed:
        return unconflicted, []
    return unconflicted, [{state[place] for place in disputed if place in state} for state in state_sets]


class _Graph:
    """The graph of auth events, walked with patience: what is lacking is collected and reported at the end."""

    def __init__(self, events: Mapping[str, EventView], edges: Mapping[str, Sequence[str]]) -> None:
        self._events = events
        self._edges = edges

    def cited_by(self, event_id: str) -> Sequence[str] | None:
        """The auth events of an event, None if neither the event nor its edges are loaded."""
        event = self._events.get(event_id)
        return self._edges.get(event_id) if event is None else event.auth_events

    def citing_first(self, starts: Iterable[str], stop: Container[str] = _NONE) -> dict[str, Sequence[str]]:
        """What can be reached from ``starts``, they included, with its edges; each event before all that it cites.

        What is in ``stop`` is reached, but not passed. Raises Missing.
        """
        found: dict[str, Sequence[str]] = {}
        finished: list[str] = []
        missing: set[str] = set()
        pending = [(event_id, False) for event_id in starts]
        while pending:
            event_id, leaving = pending.pop()
            if leaving:
                finished.append(event_id)
            elif event_id not in found:
                cited = () if event_id in stop else self.cited_by(event_id)
                if cited is None:
                    missing.add(event_id)
                found[event_id] = cited = cited or ()
                pending.append((event_id, True))
                pending += [(each, False) for each in cited if each not in found]
        if missing:
            raise Missing(edges=missing)
        return {event_id: found[event_id] for event_id in reversed(finished)}

    def not_cited(self, candidates: set[str], starts: StateIds) -> set[str]:
        """Those of ``candidates`` that are in the auth chain of no event of a state. Raises Missing.

        Ends as soon as none is left; in a large room the members come last, for their chains are the least likely to
        tell anything.
        """
        if not candidates:
            return set()
        remaining = set(candidates)
        missing: set[str] = set()
        pending = [event_id for (event_type, _), event_id in starts.items() if event_type == MEMBER]
        pending += [event_id for (event_type, _), event_id in starts.items() if event_type != MEMBER]
        seen = set(pending)
        while pending and remaining:
            cited = self.cited_by(event_id := pending.pop())
            if cited is None:
                missing.add(event_id)
                continue
            for each in cited:
                if each in remaining:
                    remaining.discard(each)
                if each not in seen:
                    seen.add(each)
                    pending.append(each)
        if remaining and missing:
            raise Missing(edges=missing)
        return remaining


def _full_conflicted_set(
    room: _Room, graph: _Graph, unconflicted: StateIds, conflicted: Sequence[Set[str]]
) -> set[str]:
    """The full conflicted set, less unconflicted events that cannot change the result. Raises Missing.

    spec: rooms/v12/#definitions
    """
    conflicted_set = set().union(*conflicted)
    settled = set(unconflicted.values()) - conflicted_set
    # The auth chain of an unconflicted event is in the full auth chain of every state, so that for the auth difference
    # there is nothing to be found behind one.
    partial = _chain_difference(graph.citing_first(sorted(conflicted_set), settled), conflicted)
    full = conflicted_set | graph.not_cited(partial - settled, unconflicted)
    if room.with_subgraph:
        full |= _conflicted_subgraph(graph.citing_first(sorted(conflicted_set)), conflicted_set)
    doubtful = (partial & settled) - full
    room.require(doubtful)
    # Power levels and join rules that are in force are cited by nearly everybody: soon found.
    in_force = {event_id for event_id in doubtful if _is_power_event(room.events[event_id])}
    full |= graph.not_cited(in_force, unconflicted)
    doubtful -= in_force
    if doubtful and room.may_matter(full, doubtful):
        full |= graph.not_cited(doubtful, unconflicted)
    return full


def _chain_difference(reached: Mapping[str, Sequence[str]], conflicted: Sequence[Set[str]]) -> set[str]:
    """The events that are in the auth chains of some, but not all, of the conflicted parts of the states."""
    within: dict[str, int] = {}
    """One bit for each state that has the event itself."""
    for index, part in enumerate(conflicted):
        for event_id in part:
            within[event_id] = within.get(event_id, 0) | 1 << index
    chains: dict[str, int] = {}
    """One bit for each state in whose auth chain the event is."""
    for event_id, cited in reached.items():
        bits = chains.get(event_id, 0) | within.get(event_id, 0)
        for each in cited:
            chains[each] = chains.get(each, 0) | bits
    everywhere = (1 << len(conflicted)) - 1
    return {event_id for event_id, bits in chains.items() if bits != everywhere}


def _conflicted_subgraph(reached: dict[str, Sequence[str]], conflicted_set: Set[str]) -> set[str]:
    """The events on paths of auth events from one conflicted event to another. spec: rooms/v12/#definitions"""
    leading: set[str] = set(conflicted_set)
    for event_id in reversed(reached):
        if any(each in leading for each in reached[event_id]):
            leading.add(event_id)
    return leading


# -- the two orders


def _power_events(graph: _Graph, events: Mapping[str, EventView], full: Set[str]) -> set[str]:
    """The power events of the full conflicted set, and what of it is in their auth chains."""
    power = {event_id for event_id in full if _is_power_event(events[event_id])}
    return {event_id for event_id in graph.citing_first(sorted(power)) if event_id in full}


def _is_power_event(event: EventView) -> bool:
    """spec: rooms/v12/#definitions"""
    if event.type != MEMBER:
        return event.state_key is not None and event.type in (POWER_LEVELS[0], JOIN_RULES[0])
    return event.content.get("membership") in ("leave", "ban") and event.sender != event.state_key


def _reverse_topological_power_order(room: _Room, graph: _Graph, chosen: Set[str]) -> list[str]:
    """The chosen events, each after all in its auth chain, else the more powerful, older and lesser id first.

    The whole chains take part, as other events may connect two chosen ones; those are let through at once.
    spec: rooms/v12/#definitions
    """
    reached = graph.citing_first(sorted(chosen))
    waiting = {event_id: len(set(cited)) for event_id, cited in reached.items()}
    citing: dict[str, list[str]] = {event_id: [] for event_id in reached}
    for event_id, cited in reached.items():
        for each in set(cited):
            citing[each].append(event_id)
    free = [event_id for event_id, count in waiting.items() if not count]
    ready: list[tuple[int, int, str]] = []
    ordered: list[str] = []
    while free or ready:
        if free:
            event_id = free.pop()
            if event_id in chosen:
                heappush(ready, (-room.sender_level(event_id), room.events[event_id].origin_server_ts, event_id))
                continue
        else:
            event_id = heappop(ready)[2]
            ordered.append(event_id)
        for each in citing[event_id]:
            waiting[each] -= 1
            if not waiting[each]:
                free.append(each)
    return ordered


def _mainline_order(room: _Room, power_levels: str | None, chosen: Iterable[str]) -> list[str]:
    """spec: rooms/v12/#definitions"""
    mainline = _Mainline(room, power_levels)
    return sorted(
        chosen,
        key=lambda event_id: (-mainline.position(event_id), room.events[event_id].origin_server_ts, event_id),
    )


class _Mainline:
    """The mainline of a power levels event, followed into the past only as far as somebody asks."""

    def __init__(self, room: _Room, power_levels: str | None) -> None:
        self._room = room
        self._end = power_levels
        """The next event of the mainline that has no position yet, None at its beginning."""
        self._length = 0
        self._positions: dict[str, float] = {}
        """Of events on the mainline, and of power levels beside it that were asked for."""

    def position(self, event_id: str) -> float:
        """The mainline position of an event; infinite if it is not based on the mainline."""
        beside: list[str] = []
        current = self._room.power_levels_of(event_id)
        while current is not None and not self._is_known(current):
            beside.append(current)
            current = self._room.power_levels_of(current)
        position = inf if current is None else self._positions[current]
        self._positions.update(dict.fromkeys(beside, position))
        return position

    def _is_known(self, event_id: str) -> bool:
        while event_id not in self._positions and self._end is not None:
            self._positions[self._end] = self._length
            self._length += 1
            self._end = self._room.power_levels_of(self._end)
        return event_id in self._positions


# -- the iterative auth checks


class _Room:
    """What the orders and the checks ask of the loaded events."""

    def __init__(
        self, rules: RoomRules, events: Mapping[str, EventView], rejected: Container[str], verify: Verify
    ) -> None:
        self.events = events
        self.with_subgraph = rules.state_resolution is StateResolution.V2_1
        self._rules = rules
        self._rejected = rejected
        self._verify = verify

    def require(self, event_ids: Iterable[str]) -> None:
        """Raise Missing with all of these that are not loaded."""
        missing = {event_id for event_id in event_ids if event_id not in self.events}
        if missing:
            raise Missing(missing)

    def may_matter(self, full: Set[str], doubtful: Set[str]) -> bool:
        """Whether the result can depend on which of ``doubtful`` are in the full conflicted set. Raises Missing.

        They are unconflicted, so that they get their places in the end. To find out whether they belong to the auth
        difference may take a walk through the whole state, which is spared in the common case: nothing is ordered by
        power, no other event of the set is for the same places, and whichever of them is checked against such a
        place finds the same event there: in the state from the beginning, or among its own auth events.
        """
        everything = full | doubtful
        self.require(full)
        found = [self.events[event_id] for event_id in everything]
        if any(map(_is_power_event, found)) or any(event_id in self._rejected for event_id in doubtful):
            return True
        at = {_place(self.events[event_id]): event_id for event_id in doubtful}
        if any(_place(self.events[event_id]) in at for event_id in full):
            return True
        if not self.with_subgraph:
            return False
        return any(
            at[place] != event.event_id and at[place] not in event.auth_events
            for event in found
            for place in auth_types_for(self._rules, event)
            if place in at
        )

    def _cited(self, event_id: str) -> Iterator[EventView]:
        self.require((event_id,))
        auth_events = self.events[event_id].auth_events
        self.require(auth_events)
        return (self.events[cited] for cited in auth_events)

    def power_levels_of(self, event_id: str) -> str | None:
        """The m.room.power_levels among the auth events of an event. Raises Missing."""
        return next((cited.event_id for cited in self._cited(event_id) if _place(cited) == POWER_LEVELS), None)

    def sender_level(self, event_id: str) -> int:
        """The power level of an event's sender by the event's own auth events. Raises Missing."""
        cited = {_place(each): each for each in self._cited(event_id)}
        event = self.events[event_id]
        create = cited.get(CREATE) if self._rules.create_in_auth_events else self._implied_create(event)
        return Levels(self._rules, create, cited.get(POWER_LEVELS)).of(event.sender)

    def _implied_create(self, event: EventView) -> EventView:
        create_id = "$" + event.room_id[1:]
        self.require((create_id,))
        return self.events[create_id]

    def apply(self, state: dict[StateKey, str], ordered: Sequence[str]) -> None:
        """The *iterative auth checks algorithm*: add the events that are allowed to ``state``. Raises Missing.

        spec: rooms/v12/#definitions
        """
        wanted = {event_id: auth_types_for(self._rules, self.events[event_id]) for event_id in ordered}
        self.require(state[place] for places in wanted.values() for place in places if place in state)
        for event_id in ordered:
            event = self.events[event_id]
            if event.state_key is None:
                continue
            try:
                check(self._rules, event, self._auth_state(event, wanted[event_id], state), self._verify)
            except Rejected:
                continue
            state[(event.type, event.state_key)] = event_id

    def _auth_state(self, event: EventView, places: Iterable[StateKey], state: StateIds) -> dict[StateKey, EventView]:
        auth_state = {
            (cited.type, cited.state_key): cited
            for cited in self._cited(event.event_id)
            if cited.state_key is not None and cited.event_id not in self._rejected
        }
        if not self._rules.create_in_auth_events and event.type != CREATE[0]:
            auth_state[CREATE] = self._implied_create(event)
        for place in places:
            if place in state:
                auth_state[place] = self.events[state[place]]
        return auth_state


def _place(event: EventView) -> tuple[str, str | None]:
    return event.type, event.state_key
