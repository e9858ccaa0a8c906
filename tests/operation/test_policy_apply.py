"""Plans from the command line: shown, applied by digest, and never half applied, whoever is killed when."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from tests.interop.api import Api, ApiError
from tests.interop.client import ROOT
from tests.interop.deployment import FLOWS
from tests.operation.product import COMMAND, PASSWORD, Product

PLANNED = "\n[changes]\nplan = true\n"
LYON = '\n[nodes.lyon]\njurisdiction = "FR"\ndatabase = "sqlite:lyon/node.db"\nmedia = "file:lyon/media"\n'


@pytest.fixture
def product(tmp_path: Path) -> Product:
    """A deployment whose policy asks for plans, with one user."""
    made = Product(tmp_path, flows=False)
    made.add(PLANNED, made.policy)
    made.add_user("parisa", PASSWORD, "--node", "tehran")
    return made


def draft(product: Product, more: str = FLOWS) -> str:
    """Write the next version into the file."""
    serial = versions(product)[-1]["serial"] + 1
    text = re.sub(r"serial = \d+", f"serial = {serial}", product.policy.read_text()) + more
    product.policy.write_text(text)
    return text


def versions(product: Product) -> list[dict[str, Any]]:
    """What the command says of all versions, whose chain must hold."""
    done = product.run("residency", "history", "--json")
    assert done.status == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)["versions"]
    return found


def plan(product: Product, *words: str) -> dict[str, Any]:
    """A plan that can be applied."""
    done = product.run("residency", "plan", *words, "--json")
    assert done.status == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


# on the command line ------------------------------------------------------------------------


def test_a_plan_is_shown_and_applied_by_its_digest(product: Product) -> None:
    text = draft(product)
    shown = product.run("residency", "plan")
    assert shown.status == 0
    for line in ("Version 2, after version 1", r"\+ IR -> FR: .*events", r"\+ rooms between FR and IR can be formed"):
        assert re.search(line, shown.out), shown.out
    digest = plan(product)["digest"]
    assert f"domicile residency apply {digest}" in shown.out
    assert len(versions(product)) == 1, "a plan changes nothing"
    for wrong in (digest[:-1], "f" * 64):
        done = product.run("residency", "apply", wrong)
        assert done.status == 1
        assert "plan again" in done.complaint
    assert len(versions(product)) == 1
    done = product.run("residency", "apply", digest)
    assert (done.status, done.out) == (0, "Version 2 is in force.\n")
    assert [version["how"] for version in versions(product)] == ["first", "applied"]
    assert versions(product)[1]["plan"] == digest
    assert product.policy.read_text() == text
    assert product.run("residency", "plan").out.startswith("Nothing would change")


def test_a_file_elsewhere_takes_the_place_of_the_policy(product: Product, tmp_path: Path) -> None:
    """Relative paths in it start from where it will stand; mistakes are told of where it stands now."""
    before = product.policy.read_text()
    text = draft(product)
    elsewhere = tmp_path / "elsewhere" / "draft.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(text)
    product.policy.write_text(before)
    faulty = tmp_path / "faulty.toml"
    faulty.write_text(text.replace("events", "evnts"))
    done = product.run("residency", "plan", str(faulty))
    assert done.status == 1
    assert re.search(r"faulty\.toml:\d+: flows", done.err)
    digest = plan(product, str(elsewhere))["digest"]
    assert product.run("residency", "apply", digest, str(elsewhere)).status == 0
    assert product.policy.read_text() == text


@pytest.mark.parametrize("words", [[], ["a" * 64, "--resume"], ["--resume", "--give-up"]])
def test_apply_is_told_one_thing(product: Product, words: list[str]) -> None:
    done = product.run("residency", "apply", *words)
    assert done.status == 2
    assert "--resume" in done.complaint
    assert product.run("residency", "apply", "--resume").status == 1


def test_a_rollback_shows_its_plan_first_and_keeps_comments(product: Product) -> None:
    first = "# written by hand\n" + product.policy.read_text()
    product.policy.write_text(first)
    product.run("residency", "apply", plan_of(product, draft(product)))
    shown = product.run("residency", "rollback", "1")
    assert shown.status == 0
    assert re.search(r"- rooms between FR and IR can be formed no more", shown.out)
    match = re.search(r"domicile residency rollback 1 ([0-9a-f]{64})", shown.out)
    assert match
    assert product.run("residency", "rollback", "1", "0" * 64).status == 1
    assert product.run("residency", "rollback", "1", match[1]).status == 0
    assert [version["how"] for version in versions(product)] == ["first", "applied", "rolled-back"]
    assert versions(product)[2]["restores"] == 1
    old = first.removeprefix("# written by hand\n")  # which is no change, and so was never a version
    assert product.policy.read_text() == old.replace("serial = 1", "serial = 3")
    assert product.run("residency", "rollback", "7").status == 1


def plan_of(product: Product, text: str) -> str:
    """The digest of the plan of what stands in the file."""
    assert product.policy.read_text() == text
    digest: str = plan(product)["digest"]
    return digest


def test_approvals_are_given_with_keys_that_stay_where_they_are(product: Product, tmp_path: Path) -> None:
    approvers = ""
    for name in ("ann", "ben", "eve"):
        made = product_free("residency", "approver", name, "--key-file", str(tmp_path / f"{name}.key"))
        assert (tmp_path / f"{name}.key").stat().st_mode & 0o777 == 0o600
        approvers += made if name != "eve" else ""
    again = subprocess.run(
        [*COMMAND, "residency", "approver", "ann", "--key-file", str(tmp_path / "ann.key")],
        capture_output=True,
        cwd=ROOT,
    )
    assert again.returncode == 1
    product.policy.write_text(product.policy.read_text().replace("plan = true", "plan = true\napprovals = 2"))
    first = draft(product, approvers)
    assert product.run("residency", "apply", plan_of(product, first)).status == 0
    second = draft(product)
    digest = plan_of(product, second)

    def approve(name: str, key: str) -> int:
        words = ("residency", "approve", digest, "--name", name, "--key-file", str(tmp_path / f"{key}.key"))
        return product.run(*words).status

    with product:
        assert product.run("residency", "apply", digest).status == 1
        assert approve("ann", "ann") == 0
        assert approve("ann", "ann") == 1
        assert approve("eve", "eve") == 1
        assert approve("ben", "eve") == 1
        done = product.run("residency", "apply", digest)
        assert (done.status, "has 1 (so far: ann)" in done.complaint) == (1, True)
        assert approve("ben", "ben") == 0
        assert "Approvals: 2 of 2 (ann, ben)" in product.run("residency", "plan").out
        assert product.run("residency", "apply", digest).status == 0
    assert versions(product)[-1]["approvals"] == ["ann", "ben"]


def product_free(*words: str) -> str:
    """What a command prints that needs no deployment."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return "\n" + done.stdout


