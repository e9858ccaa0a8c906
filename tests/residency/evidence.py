"""Checking evidence as strangers do, and making what is signed rightly and says something wrong."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import orjson

from homeserver.protocol import evidence
from tests.rooms.play import Play

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify-evidence"

Json = dict[str, Any]


def run(folder: Path, bundle: bytes, key: str, *more: str) -> tuple[int, str]:
    """What the script says of a bundle, run as a stranger does: its exit status and words."""
    path = folder / "bundle.json"
    path.write_bytes(bundle)
    program = [sys.executable, "-I", str(SCRIPT), str(path), "--key", key, *more]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def verified(folder: Path, bundle: bytes, key: str, *more: str) -> tuple[int, str]:
    """The same within this process, for who asks often."""
    path = folder / "bundle.json"
    path.write_bytes(bundle)
    words = io.StringIO()
    with (
        contextlib.redirect_stdout(words),
        mock.patch.object(sys, "argv", [SCRIPT.name, str(path), "--key", key, *more]),
    ):
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            return 1, f"{words.getvalue()}{ended.code}"
    return 0, words.getvalue()


def resigned(play: Play, bundle: bytes, change: Callable[[Json], object]) -> bytes:
    """A bundle whose parts (by name) were changed by somebody who has the deployment's own keys."""
    said = orjson.loads(bundle)
    parts = {part["name"]: part["content"] for part in said["parts"]}
    change(parts)
    identity = play.server.identity
    kept = {name: value for name, value in said["head"].items() if name not in ("parts", "signatures")}
    keys = [(identity.server_name, key) for key in (identity.residency_key, identity.key)]
    return evidence.bundle(kept, parts, keys)
