"""Canonical JSON: the specification's examples, equality with canonicaljson, and what must be refused."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import canonicaljson
import pytest
from hypothesis import given, settings

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, NotJson
from homeserver.protocol.versions import MAX_INTEGER
from tests.protocol import strategies, vectors


@pytest.mark.parametrize("case", vectors.read("canonical_json")["cases"], ids=lambda case: case["canonical"])
def test_examples_of_the_specification(case: dict[str, str]) -> None:
    value = canonical.parse(case["input"].encode())
    if "refused" in case:
        with pytest.raises(BadJson):
            canonical.encode(value)
        value = {key: int(number) for key, number in value.items()}
    assert canonical.encode(value) == case["canonical"].encode()


@settings(max_examples=500, deadline=None)
@given(strategies.json_values())
def test_the_bytes_are_those_of_canonicaljson(value: Any) -> None:
    encoded = canonical.encode(value)
    assert encoded == canonicaljson.encode_canonical_json(value)
    assert canonical.encode(value, strict=False) == encoded
    assert canonical.encode_all([value, 1, value]) == [encoded, b"1", encoded]
    assert canonical.parse(encoded) == value
    canonical.check(value)


@settings(max_examples=500, deadline=None)
@given(strategies.json_values(strategies.INTEGERS | strategies.ODD_NUMBERS))
def test_lenient_bytes_are_those_of_canonicaljson(value: Any) -> None:
    encoded = canonical.encode(value, strict=False)
    assert encoded == canonicaljson.encode_canonical_json(value)
    again = canonical.parse(encoded, strict=False)
    assert again == value
    assert canonical.encode(again, strict=False) == encoded


@settings(max_examples=300, deadline=None)
@given(strategies.json_values(strategies.ODD_NUMBERS), strategies.ODD_NUMBERS)
def test_other_numbers_are_refused_wherever_they_are(value: Any, number: float) -> None:
    for holder in (number, [number], {"a": number}, {"a": [{"b": [0, number]}], "z": value}, (number,)):
        with pytest.raises(BadJson):
            canonical.encode(holder)
        with pytest.raises(BadJson):
            canonical.encode_all([0, holder])
        with pytest.raises(BadJson):
            canonical.check(holder)


def test_keys_are_sorted_by_code_point_and_not_by_utf16() -> None:
    assert canonical.encode({"\U00010000": 1, "\uffff": 2, "a": 3, "": 4}) == (
        b'{"":4,"a":3,"' + "\uffff".encode() + b'":2,"' + "\U00010000".encode() + b'":1}'
    )


def test_every_code_point_is_escaped_as_canonicaljson_does() -> None:
    text = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert canonical.encode(text) == canonicaljson.encode_canonical_json(text)


def test_the_limits_of_integers() -> None:
    assert canonical.encode([MAX_INTEGER, -MAX_INTEGER]) == b"[9007199254740991,-9007199254740991]"
    for integer in (MAX_INTEGER + 1, -MAX_INTEGER - 1):
        with pytest.raises(BadJson):
            canonical.encode(integer)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "value", ["\ud800", {"\udfff": 1}, ["a\udc00b"], math.nan, [math.inf], {"a": -math.inf}], ids=ascii
)
def test_what_json_cannot_say_is_refused(value: object, *, strict: bool) -> None:
    with pytest.raises(BadJson):
        canonical.encode(value, strict=strict)


@pytest.mark.parametrize(
    "value",
    [{1: 2}, {None: 1}, b"bytes", {1, 2}, [object()], {"a": b"x"}],
    ids=["integer key", "null key", "bytes", "set", "object", "bytes inside"],
)
def test_other_types_are_our_fault(value: object) -> None:
    for strict in (True, False):
        with pytest.raises(TypeError):
            canonical.encode(value, strict=strict)


def test_deep_nesting_is_encoded_or_refused_but_never_fatal() -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    assert canonical.encode(deep) == b"[" * 400 + b'"x"' + b"]" * 400
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(BadJson):
        canonical.encode(deep)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1,]", b"NaN", b"\xff", b'"\xed\xa0\x80"', b"{'a':1}", b"\xef\xbb\xbf{}", b"[" * 100_000]
)
@pytest.mark.parametrize("before", [b"", b"[1234567890123456789012, "], ids=["", "long-number"])
def test_what_is_not_json(before: bytes, body: bytes) -> None:
    for strict in (True, False):
        with pytest.raises(NotJson):
            canonical.parse(before + body, strict=strict)


def test_lenient_parsing_keeps_long_integers_exact() -> None:
    body = b'{"n":123456789012345678901234567890,"m":-9223372036854775809}'
    assert canonical.parse(body, strict=False) == json.loads(body)
    with pytest.raises(BadJson):
        canonical.encode(canonical.parse(body))


def test_long_integers_let_no_lone_surrogate_in() -> None:
    long = b'{"n":123456789012345678901234567890,"s":"%s"}'
    assert canonical.parse(long % rb"\uD83D\ude00", strict=False)["s"] == "\U0001f600"
    for alone in (rb"\ud83d", rb"\uDE00", rb"\ude00\ud83d"):
        with pytest.raises(NotJson):
            canonical.parse(long % alone, strict=False)


def test_an_object_is_asked_for() -> None:
    assert canonical.parse_object(b' {"a": [1]} ') == {"a": [1]}
    for body in (b"[]", b"null", b"1", b'"{}"'):
        with pytest.raises(BadJson):
            canonical.parse_object(body)
    with pytest.raises(NotJson):
        canonical.parse_object(b"{")


def test_what_is_kept_takes_no_more_memory_than_it_says() -> None:
    value = {"signatures": {"example.org": {"ed25519:a": "x" * 86}}, "hashes": {"sha256": "y" * 43}}
    tracemalloc.start()
    try:
        kept = [canonical.encode({**value, "depth": depth}) for depth in range(500)]
        traced, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert traced < 2 * sum(map(len, kept))
