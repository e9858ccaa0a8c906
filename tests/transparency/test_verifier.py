"""The script that a stranger checks a key log with: whatever is changed of a log is refused."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from homeserver.protocol import signed_notes, tiles
from homeserver.protocol.key_log import Kind, Statement
from homeserver.protocol.signed_notes import COSIGNATURE
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.tiles import ENTRIES, WIDTH, Tile
from tests.deployment import Deployment
from tests.support import ON_SQLITE, aio
from tests.transparency.handmade import (
    ALICE,
    BOB,
    DEVICES,
    KEY,
    LEAVES,
    NAMES,
    ORIGIN,
    OTHER_KEY,
    Made,
    but_last,
    flipped,
    leaf,
    lines,
    manifest,
    of_another_checkpoint,
    opening,
    opening_respelled,
    respelled,
    shown,
    signature,
    told,
    without,
)
from tests.transparency.pages import served
from tests.transparency.stranger import LOGS
from tests.transparency.test_ghosts import cast
from tests.transparency.verifying import SCRIPT, run, script, verify

OTHER_LOG = "example.org/_domicile/v1/key-log/paris"
KEY_TEXT = signed_notes.public_key(ORIGIN, KEY).write()
NAME, NUMBER, TYPED = KEY_TEXT.split("+", 2)
NOT_SIGNED = f"the checkpoint is not signed by {KEY_TEXT}"
DIGESTS = "the digests are not those of the leaf"
NO_PROOF = f"the answer has no proof of the keys of {ALICE} by this log"

CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    # the checkpoint
    "unsigned": ({"note": without(ORIGIN)}, NOT_SIGNED),
    "signed by somebody else": ({"key": OTHER_KEY}, NOT_SIGNED),
    "the key of another log": (
        {"known_key": signed_notes.public_key(OTHER_LOG, OTHER_KEY).write()},
        "is not signed by",
    ),
    "another log": (
        {
            "origin": OTHER_LOG,
            "note": lambda note: note + signed_notes.sign(note.rpartition("\n\n")[0] + "\n", ORIGIN, KEY).write(),
        },
        f"the checkpoint is of another log, {OTHER_LOG}",
    ),
    "a mistyped key": ({"known_key": f"{NAME}+00000000+{TYPED}"}, "is no key of a log or a witness"),
    "the key of a witness": (
        {"known_key": signed_notes.public_key(ORIGIN, KEY, COSIGNATURE).write()},
        "is no key of a log or a witness",
    ),
    "a word": ({"known_key": "key"}, "key is no key"),
    "a bit of the signature": (
        {"note": signature(ORIGIN, lambda raw: flipped(raw, 40))},
        f"the signature of {ORIGIN} is not valid",
    ),
    "half a signature": ({"note": signature(ORIGIN, lambda raw: raw[:30])}, f"the signature of {ORIGIN} is not valid"),
    "a bit of a cosignature": (
        {"note": signature("w.ch", lambda raw: flipped(raw, 40))},
        "the signature of w.ch is not",
    ),
    "a cosignature of another time": (
        {"note": signature("w.ch", lambda raw: flipped(raw, 11))},
        "the signature of w.ch",
    ),
    "a cosignature of an older checkpoint": (
        {"note": of_another_checkpoint("w.de")},
        "the signature of w.de is not valid",
    ),
    "another size": ({"note": lambda note: note.replace("\n4\n", "\n3\n")}, f"the signature of {ORIGIN} is not valid"),
    "a size that is written otherwise": ({"note": respelled("\n4\n", "\n04\n")}, "the size of the log is none"),
    "a key for names twice": ({"lines": [*lines(), lines()[0]]}, "the checkpoint says something twice"),
    "no key for names": ({"lines": lines()[1:]}, "the checkpoint has no line vrf"),
    "another disclosure": ({"lines": lines(digest="cd" * 32)}, "the checkpoint counts other disclosures"),
    "fewer disclosures": ({"lines": lines(0)}, "the checkpoint counts other disclosures than the leaves state"),
    "disclosures are not counted": ({"lines": lines()[:1]}, "the checkpoint counts other disclosures than"),
    # the leaves
    "a leaf is left out": ({"tile": lambda raw: raw[: -len(LEAVES[3]) - 2]}, "tile 0 has fewer than 4 entries"),
    "a leaf is cut": ({"tile": lambda raw: raw[:-1]}, "tile 0 has fewer than 4 entries, or ends within one"),
    "a leaf too many": ({"tile": lambda raw: raw + b"\0\2{}"}, "tile 0 has more than 4 entries"),
    "leaves are exchanged": (
        {"tile": lambda raw: tiles.bundled([LEAVES[0], LEAVES[1], LEAVES[3], LEAVES[2]])},
        "leaf 3 is older than the one before it",
    ),
    "another leaf than that of the tree": (
        {"tile": lambda raw: tiles.bundled(but_last(time=1003))},
        "the leaves are not those that the checkpoint is of",
    ),
    "a leaf in the middle was never there": (
        {"leaves": [LEAVES[1], *LEAVES[2:]]},
        "leaf 2 does not follow on the last about the same user",
    ),
    "a back-dated leaf": ({"leaves": but_last(time=999)}, "leaf 3 is older than the one before it"),
    "a leaf without a time": ({"leaves": [*LEAVES[:3], b'{"time":"1003"}']}, "leaf 3 is older than the one before it"),
    "a leaf that begins anew": ({"leaves": but_last(previous=None)}, "leaf 3 does not follow on"),
    "a leaf that is spelled otherwise": (
        {"leaves": [*LEAVES[:3], LEAVES[3].replace(b'"time":', b'"time": ')]},
        "leaf 3 is written in another way",
    ),
    "no leaf": ({"leaves": [*LEAVES[:3], b"{}"]}, "leaf 3 is none"),
    "a leaf of brackets": ({"leaves": [*LEAVES[:3], b"[" * 60_000]}, "leaf 3 is none"),
    "a disclosure is left out": (
        {"leaves": [LEAVES[0], LEAVES[1], Statement(Kind.REGISTER, 2, "ab" * 32, 1001).write(), LEAVES[3]]},
        "leaf 2 is not disclosure 1, which comes next",
    ),
    "set back": (
        {"since": Made(leaves=[*LEAVES, leaf(BOB, previous=1, time=1003)]).signed().encode()},
        "the log has fewer leaves than it had: it was set back",
    ),
    "two histories": (
        {"since": Made(leaves=but_last(time=1003)).signed().encode()},
        "the log is no continuation of the older checkpoint: there are two histories",
    ),
    "another start": ({"since": Made(leaves=[LEAVES[1]]).signed().encode()}, "there are two histories"),
    "an older checkpoint by somebody else": ({"since": Made(key=OTHER_KEY).signed().encode()}, NOT_SIGNED),
    # names
    "somebody else's opening": ({"opening": opening(BOB)}, f"the opening is not that of {ALICE}"),
    "a bit of the opening": (
        {"opening": b64encode(flipped(NAMES.prove(ALICE.encode()), 40)).decode()},
        f"the opening is not that of {ALICE}",
    ),
    "an opening that is written otherwise": ({"opening": opening_respelled(ALICE)}, "the opening is none"),
    "half an opening": ({"opening": opening(ALICE)[:60]}, "the opening is none"),
    "a word as an opening": ({"opening": "opening"}, "the opening is none"),
    # what is shown
    "a device that the log does not know": (
        {"answer": shown("device_keys", GHOST={})},
        "speak of the device GHOST as it is",
    ),
    "a device whose name a terminal would obey": (
        {"answer": shown("device_keys", **{"GHOST\x1b[2K\nfine": {}})},
        "speak of the device GHOST\\x1b[2K\\nfine as it is",
    ),
    "other keys of a device": ({"answer": shown("device_keys", PHONE=DEVICES["LAPTOP"])}, "the device PHONE as it is"),
    "a device is kept back": (
        {"answer": lambda answer: answer["device_keys"][ALICE].pop("LAPTOP")},
        "the log speaks of devices that are not shown: LAPTOP",
    ),
    "another master key": (
        {"answer": shown("master_keys", usage=["self_signing"])},
        "of the master key as it is shown",
    ),
    "no master key": ({"answer": lambda answer: answer["master_keys"].clear()}, "of the master key as it is shown"),
    "a self-signing key": ({"answer": shown("self_signing_keys", keys={})}, "of the self_signing key as it is shown"),
    "other digests": ({"answer": told(keys=manifest("PHONE", "LAPTOP").decode() + " ")}, DIGESTS),
    "other digests in the leaf": ({"leaves": but_last(digest=bytes(32))}, DIGESTS),
    "keys of before": ({"answer": told(index=0)}, "the answer names leaf 0, and the newest is 3"),
    "somebody else's leaf": ({"answer": told(index=1)}, "the answer names leaf 1, and the newest is 3"),
    "no place": ({"answer": told(index=None)}, NO_PROOF),
    "no proof": ({"answer": lambda answer: answer.pop("org.domicile.key_log")}, NO_PROOF),
    "keys in another form": ({"answer": lambda answer: answer.update(device_keys=[])}, NO_PROOF),
}
NOT_YET: dict[str, tuple[dict[str, Any], str]] = {
    "a witness has not signed": ({"note": without("w.ch")}, "witnesses of 1 groups have signed, and 2 are needed"),
    "keys of a moment ago": ({"answer": told(index=4)}, "the keys are of leaf 4, which is not signed yet"),
    "the first keys": (
        {"leaves": LEAVES[1:3], "answer": told(index=2)},
        "the keys are of leaf 2, which is not signed yet",
    ),
}


def test_what_is_as_it_should_be_holds(tmp_path: Path) -> None:
    status, words = Made().verified(tmp_path)
    assert status == 0, words
    assert "4 leaves, about 2 users, 1 of kind register" in words
    assert "Signed by the log, and by witnesses of 2 groups: CH, DE" in words
    assert [line.split()[-2:] for line in words.splitlines() if "  leaf " in line] == [
        ["0", "device_keys"],
        ["3", "device_keys"],
    ]
    assert words.endswith(f"The keys of {ALICE} are those of the newest leaf\n")


def test_devices_that_are_kept_from_others_are_not_missed(tmp_path: Path) -> None:
    def kept_back(answer: dict[str, Any]) -> None:
        told(withheld=["LAPTOP"])(answer)
        answer["device_keys"][ALICE].pop("LAPTOP")

    assert Made(answer=kept_back).verified(tmp_path)[0] == 0


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_refused(change: str, tmp_path: Path) -> None:
    changed, sentence = CHANGES[change]
    status, words = Made(**changed).verified(tmp_path)
    assert (status, sentence in words) == (1, True), words
    assert words.splitlines()[-1].startswith("REFUSED: ")


@pytest.mark.parametrize("change", NOT_YET)
def test_what_is_to_come_is_told_from_what_is_wrong(change: str, tmp_path: Path) -> None:
    changed, sentence = NOT_YET[change]
    status, words = Made(**changed).verified(tmp_path)
    assert (status, sentence in words) == (3, True), words
    last = words.splitlines()[-1]
    assert last.startswith("NOT YET: ")
    assert "nothing is wrong so far; run this again in a minute" in last


def test_what_is_wrong_is_not_merely_to_come(tmp_path: Path) -> None:
    """Too few witnesses, and a lie: the lie is what one is told."""
    status, words = Made(note=without("w.ch"), answer=shown("device_keys", GHOST={})).verified(tmp_path)
    assert (status, "NOT YET" in words) == (1, False)


def test_each_bit_of_the_leaves_and_of_the_checkpoint_counts(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    assert Made().verified(folder)[0] == 0
    tile, note = folder / "tile/entries/000.p/4", folder / "checkpoint"
    for path, end in ((tile, tile.stat().st_size), (note, note.read_bytes().index(b"\n\n"))):
        whole = path.read_bytes()
        for place in range(0, end, 3):  # another bit each time
            path.write_bytes(flipped(whole, place))
            status, words = run(str(folder), "--key", KEY_TEXT)
            assert (status, "REFUSED: " in words) == (1, True), (path, place, words)
        path.write_bytes(whole)


def test_long_logs(tmp_path: Path) -> None:
    times = iter(range(1000, 2000))
    leaves = [leaf(f"@{number}:example.org", time=next(times)) for number in range(2 * WIDTH + 3)]
    older = Made(leaves=leaves[: WIDTH + 7], lines=lines(0)).signed().encode()
    long = Made(leaves=[*leaves, leaf(ALICE, "PHONE", "LAPTOP", time=next(times))], lines=lines(0), since=older)
    long.answer = told(index=len(leaves))
    status, words = long.verified(tmp_path)
    assert (status, f"{2 * WIDTH + 4} leaves, about {2 * WIDTH + 4} users" in words) == (0, True), words


def test_the_tiles_of_very_long_logs_are_found() -> None:
    asked: list[str] = []

    def fetch(log: str, path: str) -> bytes:
        asked.append(path)
        return b"\0\0"

    with mock.patch.dict(script()["entries"].__globals__, {"fetch": fetch, "WIDTH": 1}):
        assert set(script()["entries"]("log", 2005)) == {b""}
    assert asked == [tiles.path(Tile(ENTRIES, place)) for place in range(2005)]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    status, words = run(str(tmp_path / "nowhere"), "--key", KEY_TEXT)
    assert (status, "REFUSED: it cannot be read: " in words) == (1, True), words
    (tmp_path / "checkpoint").write_bytes(b"\xff")
    assert run(str(tmp_path), "--key", KEY_TEXT)[0] == 1
    for missing in (["--user", ALICE], ["--keys", "keys.json"], ["--opening", "x"]):
        assert run(str(tmp_path), "--key", KEY_TEXT, *missing)[0] == 2


def run_apart(program: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run as a stranger does."""
    return subprocess.run(program, capture_output=True, text=True, check=False, cwd=folder)


