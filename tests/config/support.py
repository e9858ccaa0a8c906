"""Writes configuration files into a directory and says what is wrong with them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from config.load import load_policy, load_settings
from config.problems import Faults, Problem

GOLDEN = Path(__file__).parent / "golden"


def settings_faults(directory: Path, text: str) -> list[tuple[int, str, str]]:
    """The problems of a domicile.toml: line, key, message."""
    return _faults(load_settings, directory / "domicile.toml", text)


def policy_faults(directory: Path, text: str) -> list[tuple[int, str, str]]:
    """The problems of a residency.toml: line, key, message."""
    return _faults(load_policy, directory / "residency.toml", text)


def _faults(load: Callable[..., object], file: Path, text: str) -> list[tuple[int, str, str]]:
    file.write_text(text, "utf-8")
    problems: Sequence[Problem] = ()
    try:
        load(file, environ={})
    except Faults as faults:
        problems = faults.problems
    assert all(problem.file == str(file) for problem in problems)
    return [(problem.line, problem.key, problem.message) for problem in problems]


def golden_with(old: str, new: str) -> str:
    """The residency policy of the design with one passage changed."""
    text = (GOLDEN / "residency.toml").read_text("utf-8")
    assert text.count(old) == 1, old
    return text.replace(old, new)
