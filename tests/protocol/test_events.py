"""Events: built, received, stored and read back; the bytes of the federation format survive each way."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import canonicaljson
import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol import canonical, client_format, events, signing
from homeserver.protocol.errors import BadJson, InvalidSignature, TooLarge
from homeserver.protocol.event_view import EventView
from homeserver.protocol.events import Event
from homeserver.protocol.redaction import redact
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.versions import VERSIONS, RoomRules
from tests.protocol import strategies

KEY = SigningKey.generate("1")
KEYS = {KEY.key_id: KEY.verify_key}
THEIR_KEY = signedjson.key.decode_verify_key_bytes("ed25519:1", KEY.verify_key.raw)
HASH_ROOM = "!" + "r" * 43
V12 = VERSIONS["12"]
LENIENT = [rules for rules in VERSIONS.values() if not rules.strict_canonical_json]
OPAQUE = [rules for rules in VERSIONS.values() if not rules.event_id_is_hash]
OPAQUE_ID = "$143273582443PhrSn:domain"
OLD_REDACTS = [rules for rules in VERSIONS.values() if not rules.redacts_in_content]


def room_of(rules: RoomRules, event_type: str = "") -> str | None:
    if not rules.room_id_is_create_hash:
        return "!room:domain"
    return None if event_type == "m.room.create" else HASH_ROOM


def make(rules: RoomRules = V12, **other: Any) -> Event:
    arguments: dict[str, Any] = {
        "type": "m.room.message",
        "sender": "@a:domain",
        "room_id": room_of(rules, other.get("type", "")),
        "content": {"body": "hello"},
        "prev_events": ["$" + "p" * 43],
        "auth_events": ["$" + "a" * 43],
        "depth": 7,
        "origin_server_ts": 1_700_000_000_000,
        "server_name": "domain",
        "key": KEY,
        **other,
    }
    if not rules.event_id_is_hash:
        arguments.setdefault("event_id", OPAQUE_ID)
        cited = (*arguments["prev_events"], *arguments["auth_events"])
        arguments.setdefault("reference_hashes", {event_id: hash_of(event_id) for event_id in cited})
    return events.build(rules, **arguments)


def hash_of(event_id: str) -> str:
    """Some hash for an event that does not exist."""
    return signing.encode_base64(hashlib.sha256(event_id.encode()).digest())


def cited(rules: RoomRules, *event_ids: str) -> list[Any]:
    """``prev_events`` or ``auth_events`` in the format of the room version."""
    return [each if rules.event_id_is_hash else [each, {"sha256": hash_of(each)}] for each in event_ids]


def naive_event_id(rules: RoomRules, pdu: dict[str, Any]) -> str:
    """The event id in the words of the specification, by canonicaljson."""
    if not rules.event_id_is_hash:
        return str(pdu["event_id"])
    redacted = redact(rules, pdu)
    redacted.pop("signatures", None)
    digest = hashlib.sha256(canonicaljson.encode_canonical_json(redacted)).digest()
    encode = base64.b64encode if rules.version == "3" else base64.urlsafe_b64encode
    return "$" + encode(digest).decode().rstrip("=")


@st.composite
def built(draw: st.DrawFn) -> tuple[RoomRules, dict[str, Any]]:
    """A room version and what is not usual among the arguments of `make`."""
    rules = draw(strategies.VERSION)
    arguments: dict[str, Any] = {
        "type": draw(strategies.SOME_TYPES | strategies.TEXT),
        "content": draw(strategies.json_objects()),
        "state_key": draw(st.none() | strategies.TEXT),
        "sender": draw(st.sampled_from(["@a:domain", '@ü ":domain', "@:[::1]:80"])),
        "prev_events": draw(st.lists(strategies.EVENT_IDS, max_size=20)),
        "auth_events": draw(st.lists(strategies.EVENT_IDS, max_size=10)),
        "depth": draw(st.integers(0, rules.max_depth)),
        "origin_server_ts": draw(st.integers(-(2**53) + 1, 2**53 - 1)),
    }
    if arguments["type"] == "m.room.create":
        arguments["state_key"] = ""
    if arguments["type"] == "m.room.redaction":
        arguments["redacts"] = draw(st.none() | strategies.EVENT_IDS)
    return rules, arguments


@settings(max_examples=150, deadline=None)
@given(built())
def test_a_built_event_is_one_that_every_server_accepts(case: tuple[RoomRules, dict[str, Any]]) -> None:
    rules, arguments = case
    event = make(rules, **arguments)
    encoded = event.pdu_bytes()
    pdu = json.loads(encoded)
    assert encoded == canonicaljson.encode_canonical_json(pdu)
    assert event.event_id == naive_event_id(rules, pdu)
    signedjson.sign.verify_signed_json(redact(rules, pdu), "domain", THEIR_KEY)
    assert signing.content_hash_matches(rules, pdu)
    for name in ("prev_events", "auth_events"):
        assert pdu[name] == cited(rules, *arguments[name])

    received = events.from_pdu(rules, pdu)
    assert (received.event_id, received.client, received.rest) == (event.event_id, event.client, event.rest)


@settings(max_examples=150, deadline=None)
@given(built())
def test_an_event_says_what_it_was_built_from(case: tuple[RoomRules, dict[str, Any]]) -> None:
    rules, arguments = case
    built_event = make(rules, **arguments)
    for event in (built_event, events.from_stored(rules, built_event.room_id, built_event.client, built_event.rest)):
        view: EventView = event
        redacts = arguments.pop("redacts", None)
        assert event.redacts == redacts
        content = dict(arguments["content"])
        if redacts is not None and rules.redacts_in_content:
            content["redacts"] = redacts
        assert view.content == content
        for name in ("type", "state_key", "sender", "depth", "origin_server_ts", "prev_events", "auth_events"):
            assert getattr(event, name) == arguments[name], name
        assert event.is_state == (arguments["state_key"] is not None)
        assert view.room_id == (room_of(rules, arguments["type"]) or "!" + event.event_id[1:])
        assert event.signatures.keys() == {"domain"}
        assert event.pdu_bytes() == built_event.pdu_bytes()
        assert event.pdu() == json.loads(event.pdu_bytes())
        if redacts is not None:
            arguments["redacts"] = redacts


@settings(max_examples=150, deadline=None)
@given(built())
def test_the_stored_client_format(case: tuple[RoomRules, dict[str, Any]]) -> None:
    rules, arguments = case
    event = make(rules, **arguments)
    shown = json.loads(event.client + b"}")
    assert list(shown) == sorted(shown)
    redacts = arguments.get("redacts")
    expected = {
        "content": arguments["content"] if redacts is None else {**arguments["content"], "redacts": redacts},
        "event_id": event.event_id,
        "origin_server_ts": arguments["origin_server_ts"],
        "redacts": redacts,
        "sender": arguments["sender"],
        "state_key": arguments["state_key"],
        "type": arguments["type"],
    }
    content_redacts = arguments["content"].get("redacts")
    if arguments["type"] == "m.room.redaction" and rules.redacts_in_content and isinstance(content_redacts, str):
        expected["redacts"] = redacts or content_redacts
    assert shown == {key: value for key, value in expected.items() if value is not None}
    assert client_format.content_of(event.client) == canonical.encode(shown["content"])


def references(rules: RoomRules) -> st.SearchStrategy[list[Any]]:
    """``prev_events`` or ``auth_events`` as other servers may write them."""
    if rules.event_id_is_hash:
        return st.lists(strategies.EVENT_IDS, max_size=3)
    hashes = st.dictionaries(st.sampled_from(["sha256", "md5"]), strategies.TEXT, max_size=2)
    event_ids = strategies.EVENT_IDS | strategies.EVENT_IDS_WITH_DOMAIN
    return st.lists(st.tuples(event_ids, hashes).map(list), max_size=3)


@st.composite
def received(draw: st.DrawFn) -> tuple[RoomRules, dict[str, Any]]:
    """A valid event of another server, with properties that nobody asked for and, where allowed, odd numbers."""
    rules = draw(strategies.VERSION)
    numbers = strategies.INTEGERS if rules.strict_canonical_json else strategies.INTEGERS | strategies.ODD_NUMBERS
    strange = st.dictionaries(
        st.sampled_from(["origin", "prev_state", "redacts", "age_ts", "zzz", "aaa", "d", "room_alias"]),
        strategies.json_values(numbers),
        max_size=4,
    )
    event_type = draw(strategies.SOME_TYPES | strategies.TEXT)
    pdu: dict[str, Any] = {
        **draw(strange),
        "type": event_type,
        "sender": "@a:domain",
        "content": draw(strategies.json_objects(numbers)),
        "depth": draw(st.integers(0, rules.max_depth)),
        "origin_server_ts": draw(st.integers(0, 2**53 - 1)),
        "prev_events": draw(references(rules)),
        "auth_events": draw(references(rules)),
    }
    if not rules.event_id_is_hash:
        pdu["event_id"] = draw(strategies.EVENT_IDS_WITH_DOMAIN)
    if draw(st.booleans()):
        pdu["state_key"] = draw(strategies.TEXT)
    if event_type == "m.room.create":
        pdu["state_key"] = ""
    if event_type == "m.room.redaction" and not rules.redacts_in_content:
        pdu["redacts"] = draw(strategies.EVENT_IDS)
    if (room_id := room_of(rules, event_type)) is not None:
        pdu["room_id"] = room_id
    return rules, signing.sign_event(rules, pdu, "domain", KEY)


@settings(max_examples=150, deadline=None)
@given(received())
def test_what_is_received_comes_back_to_the_byte(case: tuple[RoomRules, dict[str, Any]]) -> None:
    rules, pdu = case
    event = events.from_pdu(rules, {**pdu, "unsigned": {"age": 0.5}})
    expected = canonicaljson.encode_canonical_json(pdu)
    stored = events.from_stored(rules, event.room_id, event.client, event.rest)
    assert event.pdu_bytes() == stored.pdu_bytes() == events.pdu_bytes(rules, event.client, event.rest) == expected
    assert stored.pdu() == pdu
    assert stored.content == pdu["content"]
    for name, found in (("prev_events", stored.prev_events), ("auth_events", stored.auth_events)):
        assert list(found) == [each if rules.event_id_is_hash else each[0] for each in pdu[name]]
    assert event.event_id == naive_event_id(rules, pdu) == events.event_id_of(rules, pdu)
    stored.verify("domain", KEYS)


@settings(max_examples=200, deadline=None)
@given(received())
def test_redacting_keeps_the_id_and_the_signatures(case: tuple[RoomRules, dict[str, Any]]) -> None:
    rules, pdu = case
    redacted = events.from_pdu(rules, pdu).redacted()
    assert redacted.pdu_bytes() == canonicaljson.encode_canonical_json(redact(rules, pdu))
    assert redacted.event_id == naive_event_id(rules, pdu)
    assert redacted.reference_hash == events.from_pdu(rules, pdu).reference_hash
    redacted.verify("domain", KEYS)
    again = events.from_pdu(rules, redacted.pdu())
    assert (again.event_id, again.client, again.rest) == (redacted.event_id, redacted.client, redacted.rest)


@pytest.mark.parametrize("rules", VERSIONS.values(), ids=VERSIONS)
def test_an_event_whose_content_was_changed_is_taken_redacted(rules: RoomRules) -> None:
    event = make(rules)
    changed = events.from_pdu(rules, {**event.pdu(), "content": {"body": "something else"}})
    assert changed.event_id == event.event_id
    assert changed.content == {}
    changed.verify("domain", KEYS)


def test_a_changed_sender_is_another_event_that_nobody_signed() -> None:
    event = make()
    forged = events.from_pdu(V12, {**event.pdu(), "sender": "@b:domain"})
    assert forged.event_id != event.event_id
    with pytest.raises(InvalidSignature):
        forged.verify("domain", KEYS)


@pytest.mark.parametrize("rules", VERSIONS.values(), ids=VERSIONS)
def test_where_redactions_name_their_target(rules: RoomRules) -> None:
    """spec: rooms/v11/#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property"""
    event = make(rules, type="m.room.redaction", content={"reason": "spam"}, redacts="$x")
    pdu = event.pdu()
    shown = json.loads(event.client + b"}")
    assert shown["redacts"] == shown["content"]["redacts"] == event.redacts == "$x"
    assert "redacts" not in event.server_fields, "stored twice"
    if rules.redacts_in_content:
        assert "redacts" not in pdu
        assert pdu["content"] == event.content == {"reason": "spam", "redacts": "$x"}
    else:
        assert pdu["redacts"] == "$x"
        assert pdu["content"] == event.content == {"reason": "spam"}


