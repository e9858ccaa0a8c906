"""State resolution on random rooms: independent of order, idempotent, equal to the definitions, frugal in what it asks.

The histories are made of events that the rules allow on their branch, with forks, merges, liars' clocks, and servers
that have an outdated or thinned-out idea of the state.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.protocol.auth_rules import Rejected, check, check_auth_events
from homeserver.protocol.event_view import CREATE, JOIN_RULES, POWER_LEVELS, StateKey
from homeserver.protocol.resolution import Missing, resolve
from tests.protocol.plain_resolution import Plain
from tests.protocol.rooms import ALICE, BOB, CAROL, DAVE, EVE, Branch, Room, Sent

USERS = (ALICE, BOB, CAROL, DAVE, EVE)
MANY = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def _action(draw: random.Random) -> tuple[str, dict[str, Any], str]:
    """Type, content and state_key of something that somebody may try."""
    target = draw.choice(USERS)
    kind = draw.randrange(10)
    if kind < 5:
        membership = draw.choice(["join", "join", "join", "leave", "invite", "ban", "knock"])
        content = {"membership": membership}
        if membership == "join" and draw.random() < 0.3:
            content["join_authorised_via_users_server"] = draw.choice(USERS)
        return "m.room.member", content, target
    if kind < 7:
        levels: dict[str, Any] = {"users": {user: draw.choice([0, 50, 100]) for user in draw.sample(USERS, 3)}}
        for name in draw.sample(["ban", "kick", "invite", "state_default"], 2):
            levels[name] = draw.choice([0, 25, 50, 75])
        return "m.room.power_levels", levels, ""
    if kind == 7:
        return "m.room.join_rules", {"join_rule": draw.choice(["public", "invite", "restricted", "knock"])}, ""
    return draw.choice(["m.room.topic", "m.room.name"]), {}, ""


def _try(room: Room, branch: Branch, draw: random.Random) -> Branch:
    event_type, content, state_key = _action(draw)
    sender = draw.choice(USERS)
    if event_type == "m.room.member" and content["membership"] in ("join", "knock"):
        sender = state_key
    if event_type == "m.room.power_levels":
        listed = content["users"]
        if room.rules.creators_unlimited:
            listed.pop(ALICE, None)
        elif draw.random() < 0.9:
            listed[ALICE] = 100
    elif draw.random() < 0.3:
        sender = ALICE
    clock_error = draw.choice([0, 0, 0, -20, 20])
    event = room.draft(branch, sender, event_type, content, state_key)
    event = Sent(**{**_fields(event), "origin_server_ts": max(0, event.origin_server_ts + clock_error)})
    try:
        return room.add(branch, event)
    except Rejected:
        return branch


def _fields(event: Sent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in Sent.__slots__}


def _grow(version: str, seed: int, *, liars: bool) -> tuple[Room, list[Branch]]:
    """A room with several branches; with ``liars``, some states lack events or hold superseded ones."""
    draw = random.Random(seed)
    room = Room(version)
    branches = [room.opened(draw.choice(["public", "invite", "restricted"]), users={BOB: draw.choice([0, 50, 100])})]
    for _ in range(draw.randrange(5, 60)):
        index = draw.randrange(len(branches))
        fate = draw.random()
        if fate < 0.12 and len(branches) < 4:
            branches.append(dict(branches[index]))
        elif fate < 0.2 and len(branches) > 2:
            other = branches.pop(draw.randrange(len(branches)))
            index = draw.randrange(len(branches))
            branches[index] = resolve(room.rules, [branches[index], other], room.events)
        else:
            branches[index] = _try(room, branches[index], draw)
    if liars:
        branches = [_distorted(room, branch, draw) for branch in branches]
        branches.append(_distorted(room, branches[0], draw))
    return room, branches


def _distorted(room: Room, branch: Branch, draw: random.Random) -> Branch:
    state = dict(branch)
    for event in draw.sample(list(room.events.values()), min(3, len(room.events))):
        if event.state_key is None or event.type == "m.room.create":
            continue
        if draw.random() < 0.3:
            state.pop((event.type, event.state_key), None)
        else:
            state[(event.type, event.state_key)] = event.event_id
    return state


GROWN = st.builds(
    _grow,
    st.sampled_from(["1", "1", "2", "3", "6", "8", "10", "11", "12", "12"]),
    st.integers(0, 2**32),
    liars=st.booleans(),
)


@MANY
@given(GROWN, st.randoms())
def test_the_order_of_the_arguments_does_not_matter(grown: tuple[Room, list[Branch]], shuffled: random.Random) -> None:
    room, branches = grown
    expected = resolve(room.rules, branches, room.events)
    for _ in range(3):
        states = [_shuffled(branch, shuffled) for branch in [*branches, shuffled.choice(branches)]]
        shuffled.shuffle(states)
        assert resolve(room.rules, states, _shuffled(room.events, shuffled)) == expected


def _shuffled(mapping: Mapping[Any, Any], draw: random.Random) -> dict[Any, Any]:
    entries = list(mapping.items())
    draw.shuffle(entries)
    return dict(entries)


@MANY
@given(GROWN)
def test_it_gives_what_the_definitions_give(grown: tuple[Room, list[Branch]]) -> None:
    room, branches = grown
    assert resolve(room.rules, branches, room.events) == Plain(room.rules, room.events).resolve(branches)


@MANY
@given(GROWN, st.randoms(use_true_random=False))
def test_rejected_events_authorise_nothing_here_either(grown: tuple[Room, list[Branch]], draw: random.Random) -> None:
    room, branches = grown
    rejected = {each for each in room.events if each != "$create" and draw.random() < 0.2}
    expected = Plain(room.rules, room.events, rejected).resolve(branches)
    assert resolve(room.rules, branches, room.events, rejected=rejected) == expected


def _scramble(version: str, seed: int) -> tuple[Room, list[Branch], set[str]]:
    """A room of events that cite any earlier ones of the right kinds, states that agree on most, and some rejections.

    No such room should come to be, but whatever is made of it must be the same everywhere.
    """
    draw = random.Random(seed)
    room = Room(version)
    at: dict[StateKey, list[str]] = {place: [each] for place, each in room.opened(users={BOB: 50}).items()}
    quiet = draw.random() < 0.5
    citing = draw.choice([0.95, 0.5])
    for _ in range(draw.randrange(6, 30)):
        event_type, content, state_key = _quiet_action(draw) if quiet else _action(draw)
        sender = state_key if content.get("membership") in ("join", "knock") else draw.choice(USERS[:2])
        branch = {place: draw.choice(found) for place, found in at.items() if draw.random() < citing}
        ts = draw.randrange(30)
        event = room.draft(branch, sender, event_type, content, state_key, ts=ts, prev_events=["$elsewhere"],
                           depth=draw.randrange(1, 9))  # fmt: skip
        room.events[event.event_id] = event
        at.setdefault((event_type, state_key), []).append(event.event_id)
    agreed = {place: draw.choice(found) for place, found in at.items() if place == CREATE or draw.random() < citing}
    states = [dict(agreed) for _ in range(draw.choice([2, 2, 3]))]
    for place in draw.sample(sorted(at), min(len(at), draw.choice([1, 2, 2, 3]))):
        if place != CREATE and not (quiet and place in (POWER_LEVELS, JOIN_RULES)):
            for state in states:
                state[place] = draw.choice(at[place])
    rejected = {each for each in room.events if each != "$create" and draw.random() < 0.1}
    return room, states, rejected


def _quiet_action(draw: random.Random) -> tuple[str, dict[str, Any], str]:
    """As `_action`, but nothing that is ordered by power."""
    if draw.random() < 0.6:
        return "m.room.member", {"membership": draw.choice(["join", "join", "invite", "knock"])}, draw.choice(USERS)
    return draw.choice(["m.room.topic", "m.room.name", "m.room.avatar"]), {}, ""


@settings(MANY, max_examples=1500)
@given(st.sampled_from(["1", "2", "3", "11", "12"]), st.integers(0, 2**64))
def test_scrambled_rooms_resolve_by_the_definitions_too(version: str, seed: int) -> None:
    room, states, rejected = _scramble(version, seed)
    expected = Plain(room.rules, room.events, rejected).resolve(states)
    assert resolve(room.rules, states, room.events, rejected=rejected) == expected


@MANY
@given(GROWN)
def test_it_is_idempotent(grown: tuple[Room, list[Branch]]) -> None:
    room, branches = grown
    resolved = resolve(room.rules, branches, room.events)
    assert resolve(room.rules, [resolved], room.events) == resolved
    assert resolve(room.rules, [resolved, dict(resolved)], room.events) == resolved
    for branch in branches:
        assert resolve(room.rules, [branch, branch], room.events) == branch


@MANY
@given(GROWN)
def test_the_result_is_a_state_of_authorised_events(grown: tuple[Room, list[Branch]]) -> None:
    room, branches = grown
    resolved = resolve(room.rules, branches, room.events)
    for place, event_id in resolved.items():
        event = room.events[event_id]
        assert (event.type, event.state_key) == place
        cited = [room.events[each] for each in event.auth_events]
        check_auth_events(room.rules, event, cited)
        check(room.rules, event, {CREATE: room.create} | {(e.type, e.state_key or ""): e for e in cited})
    for place, event_id in branches[0].items():
        if all(branch.get(place) == event_id for branch in branches):
            assert resolved[place] == event_id
    assert resolved[CREATE] == "$create"


@MANY
@given(GROWN)
def test_what_lacks_is_asked_for_until_it_is_there(grown: tuple[Room, list[Branch]]) -> None:
    room, branches = grown
    expected = resolve(room.rules, branches, room.events)
    assert _resolved_by_loading(room, branches) == expected
    edges = {each: event.auth_events for each, event in room.events.items()}
    assert _resolved_by_loading(room, branches, edges) == expected


def _resolved_by_loading(
    room: Room, branches: Sequence[Branch], edges: Mapping[str, Sequence[str]] | None = None
) -> dict[StateKey, str]:
    loaded: dict[str, Sent] = {}
    while True:
        try:
            return resolve(room.rules, branches, loaded, edges=edges)
        except Missing as missing:
            asked = missing
        assert asked.ids
        assert not asked.ids & loaded.keys()
        assert edges is None or not asked.edges
        loaded.update((each, room.events[each]) for each in asked.ids)


@pytest.mark.parametrize("version", ["1", "2", "3", "11", "12"])
def test_the_random_rooms_have_what_they_should(version: str) -> None:
    """The generator is worth something: forks that conflict, and events of all kinds that came to be."""
    kinds: set[tuple[str, Any]] = set()
    conflicts = 0
    for seed in range(60):
        room, branches = _grow(version, seed, liars=False)
        kinds |= {(event.type, event.content.get("membership")) for event in room.events.values()}
        conflicts += any(branch != branches[0] for branch in branches)
    assert conflicts > 20
    assert {("m.room.member", each) for each in ("join", "leave", "invite", "ban")} <= kinds
    assert {("m.room.power_levels", None), ("m.room.join_rules", None), ("m.room.topic", None)} <= kinds
