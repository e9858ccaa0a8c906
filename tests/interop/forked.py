"""The product's commands, each in a process of its own, forked from one that has imported the product already.

Importing takes nearly two seconds of a processor, and the tests run a command a thousand times. Otherwise there is no
difference to ``python -m homeserver``, which some tests run: arguments, streams, signals, status.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

ROOT = Path(__file__).parents[2]

IMPORTED = ["homeserver.__main__", "homeserver.app", "tests.interop.forked", "tests.interop.imported"]
"""What the process has imported from which the others are forked."""


class Surroundings(NamedTuple):
    """What a process has from the one that starts it. ``files``: the limits of open ones."""

    cwd: str
    environment: dict[str, str]
    files: tuple[int, int]


class Forked:
    """A command that runs. As `subprocess.Popen`: what it writes can be read from ``stdout`` unless a file is given.

    ``first`` is called in the new process before the command: a function of a module, or a `functools.partial` of one.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: Path = ROOT,
        first: Callable[[], None] | None = None,
    ) -> None:
        self.arguments = list(arguments)
        self.stdout: TextIO | None = None
        mine: list[int] = []
        if stdin is None:
            stdin = os.open(os.devnull, os.O_RDONLY)
            mine.append(stdin)
        if stdout is None:
            reading, stdout = os.pipe()
            mine.append(stdout)
            self.stdout = os.fdopen(reading, errors="replace")
        streams = [_Stream(each) for each in (stdin, stdout, stdout if stderr is None else stderr)]
        around = Surroundings(str(cwd), dict(os.environ), resource.getrlimit(resource.RLIMIT_NOFILE))
        self._process = _context().Process(target=_run, args=(self.arguments, around, streams, first))
        self._process.start()
        for each in mine:
            os.close(each)

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its status, negative for the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Whether it has ended; its status."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its status. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without warning."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stdout:
            self.stdout.close()
        self.wait()


def run(
    arguments: Sequence[str],
    *,
    stdin: bytes = b"",
    cwd: Path = ROOT,
    timeout: float = 120.0,
    first: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; ``first``: see `Forked`. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        streams = {"stdin": given.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
        process = Forked(arguments, **streams, cwd=cwd, first=first)
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.arguments, status, out.read(), err.read())


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class _Stream:
    """A file descriptor that goes along to the new process, where it has another number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _received, (DupFd(self._number),)


def _received(passed: Any) -> int:
    number: int = passed.detach()
    return number


def _run(arguments: list[str], around: Surroundings, streams: list[int], first: Callable[[], None] | None) -> None:
    """In the new process: become the command."""
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - until the process ends
    os.chdir(around.cwd)
    os.environ.clear()
    os.environ.update(around.environment)
    resource.setrlimit(resource.RLIMIT_NOFILE, around.files)
    sys.argv = ["domicile", *arguments]
    from homeserver.__main__ import main

    if first is not None:
        first()
    main(prog_name="domicile")