@pytest.mark.parametrize("rules", OLD_REDACTS, ids=lambda rules: rules.version)
def test_an_old_redaction_with_another_target_in_its_content(rules: RoomRules) -> None:
    event = make(rules, type="m.room.redaction", content={"redacts": "$other"}, redacts="$x")
    assert json.loads(event.client + b"}")["content"] == {"redacts": "$x"}
    assert event.content == event.pdu()["content"] == {"redacts": "$other"}
    assert events.from_pdu(rules, event.pdu()).event_id == event.event_id


def test_a_room_of_version_12_is_named_after_its_create_event() -> None:
    create = make(type="m.room.create", state_key="", content={"room_version": "12"}, prev_events=[], auth_events=[])
    assert "room_id" not in create.pdu()
    assert create.room_id == "!" + create.event_id[1:]
    assert events.from_pdu(V12, create.pdu()).room_id == create.room_id
    member = make(type="m.room.member", state_key="@a:domain", room_id=create.room_id, content={"membership": "join"})
    assert member.pdu()["room_id"] == member.room_id == create.room_id


def test_a_second_signature_leaves_the_first_and_the_id() -> None:
    other = SigningKey.generate("o")
    event = make(V12, type="m.room.member", state_key="@b:other", content={"membership": "invite", "reason": "x"})
    both = event.signed_too("other", other)
    assert (both.event_id, both.client, both.content) == (event.event_id, event.client, event.content)
    both.verify("domain", KEYS)
    both.verify("other", {other.key_id: other.verify_key})
    assert "other" not in event.signatures


