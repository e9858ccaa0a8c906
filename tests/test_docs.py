"""The documents: their links lead somewhere, what they name exists, no file names somebody's machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from config.starter import initial_files
from homeserver.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NAMED_SCRIPT = re.compile(r"(?<![\w/.-])(?:\./)?(scripts/[a-z][\w.-]*)")
NAMED_MODULE = re.compile(r"`([\w/]+/[\w/]*\.py)`|`((?:homeserver|federation|config|tests)/\w[\w/]*)`")
LOCKED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def headings(path: Path) -> set[str]:
    """The anchors of a page's headings, as a forge makes them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


LOCAL = re.compile(
    r"(^|/)(\.git|\.venv|\.cache|\.hypothesis|\.\w+_cache|node_modules|__pycache__|demo|[\w.]+\.egg-info)/"
)


@cache
def committed() -> tuple[Path, ...]:
    """Every file that is, or is about to be, in the repository; where there is no git, what looks like it."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        paths = [ROOT / entry for entry in listed.split("\0") if entry]
    else:
        paths = [path for path in ROOT.rglob("*") if not LOCAL.search(name(path))]
    return tuple(path for path in paths if path.is_file())


def text_of(path: Path) -> str:
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode(errors="replace")


@pytest.mark.parametrize("path", documents(), ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        page = (path.parent / target).resolve() if target else path
        if not page.exists() or (anchor and page.suffix == ".md" and anchor not in headings(page)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("path", documents(), ids=name)
def test_named_scripts_and_modules_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    scripts = {script for script in NAMED_SCRIPT.findall(text) if not os.access(ROOT / script, os.X_OK)}
    modules = {first or second for first, second in NAMED_MODULE.findall(text)}
    lacking = {module for module in modules if not any((top / module).exists() for top in (ROOT, ROOT / "homeserver"))}
    assert sorted(scripts | lacking) == []


NAMED_COMMAND = re.compile(r"`domicile ([a-z][a-z-]*(?: [a-z][a-z-]*)?)")


def lacking_commands(text: str) -> list[str]:
    """The commands that a text names and that are none."""
    found = []
    for words in NAMED_COMMAND.findall(text):
        command: click.Command | None = main
        for word in words.split():
            if isinstance(command, click.Group):
                command = command.commands.get(word)
        if command is None:
            found.append(words)
    return found


@pytest.mark.parametrize("path", documents(), ids=name)
def test_named_commands_exist(path: Path) -> None:
    assert lacking_commands(path.read_text(encoding="utf-8")) == []


def test_the_files_of_a_new_deployment_name_commands_that_exist() -> None:
    for text in initial_files("example.org", ["IR", "FR"]).values():
        assert "`domicile " in text
        assert lacking_commands(text) == []


def test_a_command_that_is_none_is_seen() -> None:
    assert lacking_commands("`domicile user add`, `domicile check --config`") == []
    assert lacking_commands("`domicile fly`, `domicile user fly`") == ["fly", "user fly"]


def test_the_readmes_commands_exist() -> None:
    """Each is a command, and has the options that it is shown with."""
    shown = re.findall(r"^\.venv/bin/domicile (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert shown
    for line in shown:
        command: click.Command = main
        words = shlex.split(line, comments=True)
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_decisions_are_numbered_listed_and_of_one_form() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(page for page in folder.glob("*.md") if page.name not in {"README.md", "0000-template.md"})
    numbers = [int(page.name[:4]) for page in pages]
    assert len(set(numbers)) == len(numbers)  # some may still be written
    index = (folder / "README.md").read_text(encoding="utf-8")
    parts = re.findall(r"^## .+$", (folder / "0000-template.md").read_text(encoding="utf-8"), re.MULTILINE)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        title = re.match(
            r"# (\d+)\. (.+)\n\nStatus: (accepted|proposed|replaced by \[\d+\]\(\S+\))\. Date: \d{4}-", text
        )
        assert title, page.name
        status = title[3].split(" by ")[0]
        assert re.search(rf"\[{title[1]}\]\({page.name}\) \| {re.escape(title[2])} \| {status}", index), page.name
        assert re.findall(r"^## .+$", text, re.MULTILINE) == parts, page.name


def test_every_script_runs_and_says_what_it_does() -> None:
    for path in sorted((ROOT / "scripts").iterdir()):
        if path.is_file() and path in committed():
            first, second = path.read_text(encoding="utf-8").split("\n")[:2]
            assert first.startswith("#!"), path.name
            assert second.startswith(("# ", '"""')), path.name
            assert os.access(path, os.X_OK), path.name


PLACE = re.compile(r"(?<![\w.~}>-])/(?:work|root|tmp/brief|(?:home|Users)/[a-z]\w*)/")


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    found = [
        f"{name(path)}:{number}: {line.strip()[:100]}"
        for path in committed()
        if path != Path(__file__)
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if PLACE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["see /work" + "/notes", "cd /root" + "/x", "`/work" + "/main/.venv`", '"/home' + '/me/x"', "/tmp/brief" + "/"],
)
def test_such_a_place_is_seen(line: str) -> None:
    assert PLACE.search(line)


@pytest.mark.parametrize(("lock", "extra"), [("requirements.lock", ""), ("requirements-dev.lock", "dev")])
def test_the_lock_fits_the_project(lock: str, extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    text = (ROOT / lock).read_text(encoding="utf-8")
    locked = {canonicalize_name(found): version for found, version in LOCKED.findall(text)}
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not locked: scripts/lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is locked at {version}"


def test_the_locks_agree_and_pin_by_hash_without_naming_a_registry() -> None:
    running, testing = (
        (ROOT / lock).read_text(encoding="utf-8") for lock in ("requirements.lock", "requirements-dev.lock")
    )
    assert set(LOCKED.findall(running)) <= set(LOCKED.findall(testing))
    for text in (running, testing):
        entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
        assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
        assert "://" not in text
        assert "--index" not in text
