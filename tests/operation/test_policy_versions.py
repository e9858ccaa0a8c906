"""Which policy holds after a start, whatever stands in residency.toml; and the versions that are kept of it."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.api import Api
from tests.interop.deployment import FLOWS
from tests.operation.product import PASSWORD, Product

PLANNED = "\n[changes]\nplan = true\n"
LYON = '\n[nodes.lyon]\njurisdiction = "FR"\ndatabase = "sqlite:lyon/node.db"\nmedia = "file:lyon/media"\n'


@pytest.fixture
def product(tmp_path: Path) -> Product:
    """A deployment that has been opened once, by which its file became the first version."""
    made = Product(tmp_path, flows=False)
    made.add_user("parisa", PASSWORD, "--node", "tehran")
    return made


def versions(product: Product) -> list[tuple[int, str]]:
    """Serial and kind of each version."""
    done = product.run("residency", "history", "--json")
    assert done.status == 0, done.err
    return [(version["serial"], version["how"]) for version in json.loads(done.out)["versions"]]


def rewrite(product: Product, old: str = "", new: str = "", *, serial: int = 2, more: str = "") -> str:
    """Change the file, and give it a serial."""
    text = re.sub(r"serial = \d+", f"serial = {serial}", product.policy.read_text())
    assert old in text
    text = text.replace(old, new, 1) + more
    product.policy.write_text(text)
    return text


def test_the_first_policy_is_the_first_version_and_the_next_one_follows(product: Product) -> None:
    assert versions(product) == [(1, "first")]
    assert versions(product) == [(1, "first")]
    rewrite(product, more=FLOWS)
    assert versions(product) == [(1, "first"), (2, "read")]
    shown = product.run("residency", "history").out
    assert re.search(r"^ +2 .*read", shown, re.MULTILINE)
    assert "ed25519:residency" in shown


@pytest.mark.parametrize("serial", [1, 3])
def test_a_file_without_the_next_serial_is_not_taken(product: Product, serial: int) -> None:
    rewrite(product, serial=serial, more=FLOWS)
    with product:
        product.logged(f"not taken.*stays in force.*serial = {serial}.*has serial = 2")
        product.logged("residency policy in force.*serial=1")
    assert versions(product) == [(1, "first")]


def test_comments_are_no_change(product: Product) -> None:
    product.policy.write_text("# a word\n" + product.policy.read_text())
    with product:
        product.logged("residency policy in force.*serial=1")
        assert "not taken" not in product.since(0)
    assert versions(product) == [(1, "first")]


def test_a_policy_that_asks_for_a_plan_is_replaced_by_no_file(product: Product) -> None:
    asking = rewrite(product, more=PLANNED)
    assert versions(product) == [(1, "first"), (2, "read")]
    rewrite(product, serial=3, more=FLOWS)
    with product:
        product.logged("not taken.*nobody has applied.*residency plan")
        product.logged("residency policy in force.*serial=2")
        before = product.lines
        product.send(signal.SIGHUP)
        product.logged("not reloaded.*stays in force.*nobody has applied", after=before)
    rewrite(product, "plan = true", "plan = false", serial=3)
    assert versions(product) == [(1, "first"), (2, "read")], "not even one that asks for none"
    product.policy.write_text("format = perhaps")
    with product:
        product.logged(r"fault in the residency policy; .*residency\.toml:1")
        product.logged("residency policy in force.*serial=2")
    product.policy.unlink()
    assert versions(product) == [(1, "first"), (2, "read")]
    product.policy.write_text(asking)
    assert versions(product) == [(1, "first"), (2, "read")]


def test_a_file_with_faults_keeps_a_server_from_starting_where_no_plan_is_asked(product: Product) -> None:
    product.policy.write_text("format = perhaps")
    done = product.run("serve")
    assert done.status == 1
    assert "residency.toml:1" in done.err


def test_a_node_with_users_cannot_just_go(product: Product) -> None:
    """One without can, and a new one can come; a node that cannot be asked counts as one with users."""
    rewrite(product, more=LYON)
    product.add_user("louis", PASSWORD, "--node", "lyon")
    with_lyon = rewrite(product, serial=3)
    assert versions(product)[-1] == (3, "read")
    rewrite(product, LYON, "", serial=4)
    with product:
        product.logged(r"not taken.*users rest \(lyon\).*residency plan")
    product.policy.write_text(with_lyon)
    paris = re.search(r"\[nodes\.paris\].*?\n\n", with_lyon, re.DOTALL)
    assert paris
    without = with_lyon.replace(paris[0], "").replace('node = "paris"', 'node = "tehran"')
    product.policy.write_text(without.replace("serial = 3", "serial = 4"))
    (product.folder / "data" / "paris").rename(product.folder / "data" / "away")
    assert versions(product) == [(1, "first"), (2, "read"), (3, "read")]
    (product.folder / "data" / "away").rename(product.folder / "data" / "paris")
    assert versions(product) == [(1, "first"), (2, "read"), (3, "read"), (4, "read")]
    assert product.run("user", "list").out.count("domicile.test") == 2


def test_a_node_cannot_just_change_its_jurisdiction(product: Product) -> None:
    rewrite(product, '[nodes.paris]\njurisdiction = "FR"', '[nodes.paris]\njurisdiction = "IR"')
    with product:
        product.logged(r"not taken.*another jurisdiction \(paris\).*residency plan")


# tampering ----------------------------------------------------------------------------------


@pytest.fixture
def third(product: Product) -> Product:
    """A deployment with three versions."""
    for serial in (2, 3):
        rewrite(product, serial=serial, more=f"\n[jurisdictions.X-{serial}]\n")
        assert versions(product)[-1] == (serial, "read")
    return product


def tamper(product: Product, sql: str, *values: Any) -> None:
    """Change what is kept, as somebody with access to the file can."""
    with sqlite3.connect(product.folder / "data" / "directory.db") as database:
        assert database.execute(sql, values).rowcount
    database.close()


def complaints(product: Product) -> Iterator[str]:
    """What `check` and `history` say, both of which must say no."""
    for words in (["check"], ["residency", "history"]):
        done = product.run(*words)
        assert done.status == 1
        yield done.err


def test_an_old_version_that_was_changed_is_said_by_all(third: Product) -> None:
    tamper(third, "UPDATE policy_versions SET text = text || ' ' WHERE serial = 2")
    for complaint in complaints(third):
        assert re.search("version 2.*: its text is not the one that was signed", complaint)
    with third:
        third.logged("chain of policy versions is broken.*version 2")
        third.logged("residency policy in force.*serial=3")


def test_an_old_version_that_was_removed_is_said_by_all(third: Product) -> None:
    tamper(third, "DELETE FROM policy_versions WHERE serial = 2")
    for complaint in complaints(third):
        assert re.search("version 3.*: it does not follow on version 1", complaint)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE policy_versions SET text = text || ' ' WHERE serial = 3", "its text is not the one"),
        ("UPDATE policy_versions SET serial = 9 WHERE serial = 3", "its record is that of version 3"),
        (
            "UPDATE policy_versions AS v SET record = o.record FROM policy_versions AS o WHERE v.serial = 3 AND"
            " o.serial = 2",
            "its record is that of version 2",
        ),
        ("UPDATE policy_versions SET record = x'7b7d' WHERE serial = 3", "malformed"),
    ],
    ids=["text", "serial", "record", "nonsense"],
)
def test_nobody_serves_a_newest_version_that_was_changed(third: Product, sql: str, said: str) -> None:
    tamper(third, sql)
    for complaint in complaints(third):
        assert said in complaint
    done = third.run("serve")
    assert done.status == 1
    assert re.search(f"cannot be believed: .*{said}.*backup", done.err)


# what is shown ------------------------------------------------------------------------------


def test_anybody_may_know_which_version_is_in_force_and_nobody_is_shown_its_text(product: Product) -> None:
    with product:
        shown = Api(product.base_url).ask("GET", "/_domicile/v1/residency/version")
        listed = json.loads(product.run("residency", "history", "--json").out)
    assert shown["server_name"] == "domicile.test"
    assert shown["version"]["serial"] == 1
    assert shown["version"]["record_sha256"] == listed["versions"][0]["record_sha256"]
    assert {"key_id": shown["key_id"], "key": shown["key"]} == listed["key"]
    assert "sqlite" not in json.dumps([shown, listed])


def test_residency_check_names_every_fault_of_a_file(product: Product, tmp_path: Path) -> None:
    assert product.run("residency", "check").status == 0
    draft = tmp_path / "draft.toml"
    draft.write_text(product.policy.read_text() + FLOWS.replace("events", "evnts").replace('"IR"]', '"XQ"]'))
    done = product.run("residency", "check", str(draft))
    assert done.status == 1
    assert re.search(r"draft\.toml:\d+: flows\[0\]\.classes.*events", done.err)
    assert re.search(r"draft\.toml:\d+: flows\[1\]\.to.*XQ", done.err)
    asked = product.run("residency", "check", str(draft), "--json")
    assert (asked.status, len(json.loads(asked.out)["problems"])) == (1, 2)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("approvals = 1", "needs plan = true"),
        ("plan = true\napprovals = 1", "only 0 approvers"),
        ('plan = true\napprovers = [{ name = "a", key = "short" }]', "ed25519 public key"),
        (
            'approvers = [{ name = "a", key = "%(a)s" }, { name = "b", key = "%(a)s" }]',
            r"that of changes.approvers\[0\]",
        ),
        ('approvers = [{ name = "a", key = "%(a)s" }, { name = "a", key = "%(b)s" }]', "approvers.1..name.*too"),
    ],
)
def test_what_changes_cannot_say(product: Product, table: str, said: str) -> None:
    keys = {"a": "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw", "b": "A" * 43}
    product.policy.write_text(f"{product.policy.read_text()}\n[changes]\n{table % keys}\n")
    done = product.run("residency", "check")
    assert done.status == 1
    assert re.search(said, done.err)
