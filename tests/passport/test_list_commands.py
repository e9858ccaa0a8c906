"""What whoever keeps a federation list does at the command line, with a key and no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from homeserver.__main__ import main

TOML = """
name = "Test treaty"
serial = 4
valid_until = 2999-01-01T00:00:00Z
[servers."one.example"]
jurisdiction = "FR"
operator = "Hôpital"
[servers."two.example"]
jurisdiction = "IR"
valid_until = 2998-01-01T00:00:00+03:30
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a list that is not signed, and two keys."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.toml").write_text(TOML)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def made_key(name: str) -> str:
    done = run("key", "new", "--kind", "ed25519", name)
    assert done.exit_code == 0
    return done.output.strip()


def test_a_list_is_signed_and_checked(desk: Path) -> None:
    public, other = made_key("a.key"), made_key("b.key")
    done = run("federation-list", "sign", "list.toml", "--key", "a.key", "--to", "list.json")
    assert (done.exit_code, done.output) == (0, f"list.json: number 4, 2 servers, by {public}\n")
    signed = json.loads((desk / "list.json").read_text())
    assert signed["valid_until"] == 32472144000000
    assert signed["servers"]["two.example"]["valid_until"] == 32440595400000
    done = run("federation-list", "check", "list.json", "--key", public, "--json")
    assert (done.exit_code, json.loads(done.output)["signed_by"]) == (0, [public])
    assert run("federation-list", "check", "list.json", "--key", other).exit_code == 1
    assert run("federation-list", "sign", "list.json", "--key", "b.key", "--to", "both.json").exit_code == 0
    done = run("federation-list", "check", "both.json", "--key", other, "--key", public, "--json")
    assert json.loads(done.output)["signed_by"] == sorted([public, other])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TOML.replace("serial = 4", "serial = 0"), "serial"),
        (TOML.replace("2999-01-01T00:00:00Z", "2999-01-01T00:00:00"), "time zone"),
        (TOML.replace('"FR"', '"France"'), "ISO 3166"),
        ("name = ", "Invalid value"),
    ],
)
def test_what_is_no_list_is_not_signed(desk: Path, text: str, said: str) -> None:
    made_key("a.key")
    (desk / "list.toml").write_text(text)
    done = run("federation-list", "sign", "list.toml", "--key", "a.key", "--to", "list.json")
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.splitlines()) == 1
    assert not (desk / "list.json").exists()


def test_a_key_that_does_not_sign_and_a_list_that_has_expired_are_refused(desk: Path) -> None:
    assert run("key", "new", "--kind", "x25519", "x.key").exit_code == 0
    done = run("federation-list", "sign", "list.toml", "--key", "x.key")
    assert (done.exit_code, "signs" in done.output) == (1, True)
    public = made_key("a.key")
    (desk / "list.toml").write_text("issued = 1\n" + TOML.replace("2999", "1999").replace("2998", "1998"))
    assert run("federation-list", "sign", "list.toml", "--key", "a.key", "--to", "list.json").exit_code == 0
    done = run("federation-list", "check", "list.json", "--key", public)
    assert (done.exit_code, "expired" in done.output) == (1, True)
