"""Keys of people: made, kept so that only they can read them, read again, and not taken for another kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from nacl.public import PublicKey, SealedBox

from homeserver.__main__ import main
from homeserver.protocol import key_files
from homeserver.protocol.key_files import Kind
from homeserver.protocol.signing import decode_base64, encode_base64


def test_a_key_that_signs_is_read_again() -> None:
    made = key_files.make(Kind.ED25519)
    key = key_files.signing_key(made.text)
    assert key.verify_key.base64 == made.public
    assert key.verify_key.verifies(b"x", decode_base64(key.sign(b"x")))
    assert key_files.make(Kind.ED25519) != made


def test_a_key_that_opens_is_read_again() -> None:
    made = key_files.make(Kind.X25519)
    sealed = SealedBox(PublicKey(decode_base64(made.public))).encrypt(b"words")
    assert SealedBox(key_files.opening_key(made.text)).decrypt(sealed) == b"words"
    assert len(made.public) == 43
    assert made.text == f"x25519 {encode_base64(bytes(key_files.opening_key(made.text)))}\n"


def test_one_kind_is_not_taken_for_the_other() -> None:
    with pytest.raises(ValueError, match="one that signs is needed"):
        key_files.signing_key(key_files.make(Kind.X25519).text)
    with pytest.raises(ValueError, match="one that opens what was sealed is needed"):
        key_files.opening_key(key_files.make(Kind.ED25519).text)


@pytest.mark.parametrize("text", ["", "x25519 c2hvcnQ", "x25519 !!!", "rsa abc", "x25519 a b"])
def test_what_is_no_key_is_refused_without_quoting_it(text: str) -> None:
    for read in (key_files.signing_key, key_files.opening_key):
        with pytest.raises(ValueError, match=r"key|secret") as refused:
            read(text)
        assert len(text) < 7 or text not in str(refused.value)


def test_the_command_makes_a_file_that_only_its_owner_reads_and_overwrites_none(tmp_path: Path) -> None:
    file = tmp_path / "parisa.key"
    shell = CliRunner()
    made = shell.invoke(main, ["key", "new", "--kind", "ed25519", str(file), "--json"])
    assert made.exit_code == 0
    assert json.loads(made.output)["public_key"] == key_files.signing_key(file.read_text()).verify_key.base64
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    again = shell.invoke(main, ["key", "new", "--kind", "x25519", str(file)])
    assert again.exit_code == 1
    assert "is there already" in again.output
    assert file.read_text() == before
