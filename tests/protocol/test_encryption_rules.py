"""Plaintext is refused, ciphertext is not. spec: client-server-api/#end-to-end-encryption"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.protocol.encryption_rules import (
    IN_CLEAR,
    MEGOLM,
    is_encrypted,
    is_megolm_message,
    is_plaintext,
    refuse_plaintext,
    refuse_redaction,
    refuse_weaker_encryption,
)
from homeserver.protocol.errors import PlaintextRefused
from homeserver.protocol.signing import encode_base64
from tests.protocol.strategies import json_objects, json_values

KEY = encode_base64(bytes(range(32)))
WEEK = 604_800_000


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes((low | 0x80,)) + varint(rest) if rest else bytes((low,))


def megolm(length: int = 160, index: int = 0) -> str:
    body = b"\x03\x08" + varint(index) + b"\x12" + varint(length) + os.urandom(length)
    return encode_base64(body + os.urandom(8 + 64))


def ciphertext(**other: Any) -> dict[str, Any]:
    content = {"algorithm": MEGOLM, "ciphertext": megolm(), "session_id": KEY, **other}
    return {key: value for key, value in content.items() if value is not ...}


# -- ciphertext


@pytest.mark.parametrize(
    "content",
    [
        ciphertext(),
        ciphertext(sender_key=KEY, device_id="ABCDEFG"),
        ciphertext(**{"m.relates_to": {"rel_type": "m.replace", "event_id": "$e"}}),
        ciphertext(**{"m.relates_to": {"m.in_reply_to": {"event_id": "$e"}}}),
        ciphertext(
            **{
                "m.relates_to": {
                    "rel_type": "m.thread",
                    "event_id": "$root",
                    "is_falling_back": True,
                    "m.in_reply_to": {"event_id": "$e"},
                }
            }
        ),
        ciphertext(**{"m.relates_to": {"rel_type": "m.annotation", "event_id": "$e", "key": "👍️"}}),
        ciphertext(**{"m.relates_to": {"rel_type": "m.reference", "event_id": "$e"}}),
        ciphertext(
            **{
                "m.relates_to": {"m.in_reply_to": {"event_id": "$e"}, "io.element.show_reply": True},
                "im.nheko.relations.v1.relations": [
                    {"rel_type": "im.nheko.relations.v1.in_reply_to", "event_id": "$e"}
                ],
            }
        ),
    ],
)
@pytest.mark.parametrize("is_state", [False, True])
def test_what_clients_encrypt_passes(content: dict[str, Any], is_state: bool) -> None:
    refuse_plaintext("m.room.encrypted", content, is_state=is_state)
    refuse_plaintext("m.room.encrypted", content, is_state=is_state, allow_in_clear=frozenset())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"body": "hello", "msgtype": "m.text"},
        ciphertext(algorithm=...),
        ciphertext(algorithm="m.olm.v1.curve25519-aes-sha2"),
        ciphertext(algorithm="m.plain"),
        ciphertext(algorithm=[MEGOLM]),
        ciphertext(ciphertext=...),
        ciphertext(ciphertext="hello"),
        ciphertext(ciphertext="Hello, this is what I want to say, in letters only."),
        ciphertext(ciphertext=encode_base64(b"This is what I want to say, in Base64. " * 10)),
        ciphertext(ciphertext={"key": {"type": 0, "body": "x"}}),
        ciphertext(session_id=...),
        ciphertext(session_id="not a key"),
        ciphertext(session_id=KEY + "A"),
        ciphertext(sender_key="I am here"),
        ciphertext(device_id="x" * 256),
        ciphertext(device_id=["text"]),
        ciphertext(body="hello"),
        ciphertext(**{"m.mentions": {"user_ids": ["@a:b"]}}),
        ciphertext(**{"m.new_content": {"body": "x"}}),
        ciphertext(**{"org.example.note": "x"}),
        ciphertext(**{"m.relates_to": "text"}),
        ciphertext(**{"m.relates_to": None}),
        ciphertext(**{"m.relates_to": {"body": "hello"}}),
        ciphertext(**{"m.relates_to": {"rel_type": "x" * 256}}),
        ciphertext(**{"m.relates_to": {"event_id": ["hello"]}}),
        ciphertext(**{"m.relates_to": {"is_falling_back": "hello"}}),
        ciphertext(**{"m.relates_to": {"key": "a long sentence that is no reaction at all, " * 2}}),
        ciphertext(**{"m.relates_to": {"m.in_reply_to": {"event_id": "$e", "body": "hello"}}}),
        ciphertext(**{"m.relates_to": {"m.in_reply_to": "hello"}}),
        ciphertext(**{"im.nheko.relations.v1.relations": "hello"}),
        ciphertext(**{"im.nheko.relations.v1.relations": [{"body": "hello"}]}),
    ],
)
def test_what_is_no_ciphertext_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(PlaintextRefused) as refused:
        refuse_plaintext("m.room.encrypted", content, is_state=False)
    assert refused.value.body()["org.domicile.plaintext_refused"] is True
    assert is_plaintext("m.room.encrypted", content, is_state=False)


@given(st.integers(1, 5000), st.integers(0, 2**32 - 1))
def test_megolm_messages_are_recognised_at_any_length(length: int, index: int) -> None:
    assert is_megolm_message(megolm(length, index))


@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.integers(1, 80))
def test_other_lengths_are_none(length: int, index: int, cut: int) -> None:
    message = megolm(length, index)
    assert not is_megolm_message(message[:-cut] if cut % 4 else message[: -cut - 1])
    assert not is_megolm_message(message + "AAAA" * cut)


@pytest.mark.parametrize(
    "head", [b"\x02\x08\x00\x12\x10", b"\x03\x09\x00\x12\x10", b"\x03\x08\x00\x13\x10", b"\x7b\x22\x62\x12\x10"]
)
def test_other_formats_of_the_right_length_are_none(head: bytes) -> None:
    assert is_megolm_message(encode_base64(b"\x03\x08\x00\x12\x10" + bytes(16 + 72)))
    assert not is_megolm_message(encode_base64(head + bytes(16 + 72)))


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda raw: b"\x03\x08" + raw))
def test_random_bytes_never_confuse(raw: bytes) -> None:
    if is_megolm_message(encode_base64(raw)):
        assert raw[:2] == b"\x03\x08"
        assert len(raw) > 76


@pytest.mark.parametrize("text", [None, 5, "", "A", "Aw", "AwgA", "ÄwgA", [], megolm(0)])
def test_fragments_are_no_message(text: object) -> None:
    assert not is_megolm_message(text)


# -- everything else


@pytest.mark.parametrize(
    "event_type",
    [
        *(
            "m.room.message",
            "m.sticker",
            "m.poll.start",
            "org.matrix.msc3381.poll.start",
            "m.call.invite",
            "m.call.answer",
        ),
        *("m.call.candidates", "m.key.verification.start.x", "org.example.custom", "m.room.topic", "m.beacon", ""),
        *("m.room.encryption", "m.room.message.feedback", "M.ROOM.ENCRYPTED", "m.room.encrypted "),
    ],
)
def test_messages_in_the_clear_are_refused(event_type: str) -> None:
    for content in ({"body": "hello", "msgtype": "m.text"}, {}, ciphertext()):
        with pytest.raises(PlaintextRefused, match="encrypt"):
            refuse_plaintext(event_type, content, is_state=False)
        assert is_plaintext(event_type, content, is_state=False)
        refuse_plaintext(event_type, content, is_state=False, conformance=True)


@pytest.mark.parametrize("event_type", ["m.room.message", "org.example.custom"])
def test_a_longer_list_does_not_open_the_door(event_type: str) -> None:
    with pytest.raises(PlaintextRefused):
        refuse_plaintext(event_type, {}, is_state=False, allow_in_clear={event_type})


@pytest.mark.parametrize(
    "event_type",
    [
        *(
            "m.room.topic",
            "m.room.name",
            "m.room.member",
            "m.room.power_levels",
            "m.space.child",
            "m.room.pinned_events",
        ),
        *("org.matrix.msc3401.call.member", "m.call.member", "org.example.state", "m.beacon_info", "m.room.tombstone"),
    ],
)
def test_state_stays_in_the_clear(event_type: str) -> None:
    refuse_plaintext(event_type, {"topic": "what everybody may know"}, is_state=True)


@pytest.mark.parametrize(
    "event_type",
    ["m.room.message", "m.sticker", "m.reaction", "m.poll.start", "m.call.invite", "m.text", "m.room.redaction"],
)
def test_messages_do_not_become_state(event_type: str) -> None:
    with pytest.raises(PlaintextRefused):
        refuse_plaintext(event_type, {"body": "hello"}, is_state=True)


def reaction(**relation: Any) -> dict[str, Any]:
    fields = {"rel_type": "m.annotation", "event_id": "$e", "key": "👍️", **relation}
    return {"m.relates_to": {key: value for key, value in fields.items() if value is not ...}}


REFERENCE = {"m.relates_to": {"rel_type": "m.reference", "event_id": "$r"}}
METHODS = ["m.sas.v1", "m.qr_code.show.v1", "m.reciprocate.v1"]
STEPS: dict[str, dict[str, Any]] = {
    "ready": {"from_device": "PHONE", "methods": METHODS},
    "start": {
        "from_device": "PHONE",
        "method": "m.sas.v1",
        "hashes": ["sha256"],
        "key_agreement_protocols": ["curve25519-hkdf-sha256"],
        "message_authentication_codes": ["hkdf-hmac-sha256.v2"],
        "short_authentication_string": ["decimal", "emoji"],
    },
    "accept": {
        "commitment": "c" * 43,
        "hash": "sha256",
        "key_agreement_protocol": "curve25519-hkdf-sha256",
        "message_authentication_code": "hkdf-hmac-sha256.v2",
        "short_authentication_string": ["decimal", "emoji"],
    },
    "key": {"key": "k" * 43},
    "mac": {"mac": {"ed25519:PHONE": "m" * 43}, "keys": "m" * 43},
    "done": {},
    "cancel": {"code": "m.user", "reason": "The user cancelled the verification."},
}


def verification_request(**other: Any) -> dict[str, Any]:
    return {
        "msgtype": "m.key.verification.request",
        "body": "@alice:a.example is requesting to verify your key, but your client does not support in-chat key"
        " verification. You will need to use legacy key verification to verify keys.",
        "from_device": "PHONE",
        "methods": METHODS,
        "to": "@bob:b.example",
        **other,
    }


@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        ("m.room.message", verification_request(body="Meet me at noon")),
        ("m.room.message", verification_request(body="@alice:a.example is requesting to verify your key. At noon.")),
        ("m.room.message", verification_request(formatted_body="<b>noon</b>")),
        ("m.room.message", verification_request(methods=["noon" * 100])),
        ("m.room.message", verification_request(to={"a": {"b": {"c": "noon"}}})),
        ("m.key.verification.start", {**STEPS["start"], **REFERENCE, "body": "noon"}),
        ("m.key.verification.start", STEPS["start"]),
        ("m.key.verification.done", {**REFERENCE, "reason": "noon"}),
        ("m.key.verification.cancel", {**REFERENCE, "code": "m.user", "reason": "noon" * 100}),
        ("m.key.verification.mac", {**REFERENCE, "mac": {"a": {"b": "c"}}, "keys": ""}),
    ],
)
def test_a_verification_carries_nothing_beside_it(event_type: str, content: dict[str, Any]) -> None:
    with pytest.raises(PlaintextRefused):
        refuse_plaintext(event_type, content, is_state=False)


def _listed(event_type: str, content: dict[str, Any]) -> str:
    """The name that an event has in the operator's list."""
    return str(content["msgtype"]) if event_type == "m.room.message" else event_type