def test_a_draft_has_neither_hashes_nor_signatures() -> None:
    pdu = events.draft(
        V12,
        type="m.room.member",
        sender="@a:domain",
        room_id=HASH_ROOM,
        content={"membership": "join"},
        state_key="@a:domain",
        prev_events=[],
        auth_events=[],
        depth=2**60,
        origin_server_ts=1,
    )
    assert pdu == {
        "type": "m.room.member",
        "sender": "@a:domain",
        "room_id": HASH_ROOM,
        "content": {"membership": "join"},
        "state_key": "@a:domain",
        "prev_events": [],
        "auth_events": [],
        "depth": 2**53 - 1,
        "origin_server_ts": 1,
    }


def test_what_the_caller_does_to_the_content_later_does_not_reach_the_event() -> None:
    content = {"body": "hello"}
    event = make(content=content)
    content["body"] = "changed"
    assert event.content == {"body": "hello"}


# -- what is refused


NUMBERS = [0.5, 1.0, 1e300, 2**53, -(2**53), 2**64]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("rules", VERSIONS.values(), ids=VERSIONS)
def test_numbers_outside_canonical_json_follow_the_room_version(rules: RoomRules, number: float) -> None:
    content = {"a": [{"b": number}]}
    pdu = {**make(rules).pdu(), "content": content, "hashes": {}, "signatures": {}}
    if rules.strict_canonical_json:
        for broken in ({"content": content}, {"content": {}, "custom": number}):
            with pytest.raises(BadJson):
                events.from_pdu(rules, {**pdu, "hashes": {"sha256": "x"}, **broken})
        with pytest.raises(BadJson):
            make(rules, content=content)
    else:
        event = events.from_pdu(rules, signing.sign_event(rules, pdu, "domain", KEY))
        assert event.content == content
        assert make(rules, content=content).content == content


