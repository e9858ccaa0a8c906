"""The command line, on deployments that are not served at the time."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from homeserver.__main__ import main
from tests.operation.product import COMMAND, PASSWORD, Done, Product, run

FLAGS = ("--server-name", "example.org", "--jurisdiction", "IR", "--jurisdiction", "FR")
FILES = ["domicile.toml", "registration.secret", "residency.toml", "signing.key"]


def names(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that does something, by its words."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from names(inner, (*path, name))
    else:
        yield path


# help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", list(names(main)), ids=" ".join)
def test_help_has_an_example_that_the_command_takes(path: tuple[str, ...]) -> None:
    done = run(*path, "--help")
    assert done.status == 0
    example = re.search(r"Example: domicile ([^<]*)", " ".join(done.out.split()))
    assert example
    words = shlex.split(example[1])
    assert tuple(words[: len(path)]) == path
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    command.make_context(" ".join(path), words[len(path) :])  # raises for wrong usage


@pytest.mark.parametrize("words", [[], ["user"]], ids=["domicile", "domicile user"])
def test_a_group_without_a_command_shows_what_there_is(words: list[str]) -> None:
    done = run(*words)
    assert done.status == 2
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "nonsense"),
        (["check", "--nonsense"], "--nonsense"),
        (["user", "nonsense"], "nonsense"),
        (["user", "add", "--password-stdin"], "LOCALPART"),
        (["user", "add", "parisa"], "--password-stdin"),
        (["user", "show"], "NAME"),
        (["init"], "DIRECTORY"),
        (["init", "x", "--registration", "perhaps"], "perhaps"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: list[str], said: str, tmp_path: Path) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.status == 2
    assert said in done.complaint
    assert "--help" in done.complaint
    assert list(tmp_path.iterdir()) == []


def test_the_version() -> None:
    assert re.fullmatch(r"\S+, version \d\S*\n", run("--version").out)


# init ---------------------------------------------------------------------------------------


def test_init_writes_a_deployment_that_is_valid(tmp_path: Path) -> None:
    done = run("init", tmp_path / "new" / "house", *FLAGS)
    assert (done.status, done.err) == (0, "")
    house = tmp_path / "new" / "house"
    assert sorted(path.name for path in house.iterdir()) == FILES
    for secret in ("signing.key", "registration.secret"):
        assert stat.S_IMODE((house / secret).stat().st_mode) == 0o600
    assert run("check", "--config", house / "domicile.toml").status == 0
    assert sorted(path.name for path in house.iterdir()) == FILES, "check wrote something"


def test_two_deployments_have_different_keys(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("init", tmp_path / name, *FLAGS).status == 0
    for secret in ("signing.key", "registration.secret"):
        assert (tmp_path / "one" / secret).read_bytes() != (tmp_path / "two" / secret).read_bytes()


@pytest.mark.parametrize("present", FILES)
def test_init_overwrites_nothing(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("mine")
    done = run("init", tmp_path, *FLAGS)
    assert done.status == 1
    assert present in done.complaint
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(present, "mine")]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--server-name"),
        (("--server-name", "example.org"), "--jurisdiction"),
        (("--server-name", "ex ample", "--jurisdiction", "Iran"), 'server name.*"ex ample".*; .*"Iran"'),
        (("--server-name", "example.org", "--jurisdiction", ""), "ISO 3166.*''"),
        (("--server-name", "example.org", "--jurisdiction", "F R"), "ISO 3166.*'F R'"),
        (("--server-name", "a.org", "--jurisdiction", "FR", "--public-base-url", "a.org"), "https://"),
    ],
)
def test_init_without_a_terminal_says_all_that_it_needs(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = run("init", tmp_path / "house", *flags)
    assert done.status == 2
    assert re.search(said, done.complaint)
    assert not (tmp_path / "house").exists()


def test_init_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("init", tmp_path / "file" / "house", *FLAGS)
    assert done.status == 1
    assert str(tmp_path / "file") in done.complaint


def on_a_terminal(*arguments: str | Path, answers: Sequence[tuple[str, str]] = ()) -> Done:
    """Run a command at a terminal, where somebody who sees a prompt types the answer that belongs to it."""
    keyboard, terminal = pty.openpty()
    command = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # no other terminal can be asked instead
    )
    os.close(terminal)
    limit = threading.Timer(60, command.kill)
    limit.start()
    assert command.stdout
    said = b""
    left = list(answers)
    while more := os.read(command.stdout.fileno(), 4096):
        said += more
        if left and left[0][0].encode() in said.rpartition(b"\n")[2]:
            os.write(keyboard, left.pop(0)[1].encode())
            said += b"\n"  # what is typed is shown by the terminal, not by the command
    command.stdout.close()
    command.wait()
    limit.cancel()
    os.close(keyboard)
    assert b"Traceback" not in said
    assert not left, said
    return Done(command.returncode, said.decode(), "")


def test_init_asks_on_a_terminal_only_what_the_flags_did_not_say(tmp_path: Path) -> None:
    both = on_a_terminal(
        "init", tmp_path / "a", answers=[("Server name", "example.org\n"), ("Jurisdictions", "IR FR\n")]
    )
    assert both.status == 0
    assert 'server_name = "example.org"' in (tmp_path / "a" / "domicile.toml").read_text()
    assert "[nodes.fr]" in (tmp_path / "a" / "residency.toml").read_text()
    one = on_a_terminal("init", tmp_path / "b", "--server-name", "example.org", answers=[("Jurisdictions", "FR\n")])
    assert one.status == 0
    assert "Server name" not in one.out
    nothing = on_a_terminal("init", tmp_path / "c", *FLAGS)
    assert nothing.status == 0
    assert "Server name" not in nothing.out
    assert "Jurisdictions" not in nothing.out


def test_init_broken_off_on_a_terminal_writes_nothing(tmp_path: Path) -> None:
    done = on_a_terminal("init", tmp_path / "a", answers=[("Server name", "example.org\n"), ("Jurisdictions", "\x04")])
    assert done.status == 1
    assert "nothing was done" in done.out
    assert not (tmp_path / "a").exists()


# check --------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A deployment that was never served."""
    assert run("init", tmp_path / "house", *FLAGS).status == 0
    return tmp_path / "house"


