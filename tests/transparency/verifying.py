"""What ``scripts/verify-key-log`` says, which nobody has to believe Domicile for."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from tests.transparency.pages import Pages

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify-key-log"


@cache
def script() -> dict[str, Any]:
    """The names in the script."""
    return runpy.run_path(str(SCRIPT), run_name="verifier")


def run(*arguments: str) -> tuple[int, str]:
    """The status with which the script ends, and what it says, within this process."""
    words = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(words))
        stack.enter_context(contextlib.redirect_stderr(words))
        stack.enter_context(mock.patch.object(sys, "argv", [SCRIPT.name, *arguments]))
        try:
            script()["main"]()
        except SystemExit as ended:
            return int(ended.code or 0), words.getvalue()
    return 0, words.getvalue()


def verify(folder: Path, pages: Pages, *more: str) -> tuple[int, str]:
    """What it says of the files of a log, by the key that the deployment says it has."""
    return run(str(folder), "--key", pages.said()["key"], *more)
