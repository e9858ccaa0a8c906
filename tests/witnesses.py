"""A pytest plugin that notes which test was answered by which route, for the ledger to name as evidence.

``scripts/conformance --tests`` runs the suite with ``-p tests.witnesses`` and reads the notes. Only answers without an
error count, in tests that pass, and only requests to servers in the test's own process are seen.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homeserver.web.messages import Request, Response
from homeserver.web.routes import Route
from homeserver.web.site import Site

NOTES = "DOMICILE_WITNESSES"
"""Environment variable: the folder that the notes go to, a file for each process that runs tests."""

Note = tuple[str, str, str, str]
"""Test, method and path as declared, and the function that answered, as ``module:function``."""


class Witnesses:
    """Watches every `Site` of this process. ``notes`` are written when the process has run its last test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: set[Note] = set()
        self._asked: set[tuple[str, str, str]] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Note what a test asked, if it passed."""
        self._asked.clear()
        yield
        test = item.nodeid.partition("[")[0]
        self.notes |= {(test, *asked) for asked in self._asked}

    def pytest_sessionfinish(self) -> None:
        """Write the notes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join("\t".join(note) + "\n" for note in sorted(self.notes))
        (self.folder / f"{os.getpid()}.tsv").write_text(lines, encoding="utf-8")

    def watch(self) -> None:
        """See all answers from now on."""
        answer = Site.answer

        async def watched(site: Site[Any], request: Request, route: Route[Any]) -> Response:
            response = await answer(site, request, route)
            if response.status < 400:
                function = f"{route.endpoint.__module__}:{route.endpoint.__name__}"
                self._asked |= {(route.method, path, function) for path in route.paths}
            return response

        Site.answer = watched  # type: ignore[assignment, method-assign]  # for the life of the process


def pytest_configure(config: pytest.Config) -> None:
    """Watch, when the environment says where the notes go."""
    if NOTES in os.environ:
        witnesses = Witnesses(Path(os.environ[NOTES]))
        witnesses.watch()
        config.pluginmanager.register(witnesses)


def read(folder: Path) -> set[Note]:
    """All notes of a run."""
    lines = [line for file in folder.glob("*.tsv") for line in file.read_text(encoding="utf-8").splitlines()]
    return {(test, method, path, function) for test, method, path, function in (line.split("\t") for line in lines)}


def best(notes: set[Note]) -> dict[tuple[str, str, str], str]:
    """For each method, path and function the test that is likely to be about it.

    That is one whose name has words of the path or the function in it; among those the one that asks least beside it.
    """
    asked: dict[str, int] = defaultdict(int)
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for test, *where in notes:
        asked[test] += 1
        found[where[0], where[1], where[2]].append(test)

    def rank(where: tuple[str, str, str], test: str) -> tuple[int, int, str]:
        _, path, function = where
        about = words(path.partition("/v")[2]) | words(function.partition(":")[2])
        return -len(about & words(test)), asked[test], test

    return {where: min(tests, key=lambda test: rank(where, test)) for where, tests in found.items()}


def words(text: str) -> set[str]:
    """The words of a path or a name, singular."""
    parts = re.findall(r"[A-Z]?[a-z]{3,}", re.sub(r"{\w+}", "", text))
    return {part.lower().rstrip("s") for part in parts} - {"test", "get", "set", "the"}
