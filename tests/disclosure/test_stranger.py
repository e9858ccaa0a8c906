"""What the script of strangers refuses of a register and of the key log beside it, as anybody could serve them."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any
from unittest import mock

import pytest

from homeserver.protocol import checkpoints
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.signing import SigningKey
from tests.disclosure.test_register import stranger

ORIGIN = "example.org/_domicile/v1/key-log/tehran"
KEY, OTHER = SigningKey.generate("log"), SigningKey.generate("other")
ENTRIES = [hashlib.sha256(each).hexdigest() for each in (b"1", b"2")]


def line(number: int, entry: str) -> str:
    return f"register {number} {b64encode(bytes.fromhex(entry)).decode()}"


def note(*lines: str, key: SigningKey = KEY) -> str:
    made = Checkpoint(ORIGIN, Head(9, bytes(32)), ("vrf AAAA", *lines))
    return checkpoints.signed(made, key).write().decode()


def check(said: str) -> None:
    stranger().check_log(said, KEY.verify_key.base64, "tehran", ENTRIES)


def test_a_log_that_names_an_entry_that_is_there() -> None:
    for number in (1, 2):  # the register may be farther
        check(note(line(number, ENTRIES[number - 1])))
    check(note(line(0, hashlib.sha256().hexdigest())))


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (note(line(2, ENTRIES[1]), key=OTHER), "the checkpoint of tehran is not signed by the key of its register"),
        (note(line(2, ENTRIES[1])).replace("register 2", "register 1"), "the checkpoint of tehran is not signed"),
        (note(line(2, ENTRIES[0])), "names an entry 2 that is not in its register"),
        (note(line(3, ENTRIES[1])), "names an entry 3 that is not in its register"),
        (note(), "does not say once how many entries its register has"),
        (note(line(1, ENTRIES[0]), line(2, ENTRIES[1])), "does not say once how many entries its register has"),
    ],
)
def test_a_log_that_says_something_else_of_the_register(said: str, fault: str) -> None:
    with pytest.raises(Exception, match=fault) as refused:
        check(said)
    assert type(refused.value).__name__ == "Wrong"


def test_a_register_that_never_ends() -> None:
    checks = stranger()

    def fetch(address: str, jurisdiction: str, after: int) -> dict[str, Any]:
        return {"registers": [{"node": "tehran", "records": [], "head": {}, "next": after + 1}]}

    with (
        mock.patch.object(checks, "fetch", fetch),
        pytest.raises(checks.Wrong, match="says that it goes on, and does not"),
    ):
        checks.whole("https://matrix.example.org", "IR")