def test_check_names_the_faults_of_both_files_at_once(house: Path) -> None:
    settings, policy = house / "domicile.toml", house / "residency.toml"
    settings.write_text(settings.read_text().replace("port = 8008", 'prot = 8008\ntls = "yes"'))
    policy.write_text(policy.read_text().replace('jurisdiction = "FR"', 'jurisdiction = "FX"'))
    done = run("check", "--config", settings)
    assert done.status == 1
    assert done.out == ""
    prot, tls, flow = done.err.splitlines()
    assert re.match(rf"{re.escape(str(settings))}:\d+: listeners\[0\]\.prot: .*port", prot)
    assert re.match(rf"{re.escape(str(settings))}:\d+: listeners\[0\]\.tls: ", tls)
    assert re.match(rf"{re.escape(str(policy))}:\d+: nodes\.fr\.jurisdiction: .*FX", flow)
    told = run("check", "--json", "--config", settings)
    assert told.status == 1
    assert told.err == ""
    assert json.loads(told.out) == {"valid": False, "problems": done.err.splitlines()}


def test_check_says_what_is_well(house: Path) -> None:
    done = run("check", "--config", house / "domicile.toml")
    assert done.status == 0
    assert len(done.out.splitlines()) == 1
    assert done.out.startswith(f"{house / 'domicile.toml'} and {house / 'residency.toml'} are valid")
    told = run("check", "--json", "--config", house / "domicile.toml")
    assert (told.status, json.loads(told.out)) == (0, {"valid": True, "problems": []})