# beside a running server --------------------------------------------------------------------


def test_a_running_server_takes_it_at_once_and_nodes_come_and_go(product: Product) -> None:
    with product:
        alice = product.user("alice", "tehran")
        room = alice.client("POST", "/createRoom", {})["room_id"]
        louis = f"/rooms/{room}/invite", {"user_id": "@louis:domicile.test"}
        with pytest.raises(ApiError):
            product.user("louis", "lyon")
        text = draft(product, FLOWS + LYON)
        product.run("residency", "apply", plan_of(product, text))
        guest = product.user("louis", "lyon")
        alice.client("POST", *louis)
        assert guest.client("POST", f"/join/{room}", {})["room_id"] == room
        assert re.search('domicile_node_up{.*"lyon"', metrics(product))
        # paris, where nobody is, goes
        paris = re.search(r"\[nodes\.paris\].*?\n\n", text, re.DOTALL)
        assert paris
        without = text.replace(paris[0], "").replace('node = "paris"', 'node = "lyon"')
        product.policy.write_text(without)
        third = draft(product, "")
        before = product.lines
        product.run("residency", "apply", plan_of(product, third))
        assert not re.search('domicile_node_up{.*"paris"', metrics(product))
        with pytest.raises(ApiError):
            product.user("marie", "paris")
        assert guest.client("GET", "/account/whoami")["user_id"] == "@louis:domicile.test"
        product.send(signal.SIGHUP)
        product.logged("residency policy in force.*serial=3", after=before)
        # lyon, where somebody is, does not
        product.policy.write_text(third.replace(LYON, "").replace('node = "lyon"', 'node = "tehran"'))
        draft(product, "")
        done = product.run("residency", "plan")
        assert done.status == 1
        assert re.search("Cannot be applied: 1 users of lyon .@louis:domicile.test. would have no place", done.out)
        product.policy.write_text(third)
    with product:
        product.logged("residency policy in force.*serial=3")
        assert guest.client("GET", "/account/whoami")["user_id"] == "@louis:domicile.test"
    assert "Traceback" not in product.log.read_text()


