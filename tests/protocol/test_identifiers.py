"""The grammar of identifiers, at its edges."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol import identifiers
from homeserver.protocol.errors import InvalidParam, InvalidUsername

SERVER_NAMES = [
    "matrix.org",
    "matrix.org:8888",
    "1.2.3.4",
    "1.2.3.4:1234",
    "[1234:5678::abcd]",
    "[1234:5678::abcd]:5678",
    "localhost",
    "[::1]",
    "[::ffff:1.2.3.4]:1",
    "EXAMPLE.org",
    "a" * 255,
    "1.2.3.4.5",
    "xn--bcher-kva.example:80",
]
NOT_SERVER_NAMES = [
    "",
    ":80",
    "example.org:",
    "example.org:123456",
    "example.org:8a",
    "256.1.1.1",
    "1.2.3.999:80",
    "[1234:5678::abcd",
    "[g::1]",
    "[1:2:3]",
    "[1.2.3.4]",
    "[::1%eth0]",
    "::1",
    "exa_mple.org",
    "bücher.example",
    "example.org/path",
    "example.org\n",
    "user@example.org",
    " example.org",
    "١.2.3.4",
    "a" * 256,
]


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_server_names(name: str) -> None:
    assert identifiers.is_server_name(name)
    host, port = identifiers.parse_server_name(name)
    assert name in (f"{host}:{port}", f"[{host}]:{port}", host, f"[{host}]")


@pytest.mark.parametrize("name", NOT_SERVER_NAMES)
def test_what_is_no_server_name(name: str) -> None:
    assert not identifiers.is_server_name(name)
    with pytest.raises(InvalidParam):
        identifiers.parse_server_name(name)
    assert not identifiers.is_user_id(f"@a:{name}")
    assert not identifiers.is_room_alias(f"#a:{name}")
    with pytest.raises(InvalidParam):
        identifiers.parse_mxc(f"mxc://{name}/abc")


def test_server_names_come_apart() -> None:
    assert identifiers.parse_server_name("[::1]:8448") == ("::1", 8448)
    assert identifiers.parse_server_name("example.org") == ("example.org", None)


@pytest.mark.parametrize("user", ["@a:b", "@a.b_c=d-e/f+0:example.org:80", "@x:[::1]:80"])
def test_user_ids(user: str) -> None:
    assert identifiers.is_user_id(user)
    assert identifiers.is_compliant_user_id(user)
    localpart, domain = identifiers.parse_user_id(user)
    assert identifiers.user_id(localpart, domain) == user
    assert (identifiers.localpart_of(user), identifiers.domain_of(user)) == (localpart, domain)


@pytest.mark.parametrize("user", ["@:b", "@ü:b", "@a b:b", "@\x01:b", "@\U0001f600:b"])
def test_historical_user_ids_are_valid_in_events_but_not_compliant(user: str) -> None:
    assert identifiers.is_user_id(user)
    assert not identifiers.is_compliant_user_id(user)


def test_upper_case_is_historical_but_compliant() -> None:
    assert identifiers.is_compliant_user_id("@Alice*:b")


@pytest.mark.parametrize(
    "user", ["", "@", "a:b", "@a", "@a:", "!a:b", "@a\0:b", "@\ud800:b", None, 5, ["@a:b"], b"@a:b", "@a:b:c", " @a:b"]
)
def test_what_is_no_user_id(user: object) -> None:
    assert not identifiers.is_user_id(user)
    assert not identifiers.is_compliant_user_id(user)
    with pytest.raises(InvalidParam):
        identifiers.parse_user_id(user)


@pytest.mark.parametrize("sigil", ["@", "!", "#", "$"])
def test_identifiers_are_limited_to_255_bytes_of_utf8(sigil: str) -> None:
    valid = {
        "@": identifiers.is_user_id,
        "!": identifiers.is_room_id,
        "#": identifiers.is_room_alias,
        "$": identifiers.is_event_id,
    }[sigil]
    assert valid(sigil + "a" * 252 + ":b")
    assert not valid(sigil + "a" * 253 + ":b")
    assert valid(sigil + "é" * 126 + ":b")
    assert not valid(sigil + "é" * 126 + "a:b")


def test_room_ids_of_both_kinds() -> None:
    with_domain, without = "!abc:example.org", "!" + "aB0-_" * 8 + "xyz"
    assert identifiers.is_room_id(with_domain)
    assert identifiers.is_room_id_with_domain(with_domain)
    assert not identifiers.is_hash_room_id(with_domain)
    assert identifiers.is_room_id(without)
    assert identifiers.is_hash_room_id(without)
    assert not identifiers.is_room_id_with_domain(without)
    for other in ("!", "!abc", without + "x", without[:-1], without[:-1] + "+", "!abc:", "!a\0:b", "#a:b", None, 1):
        assert not identifiers.is_room_id(other)


def test_aliases() -> None:
    assert identifiers.parse_room_alias("#große runde:example.org") == ("große runde", "example.org")
    for other in ("#a", "a:b", "#a\0:b", None, 7):
        assert not identifiers.is_room_alias(other)
        with pytest.raises(InvalidParam):
            identifiers.parse_room_alias(other)


def test_event_ids_are_opaque() -> None:
    for event_id in ("$a", "$a:b", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"):
        assert identifiers.is_event_id(event_id)
    for other in ("", "$", "a", "$\ud800", None, 1, ["$a"]):
        assert not identifiers.is_event_id(other)


@pytest.mark.parametrize(
    ("asked", "given_"), [("alice", "alice"), ("Alice", "alice"), ("a.b_c=d-e/f+0", "a.b_c=d-e/f+0"), ("0", "0")]
)
def test_new_localparts(asked: str, given_: str) -> None:
    assert identifiers.new_localpart(asked, "example.org") == given_


@pytest.mark.parametrize("asked", ["", "ü", "a b", "a:b", "@a", "a\n", "İ", "a*", "x" * 243])
def test_refused_localparts(asked: str) -> None:
    with pytest.raises(InvalidUsername):
        identifiers.new_localpart(asked, "example.org")


def test_the_longest_localpart() -> None:
    user = identifiers.user_id(identifiers.new_localpart("x" * 242, "example.org"), "example.org")
    assert len(user) == 255
    assert identifiers.is_user_id(user)


def test_mxc_uris() -> None:
    assert identifiers.parse_mxc("mxc://example.org:80/aB0-_") == ("example.org:80", "aB0-_")


@pytest.mark.parametrize(
    "uri",
    [
        "mxc://example.org",
        "mxc://example.org/",
        "mxc://example.org/a/b",
        "mxc://example.org/../etc",
        "mxc://example.org/%2e%2e",
        "mxc://example.org/a?b",
        "mxc:///a",
        "https://example.org/a",
        "mxc://127.0.0.1/../../../some_service/etc/passwd",
        "mxc://example.org/" + "a" * 256,
        None,
        4,
    ],
)
def test_what_is_no_mxc_uri(uri: object) -> None:
    with pytest.raises(InvalidParam):
        identifiers.parse_mxc(uri)


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        (identifiers.is_opaque, "aZ09-._~", ["", "a/b", "x" * 256, "a\n", "é", None]),
        (identifiers.is_namespaced, "m.login.dummy", ["", "M.x", "1a", "_a", "a" * 256, "a\n", None]),
        (identifiers.is_device_id, "GHTYAJCE ünïcode", ["", "a\0", "\ud800", "é" * 257, "a" * 513, 5, None]),
        (identifiers.is_signing_key_id, "ed25519:a_AbCd0", ["ed25519:", "ed25519:a b", "rsa:1", "ed25519", None]),
    ],
)
def test_the_general_grammars(question: Callable[[object], bool], right: str, wrong: list[object]) -> None:
    assert question(right)
    for text in wrong:
        assert not question(text)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(alphabet="@!#$:[]a1.\0\n"))
def test_nothing_makes_the_questions_raise(text: str) -> None:
    for question in (
        identifiers.is_server_name,
        identifiers.is_user_id,
        identifiers.is_compliant_user_id,
        identifiers.is_room_id,
        identifiers.is_room_alias,
        identifiers.is_event_id,
        identifiers.is_device_id,
        identifiers.is_media_id,
    ):
        assert question(text) in (True, False)