@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        ("m.reaction", reaction()),
        ("m.reaction", reaction(key="lgtm")),
        ("m.reaction", reaction(key="mxc://example.org/" + "a" * 200)),
        ("m.reaction", {**reaction(), "shortcode": ":cat:"}),
        ("m.room.redaction", {}),
        ("m.room.redaction", {"redacts": "$e", "reason": "spam"}),
        ("m.room.redaction", {"reason": None}),
        ("m.room.redaction", {"redacts": "$e", "org.matrix.msc3912.with_relations": ["m.replace"]}),
        (
            "org.matrix.msc4075.rtc.notification",
            {
                "m.relates_to": {"rel_type": "m.reference", "event_id": "$m"},
                "m.mentions": {"user_ids": ["@bob:b.example"], "room": False},
                "notification_type": "ring",
                "sender_ts": 1752583130365,
                "lifetime": 30000,
            },
        ),
        ("m.rtc.decline", {"m.relates_to": {"rel_type": "m.reference", "event_id": "$n"}}),
        ("m.room.message", verification_request()),
        ("m.room.message", verification_request(body="")),
        *((f"m.key.verification.{step}", {**said, **REFERENCE}) for step, said in STEPS.items()),
    ],
)
def test_the_short_list_passes_unless_it_is_shortened(event_type: str, content: dict[str, Any]) -> None:
    refuse_plaintext(event_type, content, is_state=False)
    refuse_plaintext(event_type, content, is_state=False, allow_in_clear={_listed(event_type, content)})
    with pytest.raises(PlaintextRefused):
        refuse_plaintext(event_type, content, is_state=False, allow_in_clear=IN_CLEAR - {_listed(event_type, content)})