def test_users_of_a_node_that_goes_are_moved_and_go_on(product: Product) -> None:
    """A command on a stopped deployment says that this takes a server."""
    text = re.sub(r"serial = 1", "serial = 2", product.policy.read_text()).replace('"paris"', '"lyon"') + LYON
    paris = re.search(r"\[nodes\.paris\].*?\n\n", text, re.DOTALL)
    assert paris
    text = text.replace(paris[0], "")
    with product:
        pierre, marie = product.user("pierre", "paris"), product.user("marie", "paris")
        alice = product.user("alice", "tehran")
        room = quote(str(pierre.client("POST", "/createRoom", {"room_alias_name": "hall"})["room_id"]))
        pierre.client("POST", f"/rooms/{room}/invite", {"user_id": "@marie:domicile.test"})
        marie.client("POST", f"/rooms/{room}/join", {})
        product.policy.write_text(text)
        shown = product.run("residency", "plan")
        assert shown.status == 0, shown.err
        assert "Rooms that paris orders, and other nodes will that have members: 1" in shown.out
        assert re.search(r"Users that move from paris to lyon \(node gone\): 2", shown.out)
        digest = plan_of(product, text)
        done = product.run("residency", "apply", digest)
        assert (done.status, done.out) == (0, "Version 2 is in force.\n"), done.err
        for user, name in ((pierre, "pierre"), (marie, "marie"), (alice, "alice")):
            assert user.client("GET", "/account/whoami")["user_id"] == f"@{name}:domicile.test"
        marie.client("PUT", f"/rooms/{room}/state/m.room.member/@marie:domicile.test", {"membership": "leave"})
        assert pierre.client("GET", f"/rooms/{room}/joined_members")["joined"].keys() == {"@pierre:domicile.test"}
        assert pierre.client("GET", f"/directory/room/{quote('#hall:domicile.test')}")["room_id"] == unquote(room)
        told = product.run("residency", "move", "--room", unquote(room), "--to", "lyon")
        assert (told.status, told.out) == (0, f"{unquote(room)} is ordered by lyon already\n")
        told = product.run("residency", "move", "--room", unquote(room), "--to", "tehran", "--dry-run")
        assert told.status == 1
        assert "first: nobody in that room rests on tehran" in told.out
        assert product.run("residency", "move", "alice", "--room", unquote(room), "--to", "lyon").status == 2
        listed = product.run("user", "list").out
        assert len(re.findall("  lyon", listed)) == 2
        assert "  paris" not in listed
        back = product.run("residency", "rollback", "1")
        assert back.status == 0
        assert re.search("Users that move from lyon to paris", back.out)
    product.policy.write_text(text)
    done = product.run("residency", "rollback", "1")
    assert done.status == 1
    assert "which a server does that is running" in done.out
    with product:
        assert pierre.client("GET", "/account/whoami")["user_id"] == "@pierre:domicile.test"


def metrics(product: Product) -> str:
    """The numbers of the server."""
    import urllib.request

    with urllib.request.urlopen(f"{product.base_url}/metrics") as answer:
        text: str = answer.read().decode()
        return text


def test_of_two_commands_at_once_one_wins(product: Product, tmp_path: Path) -> None:
    old = product.policy.read_text()
    texts = [draft(product, FLOWS), old.replace("serial = 1", "serial = 2") + '[retention.IR]\nsessions = "3d"\n']
    product.policy.write_text(old)
    files = [tmp_path / "one.toml", tmp_path / "two.toml"]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    with product:
        digests = [plan(product, str(file))["digest"] for file in files]
        with ThreadPoolExecutor() as pool:
            words = [("residency", "apply", digest, str(file)) for digest, file in zip(digests, files, strict=True)]
            done = list(pool.map(lambda each: product.run(*each), words))
    assert sorted(each.status for each in done) == [0, 1]
    winner = [each.status for each in done].index(0)
    assert versions(product)[-1]["plan"] == digests[winner]
    assert len(versions(product)) == 2
    assert product.policy.read_text() == texts[winner]


# killed -------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from importlib import import_module

module, name, when = sys.argv[1:4]
owner = import_module(module)
*path, name = name.split(".")
for step in path:
    owner = getattr(owner, step)
real = getattr(owner, name)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def instead(*args, **kwargs):
    if when == "before":
        die()
    done = real(*args, **kwargs)
    if hasattr(done, "__await__"):
        async def later():
            await done
            die()
        return later()
    die()

