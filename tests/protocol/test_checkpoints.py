"""Checkpoints and their cosignatures: what other implementations write is read, what we write they read, and what is
wrong with a note is said.

BY_GO was written by golang.org/x/mod/sumdb/note and transparency-dev/formats; they also took BY_US as valid.
"""

from __future__ import annotations

from base64 import b64decode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol import checkpoints, signed_notes
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.merkle import EMPTY_ROOT
from homeserver.protocol.signed_notes import COSIGNATURE, InvalidNote, NamedKey, Note
from homeserver.protocol.signing import SigningKey

ROOT = bytes.fromhex("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")
ORIGIN = "example.org/_domicile/v1/log/tehran"
LOG = SigningKey("log", bytes(range(32)))
WITNESS = SigningKey("witness", bytes(range(32, 64)))
NAME = "witness.example/w"
SECONDS = 1_700_000_000

BY_US = f"""{ORIGIN}
8
XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=
vrf AAAA

— {ORIGIN} eh02up83r038VDxA4tRfShngh96b0IFQq9o3Rh/9XW9VTGWsf+j0Tp0NvTZibWh2w8KC5EXPniPeZ9F3gNbYI7e1wAk=
— {NAME} GChPGAAAAABlU/EAdWdv8Xbp+ibSvxNrpK11exIyc8iRxCpH3eaEIRWySXBxVM3Kx/6ska1+eoPenZv0ZUgLyLEyh+5sRRabc6VdAQ==
""".encode()
OUR_KEYS = (
    f"{ORIGIN}+7a1d36ba+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
    f"{NAME}+18284f18+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X",
)

BY_GO = """go.example/log
8
XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=

— go.example/log +tb05ThOKgZVmVPQvTFibKC0mJNvojoPCAyl2shlCrjlLh9c2+ExhkIWUXOnkfQ2V2hG47LIOAZGi70wkXiW5+UzfwI=
— go.example/log \
7bhPbQAAAABrApgedtDBh2WQMpIhLfgMCOogbRUwxl1jx0yKqwWOHMFzdCjKa0VxCY4sgwMdgBf3i+Eu6tL/hWQ+8W2/qOy7wkNhBw==
""".encode()
KEYS_BY_GO = (
    "go.example/log+fad6f4e5+ASO8VJEsHm6SxKhoJchn4n/9xVW/+9QkTxeiar//7pZd",
    "go.example/log+edb84f6d+BCO8VJEsHm6SxKhoJchn4n/9xVW/+9QkTxeiar//7pZd",
)


def of_log(size: int = 8, root: bytes = ROOT, *lines: str) -> Note:
    return checkpoints.signed(Checkpoint(ORIGIN, Head(size, root), lines), LOG)


def key_of_log() -> NamedKey:
    return signed_notes.public_key(ORIGIN, LOG)


def key_of_witness(name: str = NAME) -> NamedKey:
    return signed_notes.public_key(name, WITNESS, COSIGNATURE)


def test_what_we_write() -> None:
    note = of_log(8, ROOT, "vrf AAAA")
    cosignature = checkpoints.cosigned(note, NAME, WITNESS, SECONDS)
    assert note.with_signatures([cosignature]).write() == BY_US
    assert (key_of_log().write(), key_of_witness().write()) == OUR_KEYS


@pytest.mark.parametrize(
    ("raw", "keys", "origin", "seconds"),
    [(BY_US, OUR_KEYS, ORIGIN, SECONDS), (BY_GO, KEYS_BY_GO, "go.example/log", 1_795_332_126)],
)
def test_what_is_written_is_read(raw: bytes, keys: tuple[str, str], origin: str, seconds: int) -> None:
    note = signed_notes.read(raw)
    assert note.write() == raw
    log, witness = (NamedKey.read(key) for key in keys)
    found = checkpoints.opened(note, log)
    assert (found.origin, found.head) == (origin, Head(8, ROOT))
    assert checkpoints.witnesses(note, [witness]) == {witness: seconds}
    assert [log.write(), witness.write()] == list(keys)


