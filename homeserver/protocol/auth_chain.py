"""Events that are known as state or as authority only: whether each is allowed by the events that it cites.

Nothing is judged before all that it cites, so that what cites itself in a circle is never judged at all.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from homeserver.protocol.auth_rules import check, check_auth_events
from homeserver.protocol.event_view import CREATE, EventView, StateKey
from homeserver.protocol.rejection import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from homeserver.protocol.versions import RoomRules


@dataclass(frozen=True, slots=True)
class Judged:
    """``ordered``: the ids of the events that could be judged, each after all that it cites; ``rejected``: those of
    them that are not allowed. ``lacking``: what others cite and nobody has.
    """

    ordered: list[str]
    rejected: set[str]
    lacking: set[str]


def judge(
    rules: RoomRules, events: Mapping[str, EventView], known: Mapping[str, EventView], rejected: Set[str] = frozenset()
) -> Judged:
    """Judge events of one room, by id. ``known`` are more of them that have been judged, ``rejected`` those of these
    that are not allowed.

    Events that cite, over whatever ways, what is lacking or themselves are in no result.
    """
    events = {event_id: event for event_id, event in events.items() if event_id not in known}
    waiting = {event_id: _needed(rules, event) for event_id, event in events.items()}
    citing: dict[str, list[str]] = {}
    lacking: set[str] = set()
    for event_id, needed in waiting.items():
        for each in needed:
            if each in events:
                citing.setdefault(each, []).append(event_id)
            elif each not in known:
                lacking.add(each)
    left = {event_id: sum(each not in known for each in needed) for event_id, needed in waiting.items()}
    ready = [event_id for event_id, count in left.items() if not count]
    judged = Judged([], set(), lacking)
    everything = ChainMap(events, dict(known))
    refused = set(rejected)
    while ready:
        event_id = ready.pop()
        judged.ordered.append(event_id)
        if not is_allowed(rules, events[event_id], everything, refused):
            judged.rejected.add(event_id)
            refused.add(event_id)
        for each in citing.get(event_id, ()):
            left[each] -= 1
            if not left[each]:
                ready.append(each)
    return judged


def is_allowed(
    rules: RoomRules, event: EventView, known: Mapping[str, EventView], rejected: Set[str] = frozenset()
) -> bool:
    """Whether an event is allowed by the events that it cites, all of which are in ``known`` by their ids, and so is
    the m.room.create where events do not cite it.

    spec: rooms/v12/#authorisation-rules
    """
    cited = [known[event_id] for event_id in event.auth_events]
    places: dict[StateKey, EventView] = {(each.type, each.state_key or ""): each for each in cited}
    if not rules.create_in_auth_events and event.type != CREATE[0]:
        places[CREATE] = known["$" + event.room_id[1:]]
    try:
        check_auth_events(rules, event, cited, rejected)
        check(rules, event, places)
    except Rejected:
        return False
    return True


def _needed(rules: RoomRules, event: EventView) -> set[str]:
    """The ids of the events that have to be judged before this one."""
    needed = set(event.auth_events)
    if not rules.create_in_auth_events and event.type != CREATE[0]:
        needed.add("$" + event.room_id[1:])
    return needed