# user ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """A deployment that nobody serves, with one account."""
    product = Product(tmp_path_factory.mktemp("idle"))
    done = product.run(
        "user", "add", "parisa", "--phone", "+989121234567", "--admin", "--password-stdin", stdin=PASSWORD + "\n"
    )
    assert (done.status, done.out, done.err) == (0, "@parisa:domicile.test rests on tehran\n", "")
    return product


def test_a_list_that_was_fetched_is_there_for_the_next_command(house: Path) -> None:
    on = ("--config", house / "domicile.toml")
    key = run("key", "new", "--kind", "ed25519", "treaty.key", cwd=house).out.strip()
    with (house / "residency.toml").open("a") as policy:
        policy.write(f'\n[federation_list]\nkeys = ["{key}"]\nurl = "file:list.json"\n')
    written = house / "list.toml"
    written.write_text(
        'name = "Treaty"\nserial = 1\nvalid_until = 2999-01-01T00:00:00Z\n'
        '[servers."one.example"]\njurisdiction = "FR"\noperator = "Hôpital"\n'
    )
    assert "cannot be read" in run("federation-list", "pull", *on).complaint
    signing = ("federation-list", "sign", "list.toml", "--key", "treaty.key", "--to", "data/list.json")
    assert run(*signing, cwd=house).status == 0
    assert run("federation-list", "pull", *on).status == 0
    done = run("federation-list", "status", *on)
    assert (done.status, "1 of 1 servers are placed by it" in done.out) == (0, True)
    assert run("federation-list", "servers", *on).out == "one.example  FR  Hôpital\n"
    (house / "data" / "list.json").write_text("{")
    done = run("federation-list", "pull", *on)
    assert (done.status, "not all of it" in done.complaint) == (1, True)
    assert run("federation-list", "status", *on).status == 0


def test_show_says_where_an_account_rests(idle: Product) -> None:
    for name in ("parisa", "@parisa:domicile.test"):
        done = idle.run("user", "show", name, "--json")
        assert done.status == 0
        shown = json.loads(done.out)
        assert shown.pop("created_ts") > 0
        assert shown["pinned"].pop("ts") > 0
        assert shown == {
            "user_id": "@parisa:domicile.test",
            "state": ["admin"],
            "node": "tehran",
            "jurisdiction": "IR",
            "pinned": {"how": "phone", "rule": 'phone_prefix = "+98"'},
            "threepids": [{"medium": "msisdn", "address": "989121234567"}],
            "devices": [],
        }
    told = idle.run("user", "show", "parisa").out
    assert "rests on tehran in IR" in told
    assert "989121234567" in told


def test_list_reset_and_deactivate(idle: Product) -> None:
    added = idle.run("user", "add", "pierre", "--node", "paris", "--json", "--password-stdin", stdin=PASSWORD + "\n")
    assert json.loads(added.out) == {"user_id": "@pierre:domicile.test", "node": "paris"}
    listed = json.loads(idle.run("user", "list", "--json").out)
    assert {user["user_id"]: (user["node"], user["state"]) for user in listed["users"]} == {
        "@parisa:domicile.test": ("tehran", ["admin"]),
        "@pierre:domicile.test": ("paris", []),
    }
    assert listed["nodes_down"] == []
    assert idle.run("user", "reset-password", "pierre", "--password-stdin", stdin="another password\n").status == 0
    assert idle.run("user", "deactivate", "pierre").status == 0
    assert re.search(r"^@pierre:domicile\.test +paris +deactivated$", idle.run("user", "list").out, re.MULTILINE)
    again = idle.run("user", "add", "pierre", "--node", "paris", "--password-stdin", stdin=PASSWORD + "\n")
    assert (again.status, again.out) == (1, "")
    assert again.complaint