def test_the_whole_event_has_at_most_65536_bytes() -> None:
    room = 65_536 - len(make(content={"body": ""}).pdu_bytes())
    largest = make(content={"body": "x" * room})
    assert len(largest.pdu_bytes()) == 65_536
    assert events.from_pdu(V12, {**largest.pdu(), "unsigned": {"more": "x" * 100}}).event_id == largest.event_id
    with pytest.raises(TooLarge):
        make(content={"body": "x" * (room + 1)})
    too_large = {**largest.pdu(), "signatures": {**largest.signatures, "other": {"ed25519:1": "AAAA"}}}
    with pytest.raises(TooLarge):
        events.from_pdu(V12, too_large)


@pytest.mark.parametrize("rules", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"type": None}, BadJson),
        ({"type": 5}, BadJson),
        ({"type": "é" * 128}, TooLarge),
        ({"type": "\ud800"}, TooLarge),
        ({"state_key": 5}, BadJson),
        ({"state_key": None}, BadJson),
        ({"state_key": "x" * 256}, TooLarge),
        ({"sender": "a"}, BadJson),
        ({"sender": "@" + "a" * 300 + ":domain"}, BadJson),
        ({"sender": None}, BadJson),
        ({"room_id": "room"}, BadJson),
        ({"room_id": 5}, BadJson),
        ({"room_id": None}, BadJson),
        ({"content": []}, BadJson),
        ({"content": None}, BadJson),
        ({"depth": -1}, BadJson),
        ({"depth": 2**63}, BadJson),
        ({"depth": "1"}, BadJson),
        ({"depth": True}, BadJson),
        ({"depth": 1.0}, BadJson),
        ({"origin_server_ts": "1"}, BadJson),
        ({"origin_server_ts": None}, BadJson),
        ({"origin_server_ts": 2**63}, BadJson),
        ({"prev_events": None}, BadJson),
        ({"prev_events": "$a"}, BadJson),
        ({"prev_events": [["$a", {"sha256": "x"}, 1]]}, BadJson),
        ({"prev_events": [["$a", "x"]]}, BadJson),
        ({"prev_events": [["$a"]]}, BadJson),
        ({"prev_events": [[]]}, BadJson),
        ({"prev_events": [["a", {"sha256": "x"}]]}, BadJson),
        ({"prev_events": ["$a", ["$a", {"sha256": "x"}]]}, BadJson),
        ({"prev_events": [{"$a": {"sha256": "x"}, "$b": {}}]}, BadJson),
        ({"prev_events": ["a"]}, BadJson),
        ({"prev_events": ["$a"] * 21}, BadJson),
        ({"prev_events": [["$a", {"sha256": "x"}]] * 21}, BadJson),
        ({"auth_events": ["$" + "a" * 255]}, BadJson),
        ({"auth_events": ["$a"] * 11}, BadJson),
        ({"auth_events": [["$a", {"sha256": "x"}]] * 11}, BadJson),
        ({"auth_events": {}}, BadJson),
        ({"hashes": None}, BadJson),
        ({"hashes": {}}, BadJson),
        ({"hashes": {"sha256": 5}}, BadJson),
        ({"signatures": None}, BadJson),
        ({"signatures": []}, BadJson),
        ({"signatures": {"domain": "x"}}, BadJson),
        ({"signatures": {"domain": {"ed25519:1": 5}}}, BadJson),
        ({"unsigned": []}, BadJson),
        ({"event_id": "$" + "e" * 43}, BadJson),
        ({"event_id": 5}, BadJson),
        ({"event_id": "x:domain"}, BadJson),
        ({"event_id": "$" + "e" * 250 + ":domain"}, BadJson),
    ],
    ids=ascii,
)
def test_the_format_is_checked(rules: RoomRules, change: dict[str, Any], error: type[Exception]) -> None:
    pdu = make(rules).pdu()
    events.from_pdu(rules, pdu)
    with pytest.raises(error):
        events.from_pdu(rules, {**pdu, **change})
    if rules.event_id_is_hash:
        change = {key: value for key, value in change.items() if key != "event_id"}
    if change and not change.keys() & {"state_key", "unsigned"}:
        with pytest.raises(BadJson):
            events.from_pdu(rules, {key: value for key, value in pdu.items() if key not in change})