setattr(owner, name, instead)
from homeserver.__main__ import main
main(sys.argv[4:], prog_name="domicile")
"""
"""Runs a command, and kills the process when a function of it is called, or has done its work."""

PLANS = "homeserver.storage.policy_plans"
STEPS = "homeserver.residency.changes.carrying_out"


@pytest.mark.parametrize(
    ("module", "function", "when", "recorded"),
    [
        (PLANS, "begin", "before", False),
        (STEPS, "_open_nodes", "before", False),
        ("homeserver.places", "OpenPlaces.node", "before", False),
        (STEPS, "_open_nodes", "after", False),
        (PLANS, "record", "before", False),
        (PLANS, "record", "after", False),  # and not committed
        (STEPS, "_swap", "before", True),
        (STEPS, "_swap", "after", True),
        ("homeserver.residency.changes.file", "put", "before", True),
        ("os", "fchmod", "before", True),
        ("pathlib", "Path.rename", "before", True),
        ("homeserver.residency.changes.file", "put", "after", True),
        (PLANS, "end", "before", True),
        (PLANS, "end", "after", True),
    ],
)
def test_whoever_is_killed_it_is_done_whole_or_not_at_all(
    product: Product, tmp_path: Path, module: str, function: str, when: str, recorded: bool
) -> None:
    old = product.policy.read_text()
    text = draft(product, FLOWS + LYON)
    product.policy.write_text(old)
    new = tmp_path / "new.toml"
    new.write_text(text)
    digest = plan(product, str(new))["digest"]
    words = ["residency", "apply", digest, str(new), "--config", str(product.settings)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, module, function, when, *words], cwd=ROOT, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(versions(product)) == 1 + recorded
    if recorded:
        assert product.policy.read_text() == text, "the next who opens the deployment replaces the file"
        with product:
            product.user("louis", "lyon")
    else:
        assert product.policy.read_text() == old
        with product:
            product.logged("residency policy in force.*serial=1")
            assert Api(product.base_url).ask("GET", "/health")["status"] == "ok"
    done = product.run("residency", "apply", digest, str(new))
    assert (done.status, done.out) == (0, "Version 2 is in force.\n")
    assert [version["how"] for version in versions(product)] == ["first", "applied"]
    assert product.policy.read_text() == text
    assert sorted(path.name for path in product.folder.glob("*residency*")) == ["residency.toml"]


@pytest.mark.parametrize("moved", [0, 1, 4])
def test_a_server_that_is_killed_while_it_moves_users_goes_on(product: Product, moved: int) -> None:
    """Those who have been moved already are served from where they are now, before anybody goes on."""
    text = re.sub(r"serial = 1", "serial = 2", product.policy.read_text()).replace('"paris"', '"lyon"') + LYON
    paris = re.search(r"\[nodes\.paris\].*?\n\n", text, re.DOTALL)
    assert paris
    text = text.replace(paris[0], "")
    product.start()
    people = {f"user{number}": product.user(f"user{number}", "paris") for number in range(6)}
    room = quote(str(people["user0"].client("POST", "/createRoom", {"preset": "public_chat"})["room_id"]))
    for number in (3, 5):
        people[f"user{number}"].client("POST", f"/rooms/{room}/join", {})
    product.policy.write_text(text)
    digest = plan_of(product, text)
    with ThreadPoolExecutor() as pool:
        applying = pool.submit(product.run, "residency", "apply", digest)
        while not applying.done():
            listed = json.loads(product.run("user", "list", "--json").out)["users"]
            if sum(user["node"] == "lyon" for user in listed) >= moved:
                break
        product.kill9()
        assert "Traceback" not in applying.result().err
    with product:
        for name, user in people.items():
            assert user.client("GET", "/account/whoami")["user_id"] == f"@{name}:domicile.test"
        done = product.run("residency", "apply", digest)
        assert (done.status, done.out) == (0, "Version 2 is in force.\n"), done.err
        for name, user in people.items():
            assert user.client("GET", "/account/whoami")["user_id"] == f"@{name}:domicile.test"
        listed = json.loads(product.run("user", "list", "--json").out)["users"]
        assert sorted(user["user_id"] for user in listed if user["node"] == "lyon") == [
            f"@{name}:domicile.test" for name in people
        ]
        people["user5"].client(
            "PUT", f"/rooms/{room}/state/m.room.member/@user5:domicile.test", {"membership": "leave"}
        )
        assert len(people["user3"].client("GET", f"/rooms/{room}/joined_members")["joined"]) == 2
    assert [version["how"] for version in versions(product)] == ["first", "applied"]
    assert product.policy.read_text() == text


def test_what_somebody_wrote_into_the_file_after_the_kill_stays_there(product: Product, tmp_path: Path) -> None:
    old = product.policy.read_text()
    text = draft(product)
    digest = plan_of(product, text)
    product.policy.write_text(old)
    new = tmp_path / "new.toml"
    new.write_text(text)
    words = ["residency", "apply", digest, str(new), "--config", str(product.settings)]
    place = ("homeserver.residency.changes.file", "put", "before")
    killed = subprocess.run([sys.executable, "-c", KILLED, *place, *words], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    mine = text.replace("serial = 2", "serial = 3") + LYON
    product.policy.write_text(mine)
    with product:
        product.logged("changed meanwhile")
        product.logged("not taken.*nobody has applied")
        product.logged("residency policy in force.*serial=2")
    assert product.policy.read_text() == mine