def test_roles_and_the_log_of_them(idle: Product) -> None:
    assert idle.run("user", "role", "add", "parisa", "auditor").out == "@parisa:domicile.test  operator auditor\n"
    assert idle.run("user", "role", "list", "parisa").out == "@parisa:domicile.test  operator auditor\n"
    assert idle.run("user", "role", "remove", "parisa", "auditor").out == "@parisa:domicile.test  operator\n"
    assert "does not have the role" in idle.run("user", "role", "remove", "parisa", "auditor").complaint
    logged = idle.run("admin-log", "--node", "tehran", "--limit", "2")
    assert logged.status == 0
    assert [line.split()[-1] for line in logged.out.splitlines()] == ["begun", "(M_UNKNOWN)"]
    (database,) = idle.settings.parent.glob("data/tehran/node.db")
    with contextlib.closing(sqlite3.connect(database)) as node, node:
        assert node.execute("DELETE FROM admin_log WHERE seq = 2").rowcount == 1
    broken = idle.run("admin-log")
    assert (broken.status, broken.complaint) == (1, "the log of @parisa:domicile.test on tehran: entry 2 is gone")


REFUSED = [
    (["user", "show", "nobody"], "", "no such user"),
    (["user", "show", "@a:elsewhere.org"], "", "no such user"),
    (["user", "deactivate", "nobody"], "", "no such user"),
    (["user", "reset-password", "nobody", "--password-stdin"], PASSWORD, "no such user"),
    (["user", "reset-password", "parisa", "--password-stdin"], "short", "8 characters"),
    (["user", "add", "parisa", "--node", "paris", "--password-stdin"], PASSWORD, "taken|use"),
    (["user", "add", "BAD NAME", "--node", "paris", "--password-stdin"], PASSWORD, "a-z"),
    (["user", "add", "new", "--node", "rome", "--password-stdin"], PASSWORD, "rome"),
    (["user", "add", "new", "--password-stdin"], PASSWORD, "where you live"),
    (["user", "add", "new", "--phone", "0912", "--password-stdin"], PASSWORD, r"country code"),
    (["user", "add", "new", "--node", "paris", "--password-stdin"], "short", "8 characters"),
]


@pytest.mark.parametrize(("words", "password", "said"), REFUSED)
def test_what_is_refused_is_said_in_one_line(idle: Product, words: list[str], password: str, said: str) -> None:
    done = idle.run(*words, stdin=password + "\n")
    assert (done.status, done.out) == (1, "")
    assert re.search(said, done.complaint)


@pytest.mark.parametrize(("stdin", "said"), [(b"", "none"), (b"\n", "none"), (b"\xff\xfe\xfd passwords\n", "UTF-8")])
def test_a_password_that_cannot_be_read(idle: Product, stdin: bytes, said: str) -> None:
    done = idle.run("user", "add", "new", "--node", "paris", "--password-stdin", stdin=stdin)
    assert done.status == 2
    assert said in done.complaint
    assert idle.run("user", "show", "new").status == 1


def test_a_password_typed_on_a_terminal_is_asked_twice_and_not_shown(idle: Product) -> None:
    words = ("user", "add", "typist", "--node", "paris", "--password-stdin", "--config", idle.settings)
    done = on_a_terminal(*words, answers=[("Password", "typed password\n"), ("Repeat", "typed password\n")])
    assert done.status == 0
    assert "typed password" not in done.out + done.err
    assert idle.run("user", "show", "typist").status == 0


# residency ----------------------------------------------------------------------------------


def test_traffic_of_a_deployment_that_nobody_serves(house: Path) -> None:
    """It is counted in the memory of the server, so there is no answer, and nothing is made to give one."""
    before = sorted(house.rglob("*"))
    for words in (["residency", "traffic"], ["residency", "traffic", "--json"]):
        done = run(*words, "--config", house / "domicile.toml")
        assert (done.status, done.out) == (1, "")
        assert f"no server serves {house / 'data'} " in done.complaint
    assert sorted(house.rglob("*")) == before