def test_each_version_has_its_own_references_and_event_ids() -> None:
    for rules in VERSIONS.values():
        other = VERSIONS["1"] if rules.event_id_is_hash else V12
        pdu = make(rules).pdu()
        for change in ({"prev_events": cited(other, "$a")}, {"auth_events": cited(other, "$a")}):
            with pytest.raises(BadJson):
                events.from_pdu(rules, {**pdu, **change})
        with pytest.raises(BadJson):
            make(rules, event_id=OPAQUE_ID if rules.event_id_is_hash else None)


@pytest.mark.parametrize("rules", OPAQUE, ids=lambda rules: rules.version)
def test_references_of_the_first_versions_are_pairs(rules: RoomRules) -> None:
    """spec: rooms/v1/#event-format"""
    first = make(rules, type="m.room.create", state_key="", prev_events=[], auth_events=[], event_id="$1:domain")
    both = {first.event_id: first.reference_hash}
    second = make(rules, prev_events=["$1:domain"], auth_events=["$1:domain"], event_id="$2:domain",
                  reference_hashes=both)  # fmt: skip
    pdu = second.pdu()
    assert pdu["event_id"] == second.event_id == "$2:domain"
    assert pdu["prev_events"] == pdu["auth_events"] == [["$1:domain", {"sha256": first.reference_hash}]]
    assert list(second.prev_events) == list(second.auth_events) == ["$1:domain"]
    assert "event_id" not in second.server_fields, "stored twice"
    redacted = redact(rules, first.pdu())
    del redacted["signatures"]
    digest = hashlib.sha256(canonicaljson.encode_canonical_json(redacted)).digest()
    assert first.reference_hash == base64.b64encode(digest).decode().rstrip("=")
    with pytest.raises(KeyError):
        make(rules, prev_events=["$1:domain"], auth_events=[], reference_hashes={})


