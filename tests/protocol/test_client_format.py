"""Answers to clients, spliced from stored bytes, read as JSON again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol import canonical, client_format
from tests.protocol import strategies

NASTY = [
    ',"event_id":"$fake',
    '","event_id":"$fake","sender":"@fake:x"',
    '\\",\\"event_id\\":\\"$fake',
    ',"sender":"@fake:x',
    "\\",
]


@st.composite
def stored(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """The stored bytes of an event, and what they mean."""
    strings = strategies.TEXT | st.sampled_from(NASTY)
    content = draw(strategies.json_objects())
    content["m.relates_to"] = {"event_id": "$other", "sender": "@other:x", draw(strings): draw(strings)}
    fields: dict[str, Any] = {
        "type": draw(strings),
        "sender": draw(strings),
        "origin_server_ts": draw(strategies.INTEGERS),
        "content": content,
    }
    if draw(st.booleans()):
        fields["state_key"] = draw(strings)
    redacts = draw(st.none() | strings)
    client = client_format.stored("$real", fields, redacts, canonical.encode(content))
    fields["event_id"] = "$real"
    if redacts is not None:
        fields["redacts"] = redacts
    return client, fields


@settings(max_examples=200, deadline=None)
@given(stored(), st.none() | st.just(b'{"age":1}'), st.none() | strategies.TEXT)
def test_a_whole_event(case: tuple[bytes, dict[str, Any]], unsigned: bytes | None, room_id: str | None) -> None:
    client, fields = case
    expected = dict(fields)
    if unsigned is not None:
        expected["unsigned"] = {"age": 1}
    if room_id is not None:
        expected["room_id"] = room_id
    assert json.loads(client_format.event(client, unsigned=unsigned, room_id=room_id)) == expected


@settings(max_examples=200, deadline=None)
@given(stored())
def test_the_parts_of_an_event(case: tuple[bytes, dict[str, Any]]) -> None:
    client, fields = case
    assert json.loads(client_format.content_of(client)) == fields["content"]
    assert client_format.after_content(client) == {key: fields[key] for key in fields if key != "content"}
    assert json.loads(client_format.stripped(client)) == {
        key: fields[key] for key in ("content", "sender", "state_key", "type") if key in fields
    }


@settings(max_examples=100, deadline=None)
@given(st.lists(stored(), max_size=3))
def test_a_list_of_events(cases: list[tuple[bytes, dict[str, Any]]]) -> None:
    assert json.loads(client_format.events(client for client, _ in cases)) == [fields for _, fields in cases]


def test_unsigned() -> None:
    assert client_format.unsigned() == b"{}"
    encoded = client_format.unsigned(
        age=-5,
        membership="join",
        transaction_id='a"b',
        replaces_state="$old",
        prev_content=b'{"name":"old"}',
        redacted_because=b'{"type":"m.room.redaction"}',
        relations=b'{"m.thread":{}}',
        invite_room_state=[b'{"type":"a"}', b'{"type":"b"}'],
        knock_room_state=[],
    )
    assert json.loads(encoded) == {
        "age": -5,
        "membership": "join",
        "transaction_id": 'a"b',
        "replaces_state": "$old",
        "prev_content": {"name": "old"},
        "redacted_because": {"type": "m.room.redaction"},
        "m.relations": {"m.thread": {}},
        "invite_room_state": [{"type": "a"}, {"type": "b"}],
        "knock_room_state": [],
    }


def test_stripped_state_of_another_server_is_pruned() -> None:
    """spec: client-server-api/#stripped-state"""
    event = {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": "n"}}
    more = {"event_id": "$a", "room_id": "!a:b", "origin_server_ts": 1, "unsigned": {}, "signatures": {}}
    encoded = client_format.stripped_from({**event, **more})
    assert encoded is not None
    assert json.loads(encoded) == event


@pytest.mark.parametrize(
    "change",
    [
        {"type": None},
        {"type": "x" * 256},
        {"state_key": None},
        {"state_key": 5},
        {"sender": "a"},
        {"content": "x"},
        {"content": {"a": "\ud800"}},
        {"content": {"a": 2**70}},
    ],
    ids=ascii,
)
def test_what_is_no_stripped_state(change: dict[str, Any]) -> None:
    event = {"type": "m.room.name", "state_key": "", "sender": "@a:b", "content": {"name": "n"}}
    assert client_format.stripped_from(event) is not None
    assert client_format.stripped_from({**event, **change}) is None
    assert client_format.stripped_from([event]) is None
