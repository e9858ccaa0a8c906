"""Redaction keeps exactly what the tables of each room version say."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from homeserver.protocol.redaction import redact, redact_content, redaction_target
from homeserver.protocol.versions import VERSIONS
from tests.protocol import vectors

VECTORS = vectors.read("redaction")
CONTENT = [
    pytest.param(version, case["type"], case["content"], kept["content"], id=f"{case['type']}-{version}")
    for case in VECTORS["content"]
    for kept in case["kept"]
    for version in kept["versions"]
]


@pytest.mark.parametrize(("version", "event_type", "content", "expected"), CONTENT)
def test_content(version: str, event_type: str, content: dict[str, Any], expected: dict[str, Any]) -> None:
    before = copy.deepcopy(content)
    assert redact_content(VERSIONS[version], event_type, content) == expected
    assert content == before


def test_every_version_is_in_the_vectors() -> None:
    for case in (VECTORS["top_level"], VECTORS["content"][0], VECTORS["content"][1]):
        assert {version for kept in case["kept"] for version in kept["versions"]} == set(VERSIONS)


@pytest.mark.parametrize("kept", VECTORS["top_level"]["kept"], ids=lambda kept: kept["versions"][-1])
def test_properties_of_the_event(kept: dict[str, Any]) -> None:
    event: dict[str, Any] = dict.fromkeys(VECTORS["top_level"]["properties"], "x")
    event["content"] = {"body": "secret"}
    before = copy.deepcopy(event)
    for version in kept["versions"]:
        assert redact(VERSIONS[version], event) == {**dict.fromkeys(kept["properties"], "x"), "content": {}}
        assert event == before


def test_redacting_twice_changes_nothing_more() -> None:
    for rules in VERSIONS.values():
        for case in VECTORS["content"]:
            once = redact_content(rules, case["type"], case["content"])
            assert redact_content(rules, case["type"], once) == once


@pytest.mark.parametrize(
    ("version", "event", "expected"),
    [
        ("3", {"redacts": "$a", "content": {"redacts": "$b"}}, "$a"),
        ("10", {"content": {"redacts": "$b"}}, None),
        ("11", {"redacts": "$a", "content": {"redacts": "$b"}}, "$b"),
        ("12", {"redacts": "$a", "content": {}}, None),
        ("12", {"content": {"redacts": ["$b"]}}, None),
    ],
)
def test_where_the_target_stands(version: str, event: dict[str, Any], expected: str | None) -> None:
    assert redaction_target(VERSIONS[version], event) == expected
