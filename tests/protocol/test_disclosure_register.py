"""A register whose keeper signs what they like: entries that are reordered, back-dated, of elsewhere, made up later."""

from __future__ import annotations

from dataclasses import replace

import pytest

from homeserver.protocol import disclosure_register as chain
from homeserver.protocol.disclosure_register import Entry, Following, Kind
from homeserver.protocol.signing import SigningKey

KEY = SigningKey("tehran", b"k" * 32)
SALT = b"s" * chain.SALT_BYTES
DETAILS, WITHHELD = chain.hidden({"order_sha256": "a"}, SALT), chain.hidden({}, SALT)


def entry(seq: int, previous: bytes | None, ts: int, kind: Kind = Kind.REQUESTED) -> Entry:
    """An entry of order 1."""
    return Entry(
        node="tehran",
        jurisdiction="IR",
        seq=seq,
        previous=None if previous is None else chain.digest(previous),
        ts=ts,
        kind=kind,
        order=1,
        gagged=False,
        details=DETAILS.digest,
        withheld=WITHHELD.digest,
    )


def faults(*entries: Entry) -> list[str]:
    """What somebody finds who reads them under the numbers from 1 on."""
    following = Following("tehran", "example.org", KEY.verify_key)
    found: list[str] = []
    for seq, each in enumerate(entries, 1):
        found += following.read(seq, chain.signed(each, "example.org", KEY), DETAILS, WITHHELD)
    return found


FIRST = entry(1, None, 1000)
RECORD = chain.signed(FIRST, "example.org", KEY)
SECOND = entry(2, RECORD, 2000, Kind.APPROVED)


def test_a_whole_register_has_no_fault() -> None:
    assert faults(FIRST, SECOND) == faults(FIRST, replace(SECOND, ts=1000)) == []
    assert faults(FIRST, replace(SECOND, ts=1, kind=Kind.CLOCK)) == []


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ((FIRST, replace(SECOND, ts=999)), "entry 2 is older than the one before it"),
        ((FIRST, replace(SECOND, previous=None)), "entry 2 does not follow on the one before it"),
        ((replace(FIRST, ts=1001), SECOND), "entry 2 does not follow on the one before it"),
        ((FIRST, replace(SECOND, seq=3)), "entry 2 is another one: number 3 of tehran"),
        ((FIRST, replace(SECOND, node="shiraz")), "entry 2 is another one: number 2 of shiraz"),
        ((FIRST, replace(SECOND, details=WITHHELD.digest)), "what is kept of entry 2 is not what was signed"),
    ],
)
def test_what_is_signed_and_not_true_is_seen(entries: tuple[Entry, Entry], fault: str) -> None:
    assert faults(*entries) == [fault]
