"""The file of a database: opened with every setting made, and watched for being another one than it was.

The invariants: a file is made only when asked for; one that was moved away is missed at once; none is opened beside
the write-ahead log of another.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from homeserver.storage.circuit import Unreachable
from homeserver.storage.engine import Row
from homeserver.storage.setbacks import Lost

BUSY_SECONDS = 5
"""How long another process may hold the file's write lock before this one gives up."""
STATEMENTS = 400
"""Prepared statements that each connection keeps."""
WAL = "journal_mode = WAL"
ATTEMPTS = 100
"""How often the journal is changed while others who have just made the file do so, too."""

# No memory-mapped reads (mmap_size 0): a failing disk would then be a SIGBUS that takes all nodes with it, where
# pread gives an error that takes one. secure_delete: what is erased is overwritten, in the file and not in a promise.
PRAGMAS = (
    f"busy_timeout = {BUSY_SECONDS * 1000}",
    WAL,
    "synchronous = FULL",
    "foreign_keys = ON",
    "mmap_size = 0",
    "journal_size_limit = 67108864",
    "secure_delete = ON",
    "temp_store = MEMORY",
)

Identity = tuple[int, int]
"""Device and inode: what a file is, whatever its name."""


class File:
    """A path, and which file was found there. What blocks is called in the threads of the connections."""

    def __init__(self, path: Path, cache: int) -> None:
        self.path = path
        self._pragmas = (*PRAGMAS, f"cache_size = -{max(1, cache // 1024)}")
        self._identity: Identity | None = None  # of the file that is open
        self._last: tuple[Identity | None, Identity | None] = (None, None)  # the file that was open, and its log

    def open(self, *, writing: bool, create: bool = False) -> sqlite3.Connection:
        """Open the file with all settings made. Raises sqlite3.Error, OSError and `Lost`."""
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # nobody else's to read
        self._refuse_mixture()
        raw = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            cached_statements=STATEMENTS,
            check_same_thread=False,
        )
        try:
            for pragma in self._pragmas if writing else (*self._pragmas, "query_only = ON"):
                _set(raw, pragma)
            if raw.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                raise Lost(f"{self.path}: this file system cannot hold a write-ahead log")
            if self._identity is not None:
                self.look()
        except BaseException:
            raw.close()
            raise
        return raw

    def look(self) -> None:
        """Is the file that is open still the one at the path? Raises `Lost`."""
        try:
            found = _identify(self.path)
        except OSError as fault:
            raise Lost(f"{self.path}: {fault.strerror}") from fault
        if found != self._identity:
            raise Lost(f"{self.path} is another file now")

    def forget(self) -> None:
        """Whatever is found at the path next will do."""
        self._identity = None

    def recognise(self) -> None:
        """Take the file at the path for the one to look for from now on."""
        self._identity = _identify(self.path)

    def remember_log(self) -> None:
        """Note which log is beside the file, once that has been written to."""
        self._last = (self._identity, self._log())

    def _log(self) -> Identity | None:
        try:
            return _identify(f"{self.path}-wal")
        except FileNotFoundError:
            return None

    def _refuse_mixture(self) -> None:
        """SQLite would replay into a file the log that was left of another: what is there would be neither's."""
        file, log = self._last
        if file is not None and log is not None and log == self._log() and file != _identify(self.path):
            raise Lost(
                f"{self.path} was replaced, but the write-ahead log beside it is still that of the file before: "
                "put that file back, or remove what ends in -wal and -shm too"
            )


def peek(path: Path, table: str, sql: str) -> list[Row]:
    """The rows of a query, read without changing anything; none if ``table`` is not there. Raises Unreachable.

    A file without a write-ahead log is in nobody's use: reading it as unchanging makes none.
    """
    quiet = not Path(f"{path}-wal").exists()
    try:
        raw = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if quiet else ''}", uri=True)
        with contextlib.closing(raw):
            known = raw.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            return raw.execute(sql).fetchall() if known else []
    except (sqlite3.Error, OSError) as fault:
        raise Unreachable(f"{path}: {fault}") from fault


def _set(raw: sqlite3.Connection, pragma: str) -> None:
    """Make a setting. SQLite waits for nobody else who changes the journal, but for a lock it does."""
    for left in reversed(range(ATTEMPTS)):
        try:
            raw.execute(f"PRAGMA {pragma}").fetchall()
            return
        except sqlite3.OperationalError as fault:
            if pragma != WAL or fault.sqlite_errorcode != sqlite3.SQLITE_BUSY or not left:
                raise
            raw.execute("BEGIN IMMEDIATE")
            raw.execute("ROLLBACK")


def _identify(path: Path | str) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino
