"""The table of room versions, against the feature matrix and the introductions of the specification."""

from __future__ import annotations

from dataclasses import fields

import pytest

from homeserver.protocol import versions
from homeserver.protocol.errors import UnsupportedRoomVersion
from homeserver.protocol.versions import VERSIONS, EventIdFormat, StateResolution

FIRST_WITH: dict[str, dict[str, object]] = {
    "event_id_format": {"1": EventIdFormat.OPAQUE, "3": EventIdFormat.HASH, "4": EventIdFormat.URL_SAFE_HASH},
    "max_depth": {"1": 2**63 - 1, "6": 2**53 - 1},
    "strict_canonical_json": {"1": False, "6": True},
    "room_id_is_create_hash": {"1": False, "12": True},
    "redacts_in_content": {"1": False, "11": True},
    "event_id_domain_signs": {"1": True, "3": False},
    "key_validity_enforced": {"1": False, "5": True},
    "state_resolution": {"1": StateResolution.V1, "2": StateResolution.V2, "12": StateResolution.V2_1},
    "redaction_keeps_aliases": {"1": True, "6": False},
    "redaction_keeps_historical_keys": {"1": True, "11": False},
    "redaction_keeps_allow": {"1": False, "8": True},
    "redaction_keeps_join_authorisation": {"1": False, "9": True},
    "redaction_keeps_create_content": {"1": False, "11": True},
    "redaction_keeps_invite_level": {"1": False, "11": True},
    "redaction_keeps_third_party_signed": {"1": False, "11": True},
    "create_has_creator": {"1": True, "11": False},
    "creators_unlimited": {"1": False, "12": True},
    "previews_are_events": {"1": False, "12": True},
    "create_in_auth_events": {"1": True, "12": False},
    "aliases_rule": {"1": True, "6": False},
    "redaction_rule": {"1": True, "3": False},
    "notification_levels_checked": {"1": False, "6": True},
    "integer_power_levels": {"1": False, "10": True},
    "knock": {"1": False, "7": True},
    "restricted_join": {"1": False, "8": True},
    "knock_restricted": {"1": False, "10": True},
}
"""Flag -> version -> value that holds from this version on."""


def test_versions_1_to_12_are_supported_and_stable() -> None:
    assert list(VERSIONS) == [str(number) for number in range(1, 13)]
    assert set(VERSIONS) == versions.SUPPORTED
    assert dict(versions.STABILITY) == dict.fromkeys(VERSIONS, "stable")
    assert all(rules.version == version for version, rules in VERSIONS.items())


def test_every_flag_is_in_the_history() -> None:
    assert {field.name for field in fields(versions.RoomRules)} - {"version", "stable"} == set(FIRST_WITH)


@pytest.mark.parametrize("flag", FIRST_WITH)
def test_each_flag_changes_where_the_specification_says(flag: str) -> None:
    expected: object = None
    for version, rules in VERSIONS.items():
        expected = FIRST_WITH[flag].get(version, expected)
        assert getattr(rules, flag) == expected, version


def test_rules_are_found_by_version() -> None:
    assert versions.rules_of("11") is VERSIONS["11"]
    assert versions.rules_of_create({"room_version": "6"}) is VERSIONS["6"]


@pytest.mark.parametrize("version", ["", "0", "13", "org.example", 12, None, ["12"], {}])
def test_other_versions_are_refused(version: object) -> None:
    with pytest.raises(UnsupportedRoomVersion):
        versions.rules_of(version)
    with pytest.raises(UnsupportedRoomVersion):
        versions.rules_of_create({"room_version": version})


def test_a_room_without_a_version_is_of_the_first() -> None:
    assert versions.rules_of_create({}) is VERSIONS["1"]