@pytest.mark.parametrize(
    ("event_type", "content"),
    [
        ("m.reaction", {}),
        ("m.reaction", {"m.relates_to": {}}),
        ("m.reaction", {"m.relates_to": "text"}),
        ("m.reaction", {"body": "text"}),
        ("m.reaction", {**reaction(), "body": "text"}),
        ("m.reaction", {**reaction(), "shortcode": "text " * 30}),
        ("m.reaction", reaction(key="a whole sentence, which is more than anybody needs for a reaction")),
        ("m.reaction", reaction(key=["text"])),
        ("m.reaction", reaction(key=...)),
        ("m.reaction", reaction(event_id=...)),
        ("m.reaction", reaction(rel_type="m.reference")),
        ("m.reaction", reaction(text="x")),
        ("m.room.redaction", {"body": "text"}),
        ("m.room.redaction", {"reason": "x" * 501}),
        ("m.room.redaction", {"reason": {"body": "text"}}),
        ("m.room.redaction", {"redacts": ["$e"]}),
        ("m.room.redaction", {"org.matrix.msc3912.with_relations": [["text"]]}),
        ("m.rtc.decline", {"reason": "x" * 256}),
        ("m.rtc.decline", {"body": "text"}),
        ("m.rtc.notification", {"m.relates_to": {"body": "text"}}),
        ("m.rtc.notification", {"a": {"b": {"c": {"d": "deep"}}}}),
        ("m.rtc.notification", {"a": {"body": "text"}}),
        ("m.rtc.notification", {"x" * 300: 1}),
        ("m.rtc.notification", {"a": ["x"] * 51}),
    ],
)
def test_the_short_list_keeps_its_shape(event_type: str, content: dict[str, Any]) -> None:
    with pytest.raises(PlaintextRefused):
        refuse_plaintext(event_type, content, is_state=False)


@given(
    st.sampled_from(["m.room.encrypted", *sorted(IN_CLEAR)]),
    json_objects() | json_objects().map(lambda content: ciphertext(**content)) | st.builds(
        lambda relation: {"m.relates_to": relation}, json_values()
    ),
)  # fmt: skip
def test_no_content_makes_the_rule_stumble(event_type: str, content: dict[str, Any]) -> None:
    is_plaintext(event_type, content, is_state=False)


# -- the encryption of a room

WEEKLY = {"algorithm": MEGOLM, "rotation_period_ms": WEEK, "rotation_period_msgs": 100}


@pytest.mark.parametrize(
    ("content", "current"),
    [
        ({"algorithm": MEGOLM}, None),
        (WEEKLY, None),
        ({"algorithm": MEGOLM, "rotation_period_msgs": 1}, None),
        ({"algorithm": MEGOLM, "org.example.more": True}, None),
        ({"algorithm": MEGOLM}, WEEKLY),
        (WEEKLY, {"algorithm": MEGOLM}),
        ({**WEEKLY, "rotation_period_msgs": 10}, WEEKLY),
        (WEEKLY, {"algorithm": MEGOLM, "rotation_period_ms": 10**12, "rotation_period_msgs": "x"}),
        (WEEKLY, {}),
    ],
)
def test_encryption_is_set_and_strengthened(content: dict[str, Any], current: dict[str, Any] | None) -> None:
    refuse_weaker_encryption("", content, current)


@pytest.mark.parametrize(
    ("state_key", "content", "current"),
    [
        ("", {}, None),
        ("", {}, WEEKLY),
        ("", {"algorithm": "m.none"}, WEEKLY),
        ("", {"algorithm": None}, WEEKLY),
        ("", {"algorithm": "m.olm.v1.curve25519-aes-sha2"}, None),
        ("x", WEEKLY, None),
        ("", {**WEEKLY, "rotation_period_ms": WEEK + 1}, None),
        ("", {**WEEKLY, "rotation_period_msgs": 101}, WEEKLY),
        ("", {**WEEKLY, "rotation_period_msgs": 0}, None),
        ("", {**WEEKLY, "rotation_period_msgs": -5}, None),
        ("", {**WEEKLY, "rotation_period_msgs": "10"}, None),
        ("", {**WEEKLY, "rotation_period_ms": True}, None),
        ("", {**WEEKLY, "rotation_period_ms": None}, None),
        ("", WEEKLY, {**WEEKLY, "rotation_period_msgs": 10}),
        ("", {"algorithm": MEGOLM}, {**WEEKLY, "rotation_period_msgs": 10}),
    ],
)
def test_encryption_is_not_weakened(state_key: str, content: dict[str, Any], current: dict[str, Any] | None) -> None:
    with pytest.raises(PlaintextRefused):
        refuse_weaker_encryption(state_key, content, current)


def test_encryption_is_not_redacted() -> None:
    with pytest.raises(PlaintextRefused):
        refuse_redaction("m.room.encryption", "")
    refuse_redaction("m.room.encryption", None)
    refuse_redaction("m.room.encrypted", None)
    refuse_redaction("m.room.topic", "")


def test_a_room_is_encrypted_by_our_algorithm_only() -> None:
    assert is_encrypted({"algorithm": MEGOLM})
    assert not is_encrypted(None)
    assert not is_encrypted({})
    assert not is_encrypted({"algorithm": "m.other"})