def test_further_lines_are_signed() -> None:
    found = checkpoints.opened(signed_notes.read(BY_US), key_of_log())
    assert found.extensions == ("vrf AAAA",)
    assert found.extension("vrf") == "AAAA"
    assert found.extension("vr") is None
    with pytest.raises(InvalidNote, match="not valid"):
        checkpoints.opened(signed_notes.read(BY_US.replace(b"vrf AAAA", b"vrf AAAB")), key_of_log())


@given(st.integers(0, 8 * len(BY_US) - 1))
@settings(max_examples=300, deadline=None)
def test_no_bit_of_a_note_can_be_changed(bit: int) -> None:
    """Whatever is changed, the note is refused, or it is one that the log or the witness has not signed."""
    forged = bytearray(BY_US)
    forged[bit // 8] ^= 1 << bit % 8
    try:
        note = signed_notes.read(bytes(forged))
        checkpoints.opened(note, key_of_log())
        seen = checkpoints.witnesses(note, [key_of_witness()])
    except InvalidNote:
        return
    assert seen == {}
    assert note.text == signed_notes.read(BY_US).text  # only the witness's line was spoilt, which then is a stranger's


def test_who_is_not_known_says_nothing() -> None:
    note = signed_notes.read(BY_US)
    stranger = SigningKey("other", b"o" * 32)
    assert checkpoints.witnesses(note, [signed_notes.public_key(NAME, stranger, COSIGNATURE)]) == {}
    assert signed_notes.believed(note, []) == []
    with pytest.raises(InvalidNote, match="no signature of"):
        checkpoints.opened(note, signed_notes.public_key(ORIGIN, stranger))


def test_a_bad_signature_of_somebody_known_spoils_the_note() -> None:
    note = of_log()
    cosignature = checkpoints.cosigned(of_log(7, EMPTY_ROOT), NAME, WITNESS, SECONDS)  # of another checkpoint
    both = note.with_signatures([cosignature])
    with pytest.raises(InvalidNote, match=r"signature of witness.* is not valid"):
        checkpoints.witnesses(both, [key_of_witness()])
    late = checkpoints.cosigned(note, NAME, WITNESS, SECONDS)
    moved = type(late)(late.name, late.key_id, (SECONDS + 1).to_bytes(8, "big") + late.raw[8:])
    with pytest.raises(InvalidNote, match="not valid"):
        checkpoints.witnesses(note.with_signatures([moved]), [key_of_witness()])
    assert late.cosigned_at == SECONDS


def test_a_signature_is_for_one_purpose() -> None:
    """A log's signature does not pass for a witness's, nor the other way round, though the secret is the same."""
    note = of_log()
    log, witness = key_of_log(), signed_notes.public_key(ORIGIN, LOG, COSIGNATURE)
    assert log.key_id != witness.key_id
    assert checkpoints.witnesses(note, [witness, log]) == {}
    with pytest.raises(InvalidNote, match="not one of a log"):
        checkpoints.opened(note, witness)
    bent = type(note.signatures[0])(ORIGIN, witness.key_id, note.signatures[0].raw)
    with pytest.raises(InvalidNote, match="not valid"):
        checkpoints.witnesses(note.with_signatures([bent]), [witness])


def test_a_log_speaks_for_itself_only() -> None:
    other = Checkpoint("other.example/log", Head(8, ROOT))
    note = Note(other.text, (signed_notes.sign(other.text, ORIGIN, LOG),))
    with pytest.raises(InvalidNote, match="signed a checkpoint of other"):
        checkpoints.opened(note, key_of_log())


def test_a_later_signature_replaces_the_one_before() -> None:
    note = of_log()
    for seconds in (SECONDS, SECONDS + 5):
        note = note.with_signatures([checkpoints.cosigned(note, NAME, WITNESS, seconds)])
    assert len(note.signatures) == 2
    assert checkpoints.witnesses(note, [key_of_witness()]) == {key_of_witness(): SECONDS + 5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has a line for its log"),
        ("a\n1\n", "has a line for its log"),
        ("a\n1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=", "has a line for its log"),
        ("\n1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "origin is empty"),
        ("a\n01\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "'01' is no size"),
        ("a\n+1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "no size"),
        ("a\n-1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "no size"),
        ("a\n٣\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "no size"),
        ("a\n9223372036854775808\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "does not have"),
        ("a\n" + "9" * 5000 + "\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "no size"),
        ("a\n0\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n", "without leaves"),
        ("a\n1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz-Nw7_RgQyg=\n", "not Base64"),
        ("a\n1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyh=\n", "as it is written"),
        ("a\n1\nXcnaeacGWamt\n", "root has 9 bytes"),
        ("a\n1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n\n", "is empty"),
        ("a\n1\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\nx\ty\n", "control character"),
    ],
)
def test_what_is_no_checkpoint(text: str, reason: str) -> None:
    with pytest.raises(InvalidNote, match=reason):
        checkpoints.read(text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no blank line"),
        (b"text\n", "no blank line"),
        (b"\n\n", "no blank line"),
        (b"text\n\n", "does not end with a line that is a signature"),
        (b"text\n\n\xe2\x80\x94 name AAAAAAA=", "does not end"),
        (b"text\n\nname AAAAAAA=\n", "is written"),
        (b"text\n\n- name AAAAAAA=\n", "is written"),
        (b"text\n\n\xe2\x80\x94 name\n", "is written"),
        (b"text\n\n\xe2\x80\x94 na+me AAAAAAA=\n", "is written"),
        (b"text\n\n\xe2\x80\x94 name A AAAAAA=\n", "not Base64"),
        (b"text\n\n\xe2\x80\x94 name AAAAAA==\n", "too short"),
        (b"text\n\n\xe2\x80\x94 name AAAAAAB=\n", "as it is written"),
        (b"te\x00xt\n\n\xe2\x80\x94 name AAAAAAA=\n", "control characters"),
        (b"te\xffxt\n\n\xe2\x80\x94 name AAAAAAA=\n", "not UTF-8"),
        (b"text\n\n" + b"\xe2\x80\x94 name AAAAAAA=\n" * 101, "more than 100"),
        (b"a" * 1_000_001, "larger than"),
    ],
)
def test_what_is_no_note(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidNote, match=reason):
        signed_notes.read(raw)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name", "written name"),
        ("na me+00000000+AQ==", "not an Ed25519 key"),
        (KEYS_BY_GO[0].replace("fad6", "fad7"), "has the id fad6f4e5"),
        (KEYS_BY_GO[0].replace("go.", "gone."), "has the id"),
        (KEYS_BY_GO[0].replace("+AS", "+BS"), "not an Ed25519 key"),
        (KEYS_BY_GO[0].replace("go.", "g o."), "no name of a key"),
    ],
)
def test_what_is_no_key(text: str, reason: str) -> None:
    with pytest.raises(InvalidNote, match=reason):
        NamedKey.read(text)


def test_signatures_without_their_note() -> None:
    lines = BY_US.partition(b"\n\n")[2]
    assert signed_notes.read_signatures(lines) == list(signed_notes.read(BY_US).signatures)
    for raw in (b"", lines[:-1], b"\xff\n"):
        with pytest.raises(InvalidNote):
            signed_notes.read_signatures(raw)
    assert b64decode(lines.split()[2])[:4] == key_of_log().key_id


def test_a_cosignature_is_of_a_checkpoint() -> None:
    with pytest.raises(InvalidNote):
        checkpoints.cosigned(Note("anything\n", ()), NAME, WITNESS, SECONDS)
    with pytest.raises(InvalidNote, match="no cosignature"):
        assert of_log().signatures[0].cosigned_at
