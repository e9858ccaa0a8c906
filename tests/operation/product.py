"""The real product as an operator meets it: its commands with status and output, its signals, its log as it comes."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.interop import forked
from tests.interop.api import Api
from tests.interop.deployment import START_SECONDS, Deployment
from tests.interop.forked import ROOT, Forked

COMMAND = [sys.executable, "-m", "homeserver"]
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that it ended with. Raises AssertionError when there is more, or less."""
        (line,) = self.err.splitlines()
        return line


def run(*arguments: str | Path, stdin: str | bytes = "", cwd: Path = ROOT) -> Done:
    """Run a command. Raises AssertionError for a stack trace, whatever the command is."""
    raw = stdin if isinstance(stdin, bytes) else stdin.encode()
    done = forked.run([*map(str, arguments)], stdin=raw, cwd=cwd)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in out + err, err
    return Done(done.returncode, out, err)


class Product(Deployment):
    """A deployment whose files can be edited before it is started, and whose log can be waited for."""

    def __init__(self, folder: Path, *, flows: bool = True, databases: dict[str, str] | None = None) -> None:
        self._lines: list[str] = []
        self._more = threading.Condition()
        super().__init__(folder, flows=flows, databases=databases)

    @property
    def settings(self) -> Path:
        """The file `domicile.toml`."""
        return self.folder / "domicile.toml"

    @property
    def policy(self) -> Path:
        """The file `residency.toml`."""
        return self.folder / "residency.toml"

    @property
    def serving(self) -> bool:
        """Whether there is a server that has not been waited for."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self._process
        return self._process.pid

    def add(self, text: str, file: Path | None = None) -> None:
        """Add a text to the end of `domicile.toml`, or of another file."""
        with (file or self.settings).open("a") as settings:
            settings.write(text)

    def run(self, *arguments: str, stdin: str | bytes = "") -> Done:
        """Run a command on this deployment."""
        return run(*arguments, "--config", self.settings, stdin=stdin)

    def send(self, number: int) -> None:
        """Send the server a signal."""
        assert self._process
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait until it has ended by itself; its status."""
        process = self._process
        assert process
        status = process.wait(START_SECONDS)
        self._gone()
        return status

    def logged(self, pattern: str, after: int = 0) -> int:
        """Wait for a line of the log that matches, behind the first ``after`` ones; how many there are up to it."""

        def found() -> int:
            return next((n for n, line in enumerate(self._lines, 1) if n > after and re.search(pattern, line)), 0)

        with self._more:
            assert self._more.wait_for(found, START_SECONDS), f"no {pattern!r} in:\n{''.join(self._lines[after:])}"
            return found()

    @property
    def lines(self) -> int:
        """How many lines of the log there are."""
        with self._more:
            return len(self._lines)

    def since(self, after: int) -> str:
        """The log behind the first ``after`` lines."""
        with self._more:
            return "".join(self._lines[after:])

    def _listen(self, process: Forked, ready: threading.Event) -> None:
        assert process.stdout
        with process.stdout, self.log.open("a") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                with self._more:
                    self._lines.append(line)
                    self._more.notify_all()
                if re.search(r"\bready\b", line):
                    ready.set()
        ready.set()

    def user(self, localpart: str, node: str) -> Api:
        """Make an account on a node of the running server, and log it in."""
        return Api(self.base_url, self.add_user_by_secret(localpart, PASSWORD, node)["access_token"])