@pytest.mark.parametrize("rules", OPAQUE, ids=lambda rules: rules.version)
def test_nobody_can_give_a_signed_event_another_id(rules: RoomRules) -> None:
    forged = events.from_pdu(rules, {**make(rules).pdu(), "event_id": "$other:domain"})
    assert forged.event_id == "$other:domain"
    with pytest.raises(InvalidSignature):
        forged.verify("domain", KEYS)


def test_the_limits_themselves_are_allowed() -> None:
    event = make(
        type="x" * 255,
        state_key="é" * 127 + "x",
        prev_events=["$" + "a" * 254] * 20,
        auth_events=["$a"] * 10,
        sender="@" + "a" * 247 + ":domain",
    )
    assert events.from_pdu(V12, event.pdu()).event_id == event.event_id
    for rules in VERSIONS.values():
        assert make(rules, depth=rules.max_depth + 1).depth == rules.max_depth


def test_each_version_has_its_own_room_ids() -> None:
    for rules in VERSIONS.values():
        wrong = "!room:domain" if rules.room_id_is_create_hash else HASH_ROOM
        with pytest.raises(BadJson):
            make(rules, room_id=wrong)
        if not rules.room_id_is_create_hash:
            with pytest.raises(BadJson):
                make(rules, type="m.room.create", room_id=None)
    for state_key, room_id in (("", HASH_ROOM), (None, None), ("x", None)):
        with pytest.raises(BadJson):
            make(V12, type="m.room.create", state_key=state_key, room_id=room_id)


@pytest.mark.parametrize("rules", OLD_REDACTS, ids=lambda rules: rules.version)
@pytest.mark.parametrize("target", [5, None, {}, "\ud800"], ids=ascii)
def test_the_target_of_a_redaction_is_a_string(rules: RoomRules, target: object) -> None:
    pdu = make(rules, type="m.room.redaction", redacts="$x").pdu()
    with pytest.raises(BadJson):
        events.from_pdu(rules, {**pdu, "redacts": target})


def test_there_is_no_id_without_type_and_content() -> None:
    for pdu in ({}, {"type": "x"}, {"type": 1, "content": {}}, {"type": "x", "content": []}):
        with pytest.raises(BadJson):
            events.event_id_of(V12, pdu)
    for event_id in (None, 5, "x", "$x", "$x:"):
        with pytest.raises(BadJson):
            events.event_id_of(VERSIONS["1"], {"type": "x", "content": {}, "event_id": event_id})


JSON_OR_EVENT = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        [
            "type",
            "sender",
            "room_id",
            "content",
            "depth",
            "origin_server_ts",
            "prev_events",
            "auth_events",
            "hashes",
            "signatures",
            "unsigned",
            "state_key",
            "redacts",
            "event_id",
        ],
        strategies.json_values(strategies.INTEGERS | strategies.ODD_NUMBERS),
    ),
)


@settings(max_examples=150, deadline=None)
@given(strategies.VERSION, JSON_OR_EVENT)
def test_garbage_is_refused_and_nothing_else_happens(rules: RoomRules, garbage: dict[str, Any]) -> None:
    for pdu in (garbage, {**make(rules).pdu(), **garbage}):
        try:
            event = events.from_pdu(rules, pdu)
        except (BadJson, TooLarge):
            continue
        assert event.event_id == naive_event_id(rules, pdu)
