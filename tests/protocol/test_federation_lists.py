"""The form of federation lists: what is one, what is none, and that a signature covers all of it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import orjson
import pytest

from homeserver.protocol import federation_lists
from homeserver.protocol.federation_lists import FederationList, InvalidList, Witness
from homeserver.protocol.signed_notes import public_key
from homeserver.protocol.signing import SigningKey

KEY, OTHER = SigningKey("1", b"t" * 32), SigningKey("1", b"o" * 32)
WITNESS = public_key("one.example/witness", KEY).write()
LIST: dict[str, Any] = {
    "format": 1,
    "name": "Treaty of Test",
    "serial": 3,
    "issued": 1000,
    "valid_until": 5000,
    "servers": {
        "one.example": {
            "jurisdiction": "FR",
            "operator": "Opérateur می‌شود",
            "role": "hospital",
            "witness": {"key": WITNESS, "url": "https://one.example/witness"},
            "valid_until": 2000,
        },
        "two.example:8448": {"jurisdiction": "X-LAB"},
    },
}


def believed(document: dict[str, Any], *keys: SigningKey) -> set[str]:
    """Which of the keys have signed it, by their names."""
    names = {KEY.verify_key.base64: "key", OTHER.verify_key.base64: "other"}
    return {names[key] for key in federation_lists.believed(document, [key.verify_key.base64 for key in keys])}


def test_a_list_is_read_as_it_was_written() -> None:
    found = federation_lists.read(LIST)
    one = found.servers["one.example"]
    assert (found.name, found.serial, one.jurisdiction, one.operator) == ("Treaty of Test", 3, "FR", "Opérateur می‌شود")
    assert (one.role, one.witness) == ("hospital", Witness(WITNESS, "https://one.example/witness"))
    assert found.servers["two.example:8448"].witness is None


@pytest.mark.parametrize(
    ("now", "valid"),
    [
        (1999, {"one.example": "FR", "two.example:8448": "X-LAB"}),
        (2000, {"two.example:8448": "X-LAB"}),
        (4999, {"two.example:8448": "X-LAB"}),
        (5000, {}),
    ],
)
def test_an_entry_holds_as_long_as_it_and_the_list_say(now: int, valid: dict[str, str]) -> None:
    assert federation_lists.read(LIST).valid(now) == valid


def test_several_may_sign_and_each_counts_by_its_key() -> None:
    once = federation_lists.signed(LIST, KEY)
    twice = federation_lists.signed(once, OTHER)
    assert believed(once, KEY, OTHER) == {"key"}
    assert believed(twice, KEY, OTHER) == {"key", "other"}
    assert believed(twice, OTHER) == {"other"}
    with pytest.raises(InvalidList):
        believed(once, OTHER)
    assert federation_lists.parsed(orjson.dumps(twice)) == twice


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where something stands in a document that is no object."""
    if isinstance(value, dict):
        return [place for name, each in value.items() for place in places(each, (*path, name))]
    return [path]


@pytest.mark.parametrize("place", places(LIST), ids=".".join)
def test_whatever_is_changed_the_signature_shows(place: tuple[str, ...]) -> None:
    changed: Any = deepcopy(federation_lists.signed(LIST, KEY))
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = "changed" if isinstance(inner[place[-1]], str) else 7
    with pytest.raises(InvalidList):
        believed(changed, KEY)
    del inner[place[-1]]
    with pytest.raises(InvalidList):
        believed(changed, KEY)


def changed(**entries: Any) -> dict[str, Any]:
    return {**LIST, **entries}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "format"),
        (changed(format=2), "format"),
        (changed(serial=0), "serial"),
        (changed(serial=True), "serial"),
        (changed(serial=2**53), "serial"),
        (changed(name=""), "name"),
        (changed(name="a\nb"), "name"),
        (changed(valid_until=1000), "before it was issued"),
        (changed(servers=[]), "servers"),
        (changed(servers={"One.example": {"jurisdiction": "FR"}}), "small letters"),
        (changed(servers={"not a name": {"jurisdiction": "FR"}}), "no name"),
        (changed(servers={"*.example": {"jurisdiction": "FR"}}), "no name"),
        (changed(servers={"one.example": "FR"}), "not a table"),
        (changed(servers={"one.example": {"jurisdiction": "fr"}}), "ISO 3166"),
        (changed(servers={"one.example": {"jurisdiction": "unknown"}}), "ISO 3166"),
        (changed(servers={"one.example": {"jurisdiction": "FR", "operator": 1}}), "operator"),
        (changed(servers={"one.example": {"jurisdiction": "FR", "operator": "a\u202eb"}}), "operator"),
        (changed(servers={"one.example": {"jurisdiction": "FR", "role": "a\x1b[2Kb"}}), "role"),
        (changed(servers={"one.example": {"jurisdiction": "FR", "witness": {"key": "x", "url": "y"}}}), "none"),
        (
            changed(servers={"one.example": {"jurisdiction": "FR", "witness": {"key": WITNESS, "url": "ftp://x"}}}),
            "no web address",
        ),
        (changed(servers={"one.example": {"jurisdiction": "FR", "valid_until": "soon"}}), "valid_until"),
    ],
)
def test_what_is_no_list_is_refused_and_said(document: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidList, match=said):
        federation_lists.read(document)


def test_a_list_has_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federation_lists, "MOST_SERVERS", 1)
    with pytest.raises(InvalidList, match="more than 1 servers"):
        federation_lists.read(LIST)
    with pytest.raises(InvalidList, match="more than"):
        federation_lists.parsed(b" " * (federation_lists.MOST_BYTES + 1))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": NaN}'])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidList):
        federation_lists.parsed(raw)


def test_what_has_no_canonical_form_is_not_believed() -> None:
    signed = federation_lists.signed(LIST, KEY)
    with pytest.raises(InvalidList):
        believed({**signed, "more": 1.5}, KEY)
    with pytest.raises(InvalidList):
        federation_lists.signed({**LIST, "more": 1.5}, KEY)
    assert isinstance(federation_lists.read(signed), FederationList)
