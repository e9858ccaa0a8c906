"""What a stranger does with a passport at the command line, over HTTP alone; and the digest of the program."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from homeserver.__main__ import main
from homeserver.passport import build
from homeserver.protocol import passports
from homeserver.protocol.signing import SigningKey, sign_json
from tests.passport.serving import Site, site

KEY = SigningKey("a", b"k" * 32)
PAGE, KEYS = "/_domicile/passport.json", "/_matrix/key/v2/server"
SAID = {
    "operator": {"legal_name": None, "contact": None},
    "software": {"name": "Domicile", "version": "1", "build_sha256": "00"},
    "policy": {"version": None},
    "encryption": {"required": True, "conformance_mode": False, "allowed_in_clear": [], "unsigned_device_grace_ms": 0},
    "jurisdictions": [],
    "nodes": [],
    "witnesses": [],
    "alarms": {"raised": 0, "open": 0},
}


def passport(ago: float = 0.0) -> bytes:
    """One that is some seconds old."""
    return json.dumps(passports.signed(SAID, "x.example", KEY, int((time.time() - ago) * 1000))).encode()


@pytest.fixture
def there() -> Iterator[Site]:
    with site() as made:
        document = {"server_name": "x.example", "verify_keys": {KEY.key_id: {"key": KEY.verify_key.base64}}}
        made.pages = {
            PAGE: (200, passport()),
            KEYS: (200, json.dumps(sign_json(document, "x.example", KEY)).encode()),
        }
        yield made


def verify(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["passport", "verify", *arguments])


def test_a_genuine_one_is_told_and_what_it_was_believed_by(there: Site) -> None:
    done = verify(there.base)
    assert done.exit_code == 0, done.output
    assert "x.example" in done.output
    assert "not signed by their owners: shown to nobody else" in done.output
    assert f"{there.base}{KEYS}" in done.output
    assert json.loads(verify(there.base, "--json").stdout)["genuine"] is True


@pytest.mark.parametrize("ago", [4000.0, -4000.0])
def test_an_old_one_is_not_what_is_to_be_shown_now(there: Site, tmp_path: Path, ago: float) -> None:
    there.pages[PAGE] = (200, passport(ago))
    done = verify(there.base)
    assert (done.exit_code, "clock is wrong" in done.output) == (1, True)
    (tmp_path / "kept.json").write_bytes(passport(ago))
    assert verify(str(tmp_path / "kept.json"), "--key", f"{KEY.key_id}={KEY.verify_key.base64}").exit_code == 0


def test_without_the_keys_there_it_says_what_to_do(there: Site) -> None:
    del there.pages[KEYS]
    done = verify(there.base)
    assert (done.exit_code, "--key" in done.output) == (1, True)


def test_one_that_was_changed_is_refused(there: Site) -> None:
    there.pages[PAGE] = (200, passport().replace(b'"required": true', b'"required": false'))
    done = verify(there.base)
    assert done.exit_code == 1
    assert "signature" in done.output


def test_a_file_needs_the_key_and_is_checked_by_it(tmp_path: Path) -> None:
    file = tmp_path / "passport.json"
    file.write_bytes(passport())
    assert verify(str(file)).exit_code == 2
    assert verify(str(file), "--key", "ed25519:a").exit_code == 2
    assert verify(str(file), "--key", f"{KEY.key_id}={KEY.verify_key.base64}").exit_code == 0
    other = SigningKey("a", b"o" * 32).verify_key
    assert verify(str(file), "--key", f"{other.key_id}={other.base64}").exit_code == 1


def test_another_build_than_expected_is_refused(there: Site) -> None:
    assert verify(there.base, "--build", "00").exit_code == 0
    done = verify(there.base, "--build", build.digest())
    assert done.exit_code == 1
    assert "another build" in done.output


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b""), "404"),
        ((302, b"/elsewhere"), "302"),
        ((200, b"["), "not JSON"),
        ((200, b"[]"), "no JSON object"),
        ((200, b" " * (passports.MOST_BYTES + 1)), "more than"),
    ],
)
def test_what_is_no_passport_is_one_line(there: Site, answer: tuple[int, bytes], said: str) -> None:
    there.pages |= {PAGE: answer, "/elsewhere": (200, passport())}
    done = verify(there.base)
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.splitlines()) == 1
    assert "/elsewhere" not in there.asked


# the build ----------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_tools_that_everybody_has(tmp_path: Path) -> None:
    for name, text in (("config/a.py", "1"), ("config/b/c.sql", "2"), ("federation/x.py", "3"), ("homeserver/y", "4")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "config" / "__pycache__").mkdir()
    (tmp_path / "config" / "__pycache__" / "a.cpython-311.pyc").write_text("compiled")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "z.py").write_text("not of the program")
    command = (
        "find config federation homeserver -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum"
        " | sha256sum | cut -d' ' -f1"
    )
    told = subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert build.digest(tmp_path) == told.strip()
    (tmp_path / "config" / "a.py").write_text("another")
    assert build.digest(tmp_path) != told.strip()


def test_the_command_says_the_digest_of_this_program() -> None:
    assert CliRunner().invoke(main, ["build-digest"]).output.strip() == build.digest()
    listed = CliRunner().invoke(main, ["build-digest", "--list"]).output
    assert hashlib.sha256(listed.encode()).hexdigest() == build.digest()
    assert "  homeserver/app.py\n" in listed
