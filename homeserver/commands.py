"""How the command line reaches a deployment: the running server by its socket, or else the databases themselves.

A lock in the data directory keeps a second server, and commands beside a server, away from the databases.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOCKET = "control.sock"
LOCK = "lock"


class Busy(Exception):
    """Another process of this deployment has the databases."""


@contextmanager
def exclusively(data_dir: Path) -> Iterator[None]:
    """Hold the deployment's databases against every other process. Raises Busy."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / LOCK, "a", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another process serves {data_dir}") from None
        yield


class _OnSocket(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=600)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_server(data_dir: Path, command: str, arguments: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """What the running server answers: (HTTP status, JSON); None when none is running."""
    connection = _OnSocket(data_dir / SOCKET)
    try:
        connection.connect()
    except OSError:
        return None
    try:
        body = json.dumps(arguments).encode()
        connection.request("POST", f"/_domicile/v1/control/{command}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()
