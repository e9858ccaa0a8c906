"""Signatures and hashes: the specification's vectors, and agreement with signedjson in both directions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol import signing
from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.redaction import redact
from homeserver.protocol.signing import SigningKey, VerifyKey
from homeserver.protocol.versions import VERSIONS
from tests.protocol import strategies, vectors

JSON_SIGNING = vectors.read("json_signing")
EVENT_SIGNING = vectors.read("event_signing")
SEED = signing.decode_base64(JSON_SIGNING["seed"])
KEY = SigningKey("1", SEED)
KEYS = {KEY.key_id: KEY.verify_key}
THEIRS = signedjson.key.decode_signing_key_base64("ed25519", "1", JSON_SIGNING["seed"])
BEFORE_V11 = [version for version in VERSIONS if version not in ("11", "12")]


def test_the_vectors_use_one_key() -> None:
    for file in (JSON_SIGNING, EVENT_SIGNING):
        assert (file["seed"], file["key_id"], file["server_name"]) == (JSON_SIGNING["seed"], KEY.key_id, "domain")


@pytest.mark.parametrize("case", JSON_SIGNING["cases"])
def test_json_vectors(case: dict[str, Any]) -> None:
    assert signing.sign_json(case["input"], "domain", KEY) == case["signed"]
    signing.verify_json(case["signed"], "domain", KEYS)


@pytest.mark.parametrize("version", BEFORE_V11)
@pytest.mark.parametrize("case", EVENT_SIGNING["cases"], ids=["minimal", "redactable"])
def test_event_vectors(version: str, case: dict[str, Any]) -> None:
    rules = VERSIONS[version]
    before = copy.deepcopy(case["input"])
    signed = signing.sign_event(rules, case["input"], "domain", KEY)
    assert signed == case["signed"]
    assert case["input"] == before
    assert signing.content_hash_matches(rules, signed)
    signing.verify_event(rules, signed, "domain", KEYS)


@settings(max_examples=100, deadline=None)
@given(strategies.json_objects())
def test_signedjson_accepts_our_signatures_and_we_accept_its(value: dict[str, Any]) -> None:
    value = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
    value["unsigned"] = {"age": 1.5}
    ours = signing.sign_json(value, "domain", KEY)
    signedjson.sign.verify_signed_json(ours, "domain", signedjson.key.get_verify_key(THEIRS))
    theirs = signedjson.sign.sign_json(copy.deepcopy(value), "domain", THEIRS)
    assert theirs == ours
    signing.verify_json(theirs, "domain", KEYS)


def test_signing_leaves_its_argument_alone_and_keeps_other_signatures() -> None:
    other = SigningKey.generate("other_1")
    once = signing.sign_json({"a": 1, "unsigned": {"b": 2}}, "elsewhere", other)
    before = copy.deepcopy(once)
    twice = signing.sign_json(once, "domain", KEY)
    assert once == before
    assert twice["unsigned"] == {"b": 2}
    signing.verify_json(twice, "elsewhere", {other.key_id: other.verify_key})
    signing.verify_json(twice, "domain", KEYS)
    assert signing.signing_key_ids(twice, "elsewhere") == ["ed25519:other_1"]
    assert signing.signing_key_ids(twice, "nobody") == []


def test_unsigned_may_change_and_nothing_else_may() -> None:
    signed = signing.sign_json({"a": 1}, "domain", KEY)
    signing.verify_json({**signed, "unsigned": {"anything": True}}, "domain", KEYS)
    for forged in ({**signed, "a": 2}, {**signed, "b": 1}, {"signatures": signed["signatures"]}):
        with pytest.raises(InvalidSignature):
            signing.verify_json(forged, "domain", KEYS)


def test_every_signature_under_a_known_key_must_be_valid() -> None:
    second = SigningKey.generate("2")
    signed = signing.sign_json(signing.sign_json({"a": 1}, "domain", KEY), "domain", second)
    both = {**KEYS, second.key_id: second.verify_key}
    signing.verify_json(signed, "domain", both)
    signed["signatures"]["domain"][second.key_id] = signed["signatures"]["domain"][KEY.key_id]
    signing.verify_json(signed, "domain", KEYS)  # the second key is not known: skipped
    with pytest.raises(InvalidSignature):
        signing.verify_json(signed, "domain", both)


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        "x",
        {},
        {"domain": None},
        {"domain": {}},
        {"domain": {"ed25519:2": "AAAA"}},
        {"domain": {"ed25519:1": 5}},
        {"domain": {"ed25519:1": ""}},
        {"domain": {"ed25519:1": "not base64 !"}},
        {"domain": {"ed25519:1": "é"}},
        {"domain": {"ed25519:1": "A" * 86}},
        {"domain": {"ed25519:1": "A" * 800}},
        {
            "elsewhere": {
                "ed25519:1": "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
            }
        },
    ],
    ids=str,
)
def test_malformed_signatures_do_not_verify(signatures: object) -> None:
    with pytest.raises(InvalidSignature):
        signing.verify_json({"signatures": signatures}, "domain", KEYS)
    with pytest.raises(InvalidSignature):
        signing.verify_json({} if signatures is None else {"a": 0.5, "signatures": signatures}, "domain", KEYS)


@pytest.mark.parametrize(
    ("raw", "encoded"),
    [(b"", ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"foob", "Zm9vYg"), (b"fooba", "Zm9vYmE")],
)
def test_unpadded_base64(raw: bytes, encoded: str) -> None:
    assert signing.encode_base64(raw) == encoded
    assert signing.decode_base64(encoded) == raw


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=70))
def test_base64_is_read_with_and_without_padding_in_both_alphabets(raw: bytes) -> None:
    for encoded in (signing.encode_base64(raw), signing.encode_base64_url(raw)):
        assert signing.decode_base64(encoded) == raw
        assert signing.decode_base64(encoded + "=" * (-len(encoded) % 4)) == raw


@pytest.mark.parametrize("text", ["A", "Zm9v\n", "Zm 9v", "Zm9v!", "é", "Zg=Zg", "ZgZgZ"])
def test_what_is_not_base64(text: str) -> None:
    with pytest.raises(BadJson):
        signing.decode_base64(text)


def test_key_files_are_those_of_signedjson() -> None:
    keys = [KEY, SigningKey.generate("a_AbCd")]
    text = signing.write_keys(keys)
    assert [f"ed25519:{key.version}" for key in signedjson.key.read_signing_keys(text.splitlines())] == [
        "ed25519:1",
        "ed25519:a_AbCd",
    ]
    again = signing.read_keys(text + "\n\n")
    assert [key.key_id for key in again] == [key.key_id for key in keys]
    assert [key.sign(b"x") for key in again] == [key.sign(b"x") for key in keys]
    for broken in ("ed25519 1", "rsa 1 AAAA", "ed25519 1 AAAA"):
        with pytest.raises(ValueError, match="line 2 of the key file"):
            signing.read_keys("\n" + broken)


def test_keys_from_json() -> None:
    key = VerifyKey.from_base64("ed25519:1", KEY.verify_key.base64)
    assert key.raw == KEY.verify_key.raw
    for key_id, text in (("curve25519:1", KEY.verify_key.base64), ("ed25519:1", "AAAA"), ("ed25519:1", "!")):
        with pytest.raises(BadJson):
            VerifyKey.from_base64(key_id, text)


def test_a_secret_key_does_not_show_itself() -> None:
    assert repr(KEY) == str(KEY) == "<SigningKey ed25519:1>"


def event(**other: Any) -> dict[str, Any]:
    return {
        "type": "m.room.message",
        "content": {"body": "secret"},
        "sender": "@a:domain",
        "room_id": "!r:domain",
        "origin_server_ts": 1,
        "depth": 1,
        "prev_events": [],
        "auth_events": [],
        **other,
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_a_signature_holds_for_the_redacted_event_and_signedjson_agrees(version: str) -> None:
    rules = VERSIONS[version]
    signed = signing.sign_event(rules, event(), "domain", KEY)
    redacted = redact(rules, signed)
    signing.verify_event(rules, signed, "domain", KEYS)
    signing.verify_event(rules, redacted, "domain", KEYS)
    signedjson.sign.verify_signed_json(redacted, "domain", signedjson.key.get_verify_key(THEIRS))
    assert signing.reference_hash(rules, signed) == signing.reference_hash(rules, redacted)
    assert signing.content_hash_matches(rules, signed)
    assert not signing.content_hash_matches(rules, redacted)
    for forged in ({**signed, "sender": "@b:domain"}, {**signed, "hashes": {"sha256": "AAAA"}}):
        with pytest.raises(InvalidSignature):
            signing.verify_event(rules, forged, "domain", KEYS)
    with pytest.raises(InvalidSignature):
        signing.verify_event(rules, signed, "elsewhere", KEYS)


def test_the_content_hash_covers_all_but_hashes_signatures_and_unsigned() -> None:
    rules = VERSIONS["12"]
    plain = signing.content_hash(rules, event())
    assert signing.content_hash(rules, event(hashes={"a": "b"}, signatures={}, unsigned={"age": 1.5})) == plain
    assert signing.content_hash(rules, event(content={"body": "other"})) != plain
    assert signing.content_hash(rules, event(custom=1)) != plain
    assert not signing.content_hash_matches(rules, event(hashes={"sha256": "not base64 !"}))


def test_event_ids_are_the_hash_in_the_alphabet_of_the_version() -> None:
    digest = b"\xfb\xef\xbe" + bytes(29)
    assert signing.event_id_of_hash(VERSIONS["3"], digest).startswith("$++++A")
    assert signing.event_id_of_hash(VERSIONS["4"], digest).startswith("$----A")
    assert len(signing.event_id_of_hash(VERSIONS["12"], digest)) == 44
