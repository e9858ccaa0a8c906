"""The first algorithm of state resolution as the specification tells it, sentence by sentence.

spec: rooms/v1/#state-resolution
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from homeserver.protocol.auth_rules import Rejected, check
from homeserver.protocol.event_view import EventView, StateKey
from homeserver.protocol.versions import RoomRules


class PlainV1:
    def __init__(self, rules: RoomRules, events: Mapping[str, EventView]) -> None:
        self.rules = rules
        self.events = events

    def resolve(self, states: Sequence[Mapping[StateKey, str]]) -> dict[StateKey, str]:
        everywhere = {place: {s[place] for s in states if place in s} for state in states for place in state}
        conflicts = {place for place, event_ids in everywhere.items() if len(event_ids) > 1}
        # Start by setting R to the union of the states to be resolved, excluding any conflicting events.
        r = {place: next(iter(event_ids)) for place, event_ids in everywhere.items() if place not in conflicts}
        # First conflicts between m.room.power_levels; then join_rules; then member events. That places of the same
        # type know nothing of each other is our reading: there is no order among them.
        known = ("m.room.power_levels", "m.room.join_rules", "m.room.member")
        for event_type in known:
            before = dict(r)
            for place in conflicts:
                if place[0] == event_type:
                    r[place] = self.chain(before, place, everywhere[place])
        before = dict(r)
        for place in conflicts:
            if place[0] not in known:
                r[place] = self.pick(before, everywhere[place])
        return r

    def ascending_depth_then_descending_sha1(self, event_ids: set[str]) -> list[str]:
        by_sha1 = sorted(event_ids, key=lambda each: hashlib.sha1(each.encode()).hexdigest(), reverse=True)
        return sorted(by_sha1, key=lambda each: self.events[each].depth)

    def allowed(self, event_id: str, r: Mapping[StateKey, str]) -> bool:
        try:
            check(self.rules, self.events[event_id], {place: self.events[each] for place, each in r.items()})
        except Rejected:
            return False
        return True

    def chain(self, r: Mapping[StateKey, str], place: StateKey, event_ids: set[str]) -> str:
        in_order = self.ascending_depth_then_descending_sha1(event_ids)
        r = {**r, place: in_order[0]}
        for event_id in in_order[1:]:
            if not self.allowed(event_id, r):
                break
            r[place] = event_id
        return r[place]

    def pick(self, r: Mapping[StateKey, str], event_ids: set[str]) -> str:
        in_order = self.ascending_depth_then_descending_sha1(event_ids)
        for event_id in reversed(in_order):  # highest depth and lowest sha1(event_id) that passes authentication in R
            if self.allowed(event_id, r):
                return event_id
        return in_order[0]
