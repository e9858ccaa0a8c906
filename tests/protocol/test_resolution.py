"""State resolution told in stories: tests/vectors/state_resolution.json, and what it costs in a large room."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from homeserver.protocol.event_view import CREATE, MEMBER, POWER_LEVELS, StateKey
from homeserver.protocol.resolution import Missing, resolve
from homeserver.protocol.versions import VERSIONS
from tests.protocol import vectors
from tests.protocol.plain_resolution import Plain
from tests.protocol.rooms import ALICE, BOB, Branch, Room, Sent

STORIES: list[dict[str, Any]] = vectors.read("state_resolution")["stories"]
TOPIC: StateKey = ("m.room.topic", "")


@pytest.mark.parametrize("story", STORIES, ids=lambda story: f"{story['name']} ({story['room_version']})")
def test_stories_end_as_they_are_told(story: dict[str, Any]) -> None:
    rules = VERSIONS[story["room_version"]]
    events = {each["event_id"]: Sent(**each) for each in story["events"]}
    rejected = frozenset(story["rejected"])
    states = [_state(events, ids) for ids in story["states"]]
    expected = _state(events, story["resolved"])
    for order in itertools.permutations(states):
        assert resolve(rules, order, events, rejected=rejected) == expected
    assert Plain(rules, events, rejected).resolve(states) == expected


def _state(events: dict[str, Sent], ids: list[str]) -> Branch:
    return {(events[each].type, events[each].state_key or ""): each for each in ids}


def test_without_a_state_there_is_nothing_to_resolve() -> None:
    with pytest.raises(ValueError, match="no state"):
        resolve(VERSIONS["11"], [], {})


def test_one_state_is_its_own_resolution_and_needs_no_events() -> None:
    state = {TOPIC: "$topic"}
    resolved = resolve(VERSIONS["11"], [state], {})
    assert resolved == state
    assert resolved is not state


# -- a large room


class Counted(dict[str, Sent]):
    """Events that remember which of them somebody looked at."""

    def __init__(self, events: dict[str, Sent]) -> None:
        super().__init__(events)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Sent:
        self.asked.add(key)
        return super().__getitem__(key)


def _crowd(version: str, size: int) -> tuple[Room, Branch]:
    """A public room with so many members. Does not check them one by one."""
    room = Room(version)
    branch = room.opened(users={BOB: 50})
    branch = room.member(branch, BOB, "join")
    for index in range(size):
        user = f"@u{index}:c.example"
        event = room.draft(branch, user, MEMBER, {"membership": "join"}, user)
        room.events[event.event_id] = event
        branch[(MEMBER, user)] = event.event_id
    return room, branch


@pytest.mark.parametrize("version", ["11", "12"])
def test_a_quarrel_over_names_does_not_look_at_all_members(version: str) -> None:
    room, branch = _crowd(version, 500)
    left = room.sends(room.sends(branch, ALICE, "m.room.topic"), ALICE, "m.room.name")
    right = room.sends(room.sends(branch, BOB, "m.room.topic"), BOB, "m.room.avatar")
    events = Counted(room.events)
    resolved = resolve(room.rules, [left, right], events)
    assert resolved[TOPIC] == right[TOPIC]
    assert len(events.asked) < 20
    assert resolved == Plain(room.rules, room.events).resolve([left, right])


def test_the_first_version_looks_at_what_conflicts_and_its_senders() -> None:
    room, branch = _crowd("1", 500)
    left = room.sends(room.sends(branch, ALICE, "m.room.topic"), ALICE, "m.room.name")
    right = room.sends(room.sends(branch, BOB, "m.room.topic"), BOB, "m.room.topic")
    events = Counted(room.events)
    resolved = resolve(room.rules, [left, right], events)
    assert resolved == {**left, TOPIC: right[TOPIC]}
    assert len(events.asked) < 20
    with pytest.raises(Missing) as first:
        resolve(room.rules, [left, right], {})
    assert first.value.ids == {left[TOPIC], right[TOPIC]}
    with pytest.raises(Missing) as second:
        resolve(room.rules, [left, right], {each: room.events[each] for each in first.value.ids})
    assert second.value.ids == {branch[place] for place in (CREATE, POWER_LEVELS, (MEMBER, ALICE), (MEMBER, BOB))}, (
        "all at once"
    )


@pytest.mark.parametrize("version", ["11", "12"])
def test_where_all_members_must_be_looked_at_their_edges_are_enough(version: str) -> None:
    room, branch = _crowd(version, 500)
    left = room.member(branch, BOB, "leave", "@u7:c.example")
    right = room.sends(branch, ALICE, "m.room.topic")
    expected = Plain(room.rules, room.events).resolve([left, right])
    edges = {each: event.auth_events for each, event in room.events.items()}
    known: dict[str, Sent] = {}
    while True:
        try:
            resolved = resolve(room.rules, [left, right], known, edges=edges)
            break
        except Missing as missing:
            asked = missing.events
        known.update((each, room.events[each]) for each in asked)
    assert resolved == expected
    assert len(known) < 20
    with pytest.raises(Missing) as without:
        resolve(room.rules, [left, right], known)
    assert len(without.value.edges) > 400