@ON_SQLITE
@aio
async def test_the_script_needs_nothing_of_domicile(deployment: Deployment, tmp_path: Path) -> None:
    alice, _, _ = await cast(deployment)
    opened = (await deployment.asked("GET", f"{LOGS}/me", token=alice.user.token)).json["opening"]
    pages = await served(deployment)
    witness, unknown = SigningKey.generate("w"), SigningKey.generate("w")
    key = pages.cosign("witness.example", witness)
    other = pages.cosign("other.example", unknown)
    folder = pages.save(tmp_path / "log")
    program = [sys.executable, "-I", str(SCRIPT), str(folder), "--key", pages.said()["key"]]
    named = ["--user", alice.user_id, "--opening", opened, "--witness", f"FR={key}", "--quorum", "1"]
    done = run_apart([*program, *named], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 leaves, about 2 users" in done.stdout
    assert [line.split()[-1] for line in done.stdout.splitlines() if "leaf" in line] == ["device_keys", "cross_signing"]
    status, words = verify(folder, pages, *named[:-1], "2", "--witness", f"FR={other}")
    assert (status, "1 groups have signed, and 2 are needed" in words) == (3, True)
    assert verify(folder, pages, *named[:-1], "2", "--witness", f"DE={other}")[0] == 0
    assert verify(folder, pages, *named[:-1], "2", "--witness", f"DE={key}")[0] == 2  # one, under two names
