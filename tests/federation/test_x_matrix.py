"""The header X-Matrix: its grammar, with vectors of the specification, and whatever else may stand in a header."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.x_matrix import LONGEST, Claim, read, signed, write
from homeserver.protocol.errors import Unauthorized
from homeserver.protocol.signing import decode_base64
from tests.federation.towns import signing_key

HOSTS = 'origin="origin.hs.example.com",destination="destination.hs.example.com"'
EXAMPLE = f'X-Matrix {HOSTS},key="ed25519:key1",sig="ABCDEF..."'
CLAIM = Claim("origin.hs.example.com", "destination.hs.example.com", "ed25519:key1", "ABCDEF...")


@pytest.mark.parametrize(
    "header",
    [
        EXAMPLE,
        EXAMPLE.replace('"', ""),  # colons without quotes, as older servers write them
        EXAMPLE.replace("X-Matrix", "x-MATRIX   "),
        EXAMPLE.replace(",", " \t,\t "),
        EXAMPLE.replace(",", ",,"),
        EXAMPLE.replace("origin=", "Origin=").replace("sig=", "SIG="),
        EXAMPLE.replace("key1", r"\k\e\y1"),
        EXAMPLE + ',extra="a \\" , origin=evil.test",more=1',
        "X-Matrix sig=ABCDEF...,key=ed25519:key1,destination=destination.hs.example.com,origin=origin.hs.example.com",
    ],
)
def test_forms_of_one_header(header: str) -> None:
    assert read(header) == CLAIM


def test_a_header_of_an_older_server_names_no_destination() -> None:
    assert read('X-Matrix origin=a.test,key="ed25519:1",sig="x"') == Claim("a.test", None, "ed25519:1", "x")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "X-Matrix",
        "X-Matrix ",
        "X-Matrix ,",
        "Bearer abc",
        EXAMPLE.removeprefix("X-Matrix "),
        EXAMPLE.replace("X-Matrix ", "X-Matrix"),
        EXAMPLE.replace("X-Matrix", "X-Matrix2"),
        EXAMPLE.replace(",sig", ";sig"),
        EXAMPLE[:-1] + '\\"',
        EXAMPLE + '"',
        EXAMPLE + " x",
        EXAMPLE + ",",
        EXAMPLE + ",origin=evil.test",
        EXAMPLE + ',ORIGIN="evil.test"',
        EXAMPLE.replace('origin="origin.hs.example.com",', ""),
        EXAMPLE.replace('key="ed25519:key1",', ""),
        EXAMPLE.replace('sig="', 'signature="'),
        EXAMPLE.replace("origin.hs", "origin hs"),
        EXAMPLE.replace("origin.hs.example.com", "@a:b.test"),
        EXAMPLE.replace("ed25519:key1", "rsa:key1"),
        EXAMPLE.replace("ed25519:key1", "ed25519:key-1"),
        EXAMPLE + ",x=" + "y" * LONGEST,
    ],
)
def test_headers_that_are_none(header: str) -> None:
    with pytest.raises(Unauthorized):
        read(header)


NAMES = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,3}(:[0-9]{1,5})?", fullmatch=True)
KEYS = st.from_regex(r"ed25519:[A-Za-z0-9_]{1,10}", fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
SPACES = st.text(" \t", max_size=3)


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, Claim]:
    """A header as any server might write it, and what it says."""
    claim = Claim(draw(NAMES), draw(st.none() | NAMES), draw(KEYS), draw(TEXTS))
    values = {"origin": claim.origin, "destination": claim.destination, "key": claim.key_id, "sig": claim.signature}
    values["unknown"] = draw(st.none() | TEXTS)
    parts = []
    for name in draw(st.permutations(list(values))):
        value = values[name]
        if value is None:
            continue
        spelled = "".join(draw(st.sampled_from([letter, letter.upper()])) for letter in name)
        plain = re.fullmatch(r"[A-Za-z0-9._:-]+", value) and draw(st.booleans())
        quoted = re.sub(r'(["\\])', r"\\\1", value)
        parts.append(f"{spelled}={value}" if plain else f'{spelled}="{quoted}"')
    separator = draw(SPACES) + "," + draw(SPACES)
    return "X-Matrix" + " " * draw(st.integers(1, 3)) + separator.join(parts), claim


@given(headers())
def test_every_way_of_writing_it_is_read(made: tuple[str, Claim]) -> None:
    header, claim = made
    assert read(header) == claim


@given(st.text(max_size=300) | st.text('X-Matrix orignkeysg=,"\\ :', max_size=300).map(lambda text: "X-Matrix " + text))
def test_nothing_breaks_it(header: str) -> None:
    with suppress(Unauthorized):
        read(header)


@pytest.mark.parametrize("unit", ['"', "\\", '"\\', "a=", 'a="', ",", " ,", 'a="\\', "\t", "=", 'a="b",'])
def test_no_header_takes_long(unit: str) -> None:
    """Of a header that leads the reader astray as far as one can, each character is looked at a few times only."""
    for header in ("X-Matrix " + unit * (LONGEST // len(unit) - 9), "X-Matrix a=" + unit * 1000):
        with pytest.raises(Unauthorized):
            read(header)


def test_what_is_written_is_read_and_verifies() -> None:
    key = signing_key("a")
    message = signed("PUT", "/x?y=z", "a.test", "b.test", {"b": 1, "a": "é"})
    assert message == (
        '{"content":{"a":"é","b":1},"destination":"b.test","method":"PUT","origin":"a.test","uri":"/x?y=z"}'.encode()
    )
    header = write("a.test", "b.test", key, message)
    assert header.startswith('X-Matrix origin="a.test",destination="b.test",key="')
    claim = read(header)
    assert (claim.origin, claim.destination, claim.key_id) == ("a.test", "b.test", key.key_id)
    assert key.verify_key.verifies(message, decode_base64(claim.signature))


def test_what_is_left_out_is_not_signed() -> None:
    assert signed("GET", "/", "a.test", None, None) == b'{"method":"GET","origin":"a.test","uri":"/"}'
    assert signed("GET", "/", "a.test", None, {}) == b'{"content":{},"method":"GET","origin":"a.test","uri":"/"}'
