"""How long an event is sticky, as it is built, received and kept."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol import client_format, events, stickiness
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.versions import rules_of

KEY = SigningKey("k1", b"1" * 32)
MINUTE = 60_000


def built(version: str, **more: Any) -> events.Event:
    rules = rules_of(version)
    return events.build(
        rules,
        type="m.room.encrypted",
        sender="@alice:example.org",
        room_id="!r:example.org" if not rules.room_id_is_create_hash else "!" + "A" * 43,
        content={"msc4354_sticky": {"duration_ms": 7}, "event_id": '","event_id":"', "sticky_key": "k"},
        prev_events=[],
        auth_events=[],
        depth=5,
        origin_server_ts=1_000_000,
        server_name="example.org",
        key=KEY,
        event_id=None if rules.event_id_is_hash else "$e:example.org",
        **more,
    )


@pytest.mark.parametrize("version", ["1", "6", "12"])
def test_an_event_keeps_how_long_it_lasts(version: str) -> None:
    event = built(version, sticky_ms=MINUTE)
    assert client_format.sticky_ms(event.client) == MINUTE
    assert event.pdu()["msc4354_sticky"] == {"duration_ms": MINUTE}
    again = events.from_pdu(event.rules, event.pdu())
    assert (again.event_id, again.client, again.pdu_bytes()) == (event.event_id, event.client, event.pdu_bytes())
    event.verify("example.org", {KEY.key_id: KEY.verify_key})
    assert client_format.content_of(event.client).startswith(b'{"event_id":')
    assert client_format.sticky_ms(event.redacted().client) is None
    assert event.redacted().event_id == event.event_id


def test_what_only_looks_like_it_is_not_sticky() -> None:
    assert client_format.sticky_ms(built("12").client) is None


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ({"duration_ms": 0}, 0),
        ({"duration_ms": MINUTE, "more": {"event_id": "$x", "sender": "@x:y"}}, MINUTE),
        ({"duration_ms": 3_600_001}, 3_600_000),
        ({"duration_ms": -1}, None),
        ({"duration_ms": True}, None),
        ({"duration_ms": 1.5}, None),
        ({"duration_ms": "60000"}, None),
        ({}, None),
        ([], None),
        (None, None),
        (MINUTE, None),
    ],
)
def test_clients_see_a_number_or_nothing(field: Any, shown: int | None) -> None:
    expected = None if shown is None else {"duration_ms": shown}
    assert stickiness.as_shown({stickiness.FIELD: field}) == expected
    assert stickiness.as_shown({}) is None


def test_it_lasts_from_when_it_was_sent_or_came() -> None:
    assert stickiness.expiry(MINUTE, 1000, 5000) == 1000 + MINUTE
    assert stickiness.expiry(MINUTE, 9_999_999_999, 5000) == 5000 + MINUTE
    assert stickiness.expiry(2 * stickiness.LONGEST_MS, 1000, 5000) == 1000 + stickiness.LONGEST_MS
