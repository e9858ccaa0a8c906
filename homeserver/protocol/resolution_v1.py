"""State resolution, version 1: what is in conflict is put in order by depth, place by place, and then authorised.

For `resolution` only, which says what holds for every algorithm. Places of one kind are resolved without regard to one
another, so that no order among them, of which the specification has none, can matter.

spec: rooms/v1/#state-resolution
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha1
from typing import TYPE_CHECKING, Final

from homeserver.protocol.auth_rules import auth_types_for, check
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS, EventView, StateIds, StateKey
from homeserver.protocol.missing import Missing
from homeserver.protocol.rejection import Rejected

if TYPE_CHECKING:
    from homeserver.protocol.membership_rules import Verify
    from homeserver.protocol.versions import RoomRules

_OTHERS: Final = ""
_PASSES: Final = (POWER_LEVELS[0], JOIN_RULES[0], MEMBER, _OTHERS)
"""The types that affect authorisation, in the order in which their conflicts are resolved, and at last all others."""

_Allows = Callable[[EventView, StateIds], bool]
"""Whether the rules allow an event in a room whose state, as far as it matters, is this."""


def resolve(
    rules: RoomRules, state_sets: Sequence[StateIds], events: Mapping[str, EventView], verify: Verify
) -> dict[StateKey, str]:
    """For the arguments see `resolution.resolve`. ``state_sets`` is not empty. Raises Missing."""

    def allows(event: EventView, state: StateIds) -> bool:
        try:
            check(rules, event, {place: events[event_id] for place, event_id in state.items()}, verify)
        except Rejected:
            return False
        return True

    resolved, conflicting = _divide(state_sets)
    _require(events, (event_id for candidates in conflicting.values() for event_id in candidates))
    lists: dict[str, dict[StateKey, list[EventView]]] = {event_type: {} for event_type in _PASSES}
    for place, candidates in conflicting.items():
        lists[place[0] if place[0] in _PASSES else _OTHERS][place] = _oldest_first(events, candidates)
    for event_type in _PASSES:
        choose = _newest_allowed if event_type == _OTHERS else _last_of_chain
        surroundings = _surroundings(rules, events, lists[event_type].values(), resolved)
        resolved.update({place: choose(ordered, surroundings, allows) for place, ordered in lists[event_type].items()})
    return resolved


def _divide(state_sets: Sequence[StateIds]) -> tuple[dict[StateKey, str], dict[StateKey, set[str]]]:
    """The union of the states without what is conflicting, and that by place.

    A place that some states lack is in no conflict. spec: rooms/v1/#state-resolution
    """
    united: dict[StateKey, str] = {}
    conflicting: dict[StateKey, set[str]] = {}
    for state in state_sets:
        for place, event_id in state.items():
            first = united.setdefault(place, event_id)
            if first != event_id:
                conflicting.setdefault(place, {first}).add(event_id)
    for place in conflicting:
        del united[place]
    return united, conflicting


def _oldest_first(events: Mapping[str, EventView], candidates: Iterable[str]) -> list[EventView]:
    """By ascending depth, then descending SHA-1 of the event id."""
    newest_first = sorted(
        candidates,
        key=lambda event_id: (-events[event_id].depth, sha1(event_id.encode(), usedforsecurity=False).digest()),
    )
    return [events[event_id] for event_id in reversed(newest_first)]


def _surroundings(
    rules: RoomRules, events: Mapping[str, EventView], lists: Iterable[Sequence[EventView]], resolved: StateIds
) -> StateIds:
    """The part of what is resolved so far that the rules look at for these events. Raises Missing."""
    looked_at = {place for ordered in lists for event in ordered for place in auth_types_for(rules, event)}
    if looked_at:
        looked_at.add(CREATE)
    found = {place: resolved[place] for place in looked_at if place in resolved}
    _require(events, found.values())
    return found


def _last_of_chain(ordered: Sequence[EventView], surroundings: StateIds, allows: _Allows) -> str:
    """The last event of a list of which each is allowed in a room that the one before it has changed."""
    chosen, *others = ordered
    for event in others:
        if not allows(event, {**surroundings, _place(chosen): chosen.event_id}):
            break
        chosen = event
    return chosen.event_id


def _newest_allowed(ordered: Sequence[EventView], surroundings: StateIds, allows: _Allows) -> str:
    """The last event of a list that is allowed.

    If none is, the first one, of which the specification is silent: it stands for its place without being checked, as
    the first of each other list does.
    """
    return next((event for event in reversed(ordered) if allows(event, surroundings)), ordered[0]).event_id


def _place(event: EventView) -> StateKey:
    return event.type, event.state_key or ""


def _require(events: Mapping[str, EventView], event_ids: Iterable[str]) -> None:
    missing = {event_id for event_id in event_ids if event_id not in events}
    if missing:
        raise Missing(missing)
