"""Authorisation of all other events, the selection of auth events, and redactions.

spec: rooms/v12/#authorisation-rules, server-server-api/#auth-events-selection
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.auth_rules import Rejected, auth_types_for, check, check_auth_events, may_redact
from homeserver.protocol.event_view import CREATE, JOIN_RULES, POWER_LEVELS, StateKey
from homeserver.protocol.events import Event, build
from homeserver.protocol.membership_rules import AUTHORISED_VIA
from homeserver.protocol.resolution import resolve
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.versions import VERSIONS
from tests.protocol.rooms import ALICE, BOB, CAROL, EVE, Branch, Room, Sent
from tests.protocol.strategies import json_objects

ALL = list(VERSIONS)
DOMAIN_ROOMS = [version for version, rules in VERSIONS.items() if not rules.room_id_is_create_hash]


def member(user: str) -> StateKey:
    return ("m.room.member", user)


# -- selection

SELECTED = [
    ("m.room.create", ALICE, {}, "", None),
    ("m.room.message", ALICE, {}, None, {member(ALICE)}),
    ("m.room.topic", ALICE, {}, "", {member(ALICE)}),
    ("m.room.power_levels", ALICE, {}, "", {member(ALICE)}),
    ("m.room.member", BOB, {"membership": "join"}, BOB, {member(BOB), JOIN_RULES}),
    ("m.room.member", ALICE, {"membership": "invite"}, BOB, {member(ALICE), member(BOB), JOIN_RULES}),
    ("m.room.member", BOB, {"membership": "knock"}, BOB, {member(BOB), JOIN_RULES}),
    ("m.room.member", ALICE, {"membership": "leave"}, BOB, {member(ALICE), member(BOB)}),
    ("m.room.member", ALICE, {"membership": "ban"}, BOB, {member(ALICE), member(BOB)}),
    ("m.room.member", ALICE, {"membership": ["join"]}, BOB, {member(ALICE), member(BOB)}),
    ("m.room.member", ALICE, {"membership": "ban"}, None, {member(ALICE)}),
    (
        *("m.room.member", ALICE, {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}}, BOB),
        {member(ALICE), member(BOB), JOIN_RULES, ("m.room.third_party_invite", "t")},
    ),
    (
        *("m.room.member", ALICE, {"membership": "ban", "third_party_invite": {"signed": {"token": "t"}}}, BOB),
        {member(ALICE), member(BOB)},
    ),
]


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(("event_type", "sender", "content", "state_key", "selected"), SELECTED)
def test_selection(
    version: str, event_type: str, sender: str, content: Any, state_key: str | None, selected: set[StateKey] | None
) -> None:
    rules = VERSIONS[version]
    found = auth_types_for(rules, Sent("$", "!", event_type, sender, content, state_key))
    always = {POWER_LEVELS, CREATE} if rules.create_in_auth_events else {POWER_LEVELS}
    assert set(found) == (set() if selected is None else selected | always)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("version", ALL)
def test_selection_of_who_admits_a_restricted_join(version: str) -> None:
    rules = VERSIONS[version]
    for membership, via, expected in (
        ("join", CAROL, rules.restricted_join),
        ("leave", CAROL, False),
        ("join", [CAROL], False),
    ):
        content = {"membership": membership, AUTHORISED_VIA: via}
        found = auth_types_for(rules, Sent("$", "!", "m.room.member", BOB, content, BOB))
        assert (member(CAROL) in found) == expected


# -- the auth events that an event cites


def cited_by_topic(version: str) -> tuple[Room, Branch, Sent, list[Sent]]:
    room = Room(version)
    branch = room.opened()
    topic = room.draft(branch, ALICE, "m.room.topic")
    return room, branch, topic, [room.events[each] for each in topic.auth_events]


@pytest.mark.parametrize("version", ALL)
def test_what_was_selected_may_be_cited(version: str) -> None:
    room, _, topic, cited = cited_by_topic(version)
    check_auth_events(room.rules, topic, cited)
    check_auth_events(room.rules, topic, cited, rejected={"$other"})


@pytest.mark.parametrize("version", ALL)
def test_nothing_else_may_be_cited(version: str) -> None:
    room, branch, topic, cited = cited_by_topic(version)
    message = replace(cited[0], event_id="$message", type="m.room.message", state_key=None)
    for other in (room.events[branch[JOIN_RULES]], replace(cited[-1], state_key=BOB), message):
        with pytest.raises(Rejected, match="does not bear on it"):
            check_auth_events(room.rules, topic, [*cited, other])


@pytest.mark.parametrize("version", ALL)
def test_no_place_is_cited_twice(version: str) -> None:
    room, _, topic, cited = cited_by_topic(version)
    for again in (cited[-1], replace(cited[-1], event_id="$again")):
        with pytest.raises(Rejected, match="two events"):
            check_auth_events(room.rules, topic, [*cited, again])


@pytest.mark.parametrize("version", ALL)
def test_what_was_rejected_is_not_cited(version: str) -> None:
    room, _, topic, cited = cited_by_topic(version)
    with pytest.raises(Rejected, match="was rejected"):
        check_auth_events(room.rules, topic, cited, rejected={cited[-1].event_id})


@pytest.mark.parametrize("version", ALL)
def test_other_rooms_are_not_cited(version: str) -> None:
    room, _, topic, cited = cited_by_topic(version)
    with pytest.raises(Rejected, match="another room"):
        check_auth_events(room.rules, topic, [*cited[:-1], replace(cited[-1], room_id="!other")])


@pytest.mark.parametrize("version", ALL)
def test_create_is_cited_where_the_room_id_does_not_imply_it(version: str) -> None:
    room, _, topic, cited = cited_by_topic(version)
    without = [each for each in cited if each.type != "m.room.create"]
    if room.rules.create_in_auth_events:
        with pytest.raises(Rejected, match="does not cite"):
            check_auth_events(room.rules, topic, without)
    else:
        with pytest.raises(Rejected, match="does not bear on it"):
            check_auth_events(room.rules, topic, [*without, room.create])


# -- m.room.create


def first(version: str, **other: Any) -> Sent:
    room = Room(version)
    room.start()
    content = other.pop("content", {})
    return replace(room.create, **{"content": {**room.create.content, **content}, **other})


def verdict(version: str, event: Sent) -> bool:
    try:
        check(VERSIONS[version], event, {})
    except Rejected:
        return False
    return True


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("change", "versions"),
    [
        ({}, ALL),
        ({"prev_events": ["$x"]}, []),
        ({"sender": BOB}, ["12"]),
        ({"sender": EVE}, ALL),  # of the same server
        ({"room_id": "!other:a.example"}, DOMAIN_ROOMS),
        ({"room_id": "!elsewhere"}, []),
        ({"content": {"room_version": "no such"}}, []),
        ({"content": {"room_version": 11}}, []),
        ({"content": {"room_version": ["11"]}}, []),
        ({"content": {"m.federate": False}}, ALL),
        ({"content": {"additional_creators": [BOB, CAROL]}}, ALL),
        ({"content": {"additional_creators": []}}, ALL),
        ({"content": {"additional_creators": BOB}}, DOMAIN_ROOMS),
        ({"content": {"additional_creators": ["bob"]}}, DOMAIN_ROOMS),
        ({"content": {"additional_creators": [5]}}, DOMAIN_ROOMS),
        ({"content": {"additional_creators": None}}, DOMAIN_ROOMS),
    ],
)
def test_create(version: str, change: dict[str, Any], versions: list[str]) -> None:
    assert verdict(version, first(version, **change)) == (version in versions)


@pytest.mark.parametrize("version", ALL)
def test_create_names_its_creator_in_old_versions(version: str) -> None:
    without = {key: value for key, value in first(version).content.items() if key != "creator"}
    event = replace(first(version), content=without)
    assert verdict(version, event) == (not VERSIONS[version].create_has_creator)
    unversioned = replace(event, content={"creator": ALICE})
    assert verdict(version, unversioned)


# -- all other events


@pytest.mark.parametrize("version", ALL)
def test_a_room_begins_with_create(version: str) -> None:
    room = Room(version)
    branch = room.opened()
    message = room.draft(branch, ALICE, "m.room.message", state_key=None)
    state = room.state(branch)
    check(room.rules, message, state)
    with pytest.raises(Rejected, match="has no"):
        check(room.rules, message, {place: event for place, event in state.items() if place != CREATE})
    with pytest.raises(Rejected, match="another room"):
        check(room.rules, replace(message, room_id="!other:a.example"), state)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(("federate", "allowed"), [(True, True), (False, False), ("false", True), (None, True)])
def test_a_room_that_does_not_federate(version: str, federate: object, allowed: bool) -> None:
    room = Room(version, create_content={"m.federate": federate})
    branch = room.opened()
    assert room.allows_member(branch, BOB, "join") == allowed
    assert room.allows_member(branch, EVE, "join")


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("membership", "allowed"), [("join", True), ("leave", False), ("invite", False), ("ban", False), (None, False)]
)
@pytest.mark.parametrize("state_key", [None, ""])
def test_only_members_send(version: str, membership: str | None, allowed: bool, state_key: str | None) -> None:
    room = Room(version)
    branch = room.opened(state_default=0)
    if membership in ("join", "leave"):
        branch = room.member(branch, BOB, "join")
    if membership == "leave":
        branch = room.member(branch, BOB, "leave")
    elif membership in ("invite", "ban"):
        branch = room.member(branch, ALICE, membership, BOB)
    assert room.allows(branch, BOB, "org.example.thing", {}, state_key) == allowed


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("event_type", "state_key", "needed"),
    [("m.a", None, 10), ("m.a", "", 10), ("m.b", None, 20), ("m.b", "", 30), ("m.room.redaction", None, 40)],
)
def test_sending_needs_the_level_of_the_type(version: str, event_type: str, state_key: str | None, needed: int) -> None:
    for level in (needed - 1, needed):
        room = Room(version)
        events = {"m.a": 10, "m.room.redaction": 40}
        branch = room.opened(users={BOB: level}, events=events, events_default=20, state_default=30)
        branch = room.member(branch, BOB, "join")
        assert room.allows(branch, BOB, event_type, {}, state_key, redacts="$1") == (level == needed)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("state_key", "allowed"),
    [(BOB, True), (ALICE, False), ("@", False), ("", True), (f"_{ALICE}", True), ("b.example", True)],
)
def test_state_of_a_user_is_their_own(version: str, state_key: str, allowed: bool) -> None:
    room = Room(version)
    branch = room.member(room.opened(state_default=0), BOB, "join")
    assert room.allows(branch, BOB, "org.example.state", {}, state_key) == allowed


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(("level", "allowed"), [(9, False), (10, True)])
def test_third_party_invites_need_the_invite_level_only(version: str, level: int, allowed: bool) -> None:
    room = Room(version)
    events = {"m.room.third_party_invite": 90}
    branch = room.member(room.opened(users={BOB: level}, invite=10, events=events), BOB, "join")
    assert room.allows(branch, BOB, "m.room.third_party_invite", {}, "@token") == allowed


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("sender", "state_key", "by_domain", "as_state"),
    [
        (ALICE, "a.example", True, True),
        (ALICE, "b.example", False, True),
        (ALICE, None, False, True),
        (EVE, "a.example", True, False),  # who is not in the room
        (BOB, "b.example", True, False),
        (ALICE, "@x:a.example", False, False),
    ],
)
def test_aliases_were_the_server_s(
    version: str, sender: str, state_key: str | None, by_domain: bool, as_state: bool
) -> None:
    room = Room(version)
    allowed = room.allows(room.opened(), sender, "m.room.aliases", {}, state_key)
    assert allowed == (by_domain if VERSIONS[version].aliases_rule else as_state)


@given(st.sampled_from(ALL), json_objects(), st.sampled_from(["", ALICE, BOB, None]))
def test_no_content_makes_the_rules_stumble(version: str, content: dict[str, Any], state_key: str | None) -> None:
    room = Room(version)
    branch = room.opened(state_default=0)
    for event_type in ("m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.third_party_invite"):
        event = room.draft(branch, ALICE, event_type, {**content, "membership": "invite"}, state_key)
        room.verdict(branch, event)
        place = (event_type, "" if state_key is None else state_key)
        after = {**room.state(branch), place: replace(event, state_key=place[1])}
        for other in (room.draft(branch, BOB, "m.room.member", {"membership": "join"}, BOB), event):
            with suppress(Rejected):
                check(room.rules, other, after)


# -- the real thing


@pytest.mark.parametrize("version", ALL)
def test_events_that_were_built_pass_and_resolve(version: str) -> None:
    rules = VERSIONS[version]
    key = SigningKey.generate("0")
    state: dict[StateKey, Event] = {}
    last: list[str] = []
    hashes: dict[str, str] = {}

    def send(event_type: str, content: dict[str, Any], state_key: str | None) -> Event:
        is_create = event_type == "m.room.create"
        implied = is_create and rules.room_id_is_create_hash
        room_id = None if implied else state[CREATE].room_id if state else "!room:a.example"
        place = Sent("$", "!", event_type, ALICE, content, state_key)
        auth_events = [state[each].event_id for each in auth_types_for(rules, place) if each in state]
        opaque: dict[str, Any] = {}
        if not rules.event_id_is_hash:
            opaque["event_id"] = f"${len(hashes)}:a.example"
            opaque["reference_hashes"] = hashes
        event = build(
            rules,
            type=event_type,
            sender=ALICE,
            room_id=room_id,
            content=content,
            state_key=state_key,
            prev_events=list(last),
            auth_events=auth_events,
            depth=len(hashes) + 1,
            origin_server_ts=1,
            server_name="a.example",
            key=key,
            **opaque,
        )
        hashes[event.event_id] = event.reference_hash
        cited = [each for each in state.values() if each.event_id in event.auth_events]
        check_auth_events(rules, event, cited)
        check(rules, event, state)
        last[:] = [event.event_id]
        if state_key is not None:
            state[(event_type, state_key)] = event
        return event

    send("m.room.create", {"room_version": version, "creator": ALICE}, "")
    send("m.room.member", {"membership": "join"}, ALICE)
    send("m.room.power_levels", {"users": {} if rules.creators_unlimited else {ALICE: 100}}, "")
    send("m.room.message", {"body": "hello"}, None)
    events = {event.event_id: event for event in state.values()}
    before = {place: event.event_id for place, event in state.items()}
    topic = send("m.room.topic", {"topic": "t"}, "")
    events[topic.event_id] = topic
    after = {**before, ("m.room.topic", ""): topic.event_id}
    assert resolve(rules, [before, after], events) == after


# -- redactions


@pytest.mark.parametrize("version", ALL)
def test_a_redaction_is_authorised_like_any_event(version: str) -> None:
    room = Room(version)
    branch = room.member(room.opened(redact=50), BOB, "join")
    assert room.allows(branch, BOB, "m.room.redaction", {}, None, redacts="$1")


@pytest.mark.parametrize("version", [each for each in ALL if not VERSIONS[each].redaction_rule])
@pytest.mark.parametrize(
    ("sender", "redacted_sender", "allowed"),
    [(BOB, BOB, True), (BOB, ALICE, False), (EVE, ALICE, True), (ALICE, BOB, True), (CAROL, BOB, True)],
)
def test_redactions_are_applied_by_level_or_server(
    version: str, sender: str, redacted_sender: str, allowed: bool
) -> None:
    room = Room(version)
    branch = room.opened(users={CAROL: 60, BOB: 59}, redact=60)
    assert may_redact(room.rules, sender, redacted_sender, room.state(branch)) == allowed


@pytest.mark.parametrize("version", [each for each in ALL if VERSIONS[each].redaction_rule])
@pytest.mark.parametrize(
    ("level", "redacts", "allowed"),
    [
        (50, "$1:a.example", True),
        (49, "$1:a.example", False),
        (0, "$1:b.example", True),
        (0, "$1:b.example:8448", False),
        (50, None, True),
        (0, None, False),
    ],
)
def test_where_the_rules_decide_on_redactions(version: str, level: int, redacts: str | None, allowed: bool) -> None:
    """spec: rooms/v1/#authorisation-rules (11)"""
    room = Room(version)
    branch = room.member(room.opened(users={BOB: level}), BOB, "join")
    event = room.draft(branch, BOB, "m.room.redaction", {}, None, event_id="$r:b.example", redacts=redacts)
    assert (room.verdict(branch, event) is None) == allowed
    assert may_redact(room.rules, BOB, ALICE, room.state(branch)), "what was authorised takes effect"
