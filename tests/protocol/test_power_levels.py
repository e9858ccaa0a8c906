"""Power levels: effective levels by version, and what may be changed in them.

spec: client-server-api/#mroompower_levels, rooms/v12/#authorisation-rules
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.power_levels import UNLIMITED, Levels, is_creator, parse_level
from homeserver.protocol.versions import MAX_INTEGER, VERSIONS
from tests.protocol.rooms import ALICE, BOB, CAROL, DAVE, Branch, Room, Sent
from tests.protocol.strategies import json_objects, json_values

ALL = list(VERSIONS)
LEGACY = [version for version, rules in VERSIONS.items() if not rules.integer_power_levels]


def levels(version: str, content: Mapping[str, Any] | None, **create: Any) -> Levels:
    room = Room(version, create_content=create)
    room.start()
    event = None if content is None else Sent("$p", room.create.room_id, "m.room.power_levels", ALICE, content, "")
    return Levels(room.rules, room.create, event)


@pytest.mark.parametrize("version", ALL)
def test_without_an_event_the_creator_has_power(version: str) -> None:
    found = levels(version, None)
    assert found.of(ALICE) == (UNLIMITED if version == "12" else 100)
    assert found.of(BOB) == 0
    assert (found.invite, found.kick, found.ban, found.redact) == (0, 50, 50, 50)
    assert found.to_send("m.room.topic", is_state=True) == 50
    assert found.to_send("m.room.message", is_state=False) == 0
    assert found.to_notify("room") == 50


@pytest.mark.parametrize("version", ALL)
def test_an_empty_event_takes_the_creator_s_power_unless_it_is_unlimited(version: str) -> None:
    found = levels(version, {})
    assert found.of(ALICE) == (UNLIMITED if version == "12" else 0)
    assert found.to_send("m.room.topic", is_state=True) == 50


@pytest.mark.parametrize("version", ALL)
def test_what_the_event_says_holds(version: str) -> None:
    found = levels(
        version,
        {
            "users": {BOB: 60},
            "users_default": 5,
            "events": {"m.room.topic": 10, "m.room.message": 20},
            "events_default": 3,
            "state_default": 40,
            "notifications": {"room": 70},
            "ban": 1,
            "kick": 2,
            "invite": 4,
            "redact": 6,
        },
    )
    assert (found.of(BOB), found.of(CAROL)) == (60, 5)
    assert found.to_send("m.room.topic", is_state=True) == 10
    assert found.to_send("m.room.message", is_state=False) == 20
    assert found.to_send("m.room.name", is_state=True) == 40
    assert found.to_send("m.reaction", is_state=False) == 3
    assert (found.ban, found.kick, found.invite, found.redact, found.to_notify("room")) == (1, 2, 4, 6, 70)


@pytest.mark.parametrize("version", ALL)
def test_the_creator_is_who_the_version_says(version: str) -> None:
    found = levels(version, None, creator=CAROL)
    by_content = VERSIONS[version].create_has_creator
    assert (found.of(CAROL) > 0) == by_content
    assert (found.of(ALICE) > 0) == (not by_content)


def test_additional_creators_are_unlimited_and_cannot_be_listed_below() -> None:
    found = levels("12", {"users": {BOB: 10}}, additional_creators=[BOB])
    assert found.of(BOB) == found.of(ALICE) == UNLIMITED > MAX_INTEGER
    assert levels("11", {}, additional_creators=[BOB]).of(BOB) == 0


@pytest.mark.parametrize("broken", ["@alice:a.example", None, 5, {"@bob:b.example": 1}, [1, None]])
def test_broken_additional_creators_name_nobody(broken: object) -> None:
    create = Sent("$create", "!create", "m.room.create", ALICE, {"additional_creators": broken}, "")
    assert is_creator(create, ALICE)
    assert not is_creator(create, BOB)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        *(("100", 100), ("000100", 100), ("+100", 100), ("-100", -100), (" 100 ", 100), (" 00100 ", 100), ("0", 0)),
        *((" +100 ", 100), (" -100\t\n", -100), (str(MAX_INTEGER), MAX_INTEGER), ("0" * 5000 + "7", 7), ("-0", 0)),
        *(("", None), ("1.0", None), ("1e3", None), ("+", None), ("- 1", None), ("1_000", None), ("0x10", None)),
        *(("١٢", None), (str(MAX_INTEGER + 1), None), ("9" * 5000, None), ("1 0", None), ("--1", None)),
    ],
)
@pytest.mark.parametrize("version", ALL)
def test_strings_are_levels_in_old_versions(version: str, text: str, level: int | None) -> None:
    assert parse_level(VERSIONS[version], text) == (level if version in LEGACY else None)


@pytest.mark.parametrize("version", ALL)
def test_floats_are_levels_where_json_is_not_canonical(version: str) -> None:
    rules = VERSIONS[version]
    assert parse_level(rules, 51146.98) == (None if rules.strict_canonical_json else 51146)
    assert parse_level(rules, -1.9) == (None if rules.strict_canonical_json else -1)
    assert parse_level(rules, float("inf")) is None


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("value", [True, False, None, [], {}, [1]])
def test_nothing_else_is_a_level(version: str, value: object) -> None:
    assert parse_level(VERSIONS[version], value) is None


@given(st.sampled_from(ALL), json_objects() | st.fixed_dictionaries({"users": json_values(), "events": json_values()}))
def test_reading_never_fails(version: str, content: dict[str, Any]) -> None:
    found = levels(version, content)
    read = [found.of(BOB), found.to_send("x", is_state=True), found.to_notify("room"), found.invite, found.redact]
    assert all(type(level) is int for level in read)


# -- changes


def room_of(version: str, **power: Any) -> tuple[Room, Branch]:
    """Alice (100 or creator), Bob (50) and Carol (50) have joined; all may send power levels from 50 on."""
    room = Room(version)
    power.setdefault("events", {"m.room.power_levels": 50, "m.room.name": 50, "m.room.avatar": 60})
    branch = room.opened(users={BOB: 50, CAROL: 50, DAVE: 60}, **power)
    for user in (BOB, CAROL):
        branch = room.member(branch, user, "join")
    return room, branch


def changed(room: Room, branch: Branch, path: str, value: object) -> dict[str, Any]:
    """The present power levels with one entry changed, or removed if ``value`` is None."""
    content: dict[str, Any] = {
        key: dict(entry) if isinstance(entry, dict) else entry
        for key, entry in room.events[branch[("m.room.power_levels", "")]].content.items()
    }
    *parents, last = path.split("/")
    table = content
    for name in parents:
        table = table.setdefault(name, {})
    if value is None:
        del table[last]
    else:
        table[last] = value
    return content


def by_bob(version: str, path: str, value: object, **power: Any) -> bool:
    room, branch = room_of(version, **power)
    return room.allows(branch, BOB, "m.room.power_levels", changed(room, branch, path, value))


@pytest.mark.parametrize("version", ["3", "6", "9", "10", "11", "12"])
@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("kick", 50, True),  # added, not above Bob
        ("kick", 51, False),
        ("kick", -5, True),
        ("ban", 40, True),  # 45 before
        ("ban", None, True),
        ("ban", 51, False),
        ("redact", 10, False),  # 70 before
        ("redact", None, False),
        ("users_default", 1, True),
        ("users_default", 51, False),
        ("state_default", 50, True),
        ("events_default", 51, False),
        ("invite", 51, False),
        ("events/m.room.name", 20, True),
        ("events/m.room.name", None, True),
        ("events/m.room.topic", 50, True),
        ("events/m.room.topic", 51, False),
        ("events/m.room.avatar", 20, False),  # 60 before
        ("events/m.room.avatar", None, False),
        (f"users/{BOB}", 20, True),  # himself
        (f"users/{BOB}", None, True),
        (f"users/{BOB}", 51, False),
        (f"users/{CAROL}", 20, False),  # his equal
        (f"users/{CAROL}", None, False),
        (f"users/{DAVE}", 20, False),  # above him
        ("users/@new:d.example", 50, True),
        ("users/@new:d.example", 51, False),
    ],
)
def test_nobody_reaches_above_themselves(version: str, path: str, value: object, allowed: bool) -> None:
    assert by_bob(version, path, value, ban=45, redact=70) == allowed


@pytest.mark.parametrize("version", ALL)
def test_a_level_above_the_sender_may_stay_as_it_is(version: str) -> None:
    room, branch = room_of(version, redact=70)
    same = room.events[branch[("m.room.power_levels", "")]].content
    assert room.allows(branch, BOB, "m.room.power_levels", same)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(("value", "legal"), [(50, True), (51, False)])
def test_notifications_are_checked_from_version_6_on(version: str, value: int, legal: bool) -> None:
    checked = VERSIONS[version].notification_levels_checked
    assert by_bob(version, "notifications/room", value) == (legal or not checked)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    "part", ["kick", "ban", "invite", "redact", "users_default", "events_default", "state_default"]
)
@pytest.mark.parametrize("value", ["50", True, [], "x", {}])
def test_integers_are_demanded_from_version_10_on(version: str, part: str, value: object) -> None:
    room = Room(version)
    branch = room.member(room.start(), ALICE, "join")
    assert room.allows(branch, ALICE, "m.room.power_levels", {part: value}) == (version in LEGACY)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("part", ["events", "notifications"])
@pytest.mark.parametrize("value", [{"a": "5"}, {"a": None}, [], 7, "x"])
def test_tables_of_integers_are_demanded_from_version_10_on(version: str, part: str, value: object) -> None:
    room = Room(version)
    branch = room.member(room.start(), ALICE, "join")
    assert room.allows(branch, ALICE, "m.room.power_levels", {part: value}) == (version in LEGACY)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("users", "allowed"),
    [
        ({}, ALL),
        ({BOB: 5}, ALL),
        ({"@HISTORICAL user:b.example": 5}, ALL),
        ({BOB: "5"}, LEGACY),
        ({BOB: " -05 "}, LEGACY),
        ({BOB: "five"}, []),
        ({BOB: None}, []),
        ({BOB: True}, []),
        ({"bob": 5}, []),
        ({"@bob": 5}, []),
        ({"@bob:": 5}, []),
        ({"@bob:bad domain": 5}, []),
        ([], []),
        (None, []),
        ("x", []),
    ],
)
def test_users_are_a_table_of_user_ids_and_levels(version: str, users: object, allowed: list[str]) -> None:
    room = Room(version)
    branch = room.member(room.start(), ALICE, "join")
    assert room.allows(branch, ALICE, "m.room.power_levels", {"users": users}) == (version in allowed)


@pytest.mark.parametrize("version", LEGACY)
def test_the_same_level_written_otherwise_is_no_change(version: str) -> None:
    assert by_bob(version, f"users/{CAROL}", "050")
    assert by_bob(version, "redact", "+70", redact=70)


@pytest.mark.parametrize(("user", "allowed"), [(ALICE, False), (DAVE, False), (BOB, True)])
def test_creators_are_not_listed_where_they_are_unlimited(user: str, allowed: bool) -> None:
    room = Room("12", create_content={"additional_creators": [DAVE]})
    branch = room.member(room.start(), ALICE, "join")
    assert room.allows(branch, ALICE, "m.room.power_levels", {"users": {user: 100}}) == allowed


def test_creators_change_everything() -> None:
    room, branch = room_of("12", redact=MAX_INTEGER)
    assert room.allows(branch, ALICE, "m.room.power_levels", {"users": {BOB: MAX_INTEGER}, "redact": -MAX_INTEGER})
