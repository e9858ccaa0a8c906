"""``scripts/run``, as somebody types it: a demo that answers, keeps each user at home, stops, and goes on."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0


def spare_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running(folder: Path, port: int) -> Iterator[str]:
    """What it says before it is ready; Ctrl-C ends it, and must end it well."""
    command = [str(ROOT / "scripts" / "run"), str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        tardy = threading.Timer(START_SECONDS, process.kill)
        tardy.start()
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if " ready " in line:
                    break
            else:
                raise AssertionError("".join(said))
            yield "".join(said)
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert process.wait() == 0, rest
        finally:
            tardy.cancel()
            process.kill()


def asked(port: int, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", content, timeout=30) as answer:
        read: dict[str, Any] = json.load(answer)
        return read


def log_in(port: int, user: str, password: str) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": password}
    return asked(port, "/_matrix/client/v3/login", body)


def accounts(folder: Path, node: str) -> set[str]:
    database = sqlite3.connect(folder / "data" / node / "node.db")
    try:
        rows = database.execute("SELECT user_id FROM accounts JOIN users USING (user_nid)").fetchall()
    finally:
        database.close()
    return {user_id for (user_id,) in rows}


def test_the_demo_serves_stops_and_goes_on(tmp_path: Path) -> None:
    folder, port = tmp_path / "demo", spare_port()
    with running(folder, port) as said:
        assert f"http://127.0.0.1:{port}" in said
        assert "versions" in asked(port, "/_matrix/client/versions")
        passwords = {
            user: password for user, password, _ in map(str.split, (folder / "passwords.txt").read_text().splitlines())
        }
        assert set(passwords) == {"parisa", "pierre", "admin"}
        for user, password in passwords.items():
            assert f"{user} " in said
            login = log_in(port, user, password)
            assert login["user_id"] == f"@{user}:localhost:{port}"
            assert login["well_known"]["m.homeserver"]["base_url"] == f"http://127.0.0.1:{port}"
    assert accounts(folder, "tehran") == {f"@parisa:localhost:{port}"}
    assert accounts(folder, "paris") == {f"@pierre:localhost:{port}", f"@admin:localhost:{port}"}
    with running(folder, spare_port()) as said:  # it keeps the port that it was made with
        assert "First start" not in said
        assert f"http://127.0.0.1:{port}" in said
        assert log_in(port, "parisa", passwords["parisa"])["user_id"] == f"@parisa:localhost:{port}"


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("mine")
    done = subprocess.run([ROOT / "scripts" / "run", tmp_path], capture_output=True, text=True, timeout=START_SECONDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path} is there already and is no demo" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]
