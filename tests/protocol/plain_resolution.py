"""State resolution as the specification tells it, definition by definition, without a thought for speed.

What the real one is measured by: it must give the same state for every room that a test can think of.

spec: rooms/v12/#state-resolution
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from homeserver.protocol.auth_rules import Rejected, auth_types_for, check
from homeserver.protocol.event_view import CREATE, POWER_LEVELS, EventView, StateKey
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.versions import RoomRules, StateResolution
from tests.protocol.plain_resolution_v1 import PlainV1


class Plain:
    def __init__(self, rules: RoomRules, events: Mapping[str, EventView], rejected: Iterable[str] = ()) -> None:
        self.rules = rules
        self.events = events
        self.rejected = set(rejected)
        self.v2_1 = rules.state_resolution is StateResolution.V2_1

    def auth_chain(self, event_id: str) -> set[str]:
        chain: set[str] = set()
        for cited in self.events[event_id].auth_events:
            if cited not in chain:
                chain |= {cited} | self.auth_chain(cited)
        return chain

    def full_auth_chain(self, state: Mapping[StateKey, str]) -> set[str]:
        return set().union(*(self.auth_chain(event_id) for event_id in state.values()))

    def resolve(self, states: Sequence[Mapping[StateKey, str]]) -> dict[StateKey, str]:
        if self.rules.state_resolution is StateResolution.V1:
            return PlainV1(self.rules, self.events).resolve(states)
        places = {place for state in states for place in state}
        unconflicted = {
            place: event_id
            for place in places
            if (event_id := states[0].get(place)) is not None and all(s.get(place) == event_id for s in states)
        }
        conflicted = {s[place] for place in places - unconflicted.keys() for s in states if place in s}
        chains = [self.full_auth_chain(state) for state in states]
        full = conflicted | (set().union(*chains) - set[str].intersection(*chains))
        if self.v2_1:
            full |= self.subgraph(conflicted)

        power = {event_id for event_id in full if self.is_power_event(event_id)}
        for event_id in list(power):
            power |= self.auth_chain(event_id) & full
        state = {} if self.v2_1 else dict(unconflicted)
        self.iterative_auth_checks(state, self.reverse_topological_power_order(power))
        self.iterative_auth_checks(state, self.mainline_order(state.get(POWER_LEVELS), full - power))
        return {**state, **unconflicted}

    def subgraph(self, conflicted: set[str]) -> set[str]:
        behind = conflicted.union(*(self.auth_chain(event_id) for event_id in conflicted))
        return {x for x in behind if x in conflicted or self.auth_chain(x) & conflicted}

    def is_power_event(self, event_id: str) -> bool:
        event = self.events[event_id]
        if event.type in ("m.room.power_levels", "m.room.join_rules"):
            return True
        gone = event.content.get("membership") in ("leave", "ban")
        return event.type == "m.room.member" and gone and event.sender != event.state_key

    def create_for(self, event: EventView) -> EventView:
        return self.events["$" + event.room_id[1:]]

    def power(self, event_id: str) -> int:
        event = self.events[event_id]
        cited = {(e.type, e.state_key): e for e in map(self.events.__getitem__, event.auth_events)}
        create = cited.get(CREATE) if self.rules.create_in_auth_events else self.create_for(event)
        return Levels(self.rules, create, cited.get(POWER_LEVELS)).of(event.sender)

    def reverse_topological_power_order(self, chosen: set[str]) -> list[str]:
        ordered: list[str] = []
        while len(ordered) < len(chosen):
            candidates = [
                x for x in chosen if x not in ordered and not (self.auth_chain(x) & chosen).difference(ordered)
            ]
            ordered.append(min(candidates, key=lambda x: (-self.power(x), self.events[x].origin_server_ts, x)))
        return ordered

    def power_levels_behind(self, event_id: str) -> list[str]:
        found: list[str] = []
        step: str | None = event_id
        while step is not None:
            cited = [self.events[x] for x in self.events[step].auth_events]
            step = next((e.event_id for e in cited if (e.type, e.state_key) == POWER_LEVELS), None)
            found += [step] if step else []
        return found

    def mainline_order(self, power_levels: str | None, chosen: set[str]) -> list[str]:
        mainline = [power_levels, *self.power_levels_behind(power_levels)] if power_levels else []

        def key(event_id: str) -> tuple[float, int, str]:
            behind = self.power_levels_behind(event_id)
            position = next((mainline.index(each) for each in behind if each in mainline), inf)
            return (-position, self.events[event_id].origin_server_ts, event_id)

        return sorted(chosen, key=key)

    def iterative_auth_checks(self, state: dict[StateKey, str], ordered: list[str]) -> None:
        for event_id in ordered:
            event = self.events[event_id]
            assert event.state_key is not None
            seen: dict[StateKey, EventView] = {}
            if not self.rules.create_in_auth_events and event.type != "m.room.create":
                seen[CREATE] = self.create_for(event)
            for cited in map(self.events.__getitem__, event.auth_events):
                if cited.event_id not in self.rejected:
                    seen[(cited.type, cited.state_key or "")] = cited
            for place in auth_types_for(self.rules, event):
                if place in state:
                    seen[place] = self.events[state[place]]
            try:
                check(self.rules, event, seen)
            except Rejected:
                continue
            state[(event.type, event.state_key)] = event_id
