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
LONGEST = 107
"""Bytes of the path of a UNIX socket."""


class Busy(Exception):
    """Another process of this deployment has the databases."""


@contextmanager
def exclusively(data_dir: Path) -> Iterator[None]:
    """Hold the deployment's databases against every other process. Makes ``data_dir``. Raises Busy, OSError."""
    if data_dir.exists() and not data_dir.is_dir():
        raise NotADirectoryError(f"{data_dir} is not a directory: correct data_dir, or move that file away")
    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / LOCK, "a", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(
                f"another process serves {data_dir}, or works on it: stop it first, or wait for its end"
            ) from None
        yield


@contextmanager
def socket_in(data_dir: Path) -> Iterator[Path]:
    """The path of the control socket, for as long as it is needed: in a form that the system's limit of 107 bytes
    allows, however deep the directory is."""
    path = data_dir / SOCKET
    if len(os.fsencode(path)) <= LONGEST:
        yield path
        return
    folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{folder}", SOCKET)
    finally:
        os.close(folder)


class _OnSocket(http.client.HTTPConnection):
    """HTTP over the socket in a data directory."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("localhost", timeout=600)
        self._data_dir = data_dir

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with socket_in(self._data_dir) as path:
            self.sock.connect(str(path))


def ask_server(data_dir: Path, command: str, arguments: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """What the running server answers: (HTTP status, JSON); None when none is running."""
    connection = _OnSocket(data_dir)
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
