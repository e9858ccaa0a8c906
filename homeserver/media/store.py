"""The files of a node's media folder: how they get there whole; how they are read, see reading.py.

A file is written as a draft, synced, renamed into its place, and only then is its row committed; so a row has its
file, and a file without a row is left over from a crash (see sweep.py).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TYPE_CHECKING, Final, NamedTuple, ParamSpec, TypeVar

import structlog

from homeserver.media import digests, shelves
from homeserver.media.shelves import DRAFTS, path_of, place
from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.lru import Lru
from homeserver.storage import media as stored

if TYPE_CHECKING:
    from pathlib import Path

    from homeserver.context import Server
    from homeserver.storage.media import Medium
    from homeserver.storage.nodes import Node

P = ParamSpec("P")
T = TypeVar("T")

ROOM: Final = 1024 * 1024 + 1
"""Bytes that are received until they are written: each hop to a thread costs as much as many bytes. A body of 1 MiB
does not fill it, so that its last bytes are its first to be written."""
THREADS: Final = 4
"""How many files of a node are written or read at the same moment."""
KEPT: Final = 64 * 1024 * 1024
"""Bytes of the newest files that the system may keep in memory because they were written."""
LEAST: Final = 64 * 1024
"""As how many bytes a file counts there at least."""
REMEMBERED: Final = 1024
"""Of how many files it is known whether they were at hand."""

AT_ONCE: Final[int | None] = getattr(os, "RWF_NOWAIT", None)
"""To be read at once or not at all, which Linux can be told."""

log = structlog.get_logger("media")


class Written(NamedTuple):
    """What a draft came to."""

    size: int
    digest: bytes


class Newest:
    """The files that were written last, by several threads.

    The system keeps what is written in memory. Files are large, and asked for soon or seldom: all of them would push
    out what the databases need. So it is told to drop those that are not among the newest; what is read later, it keeps
    as it likes. The memory of the old ones serves the new: it need not be got elsewhere, which costs ten times as much
    where a machine gives free memory back to its host (docs/performance.md).
    """

    def __init__(self) -> None:
        self._files: deque[tuple[Path, int]] = deque()
        self._size = 0
        self._lock = threading.Lock()

    def make_way(self, size: int) -> None:
        """So many bytes are about to be written. Seldom waits for the disk."""
        while (path := self._beyond(size)) is not None:
            with suppress(OSError):  # deleted meanwhile; what else is wrong with it, its reader will be told
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if hasattr(os, "posix_fadvise"):
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)

    def add(self, path: Path, size: int) -> None:
        """A file has been written, and synced."""
        with self._lock:
            self._files.append((path, max(size, LEAST)))
            self._size += max(size, LEAST)

    def _beyond(self, size: int) -> Path | None:
        with self._lock:
            if not self._files or self._size + size <= KEPT:
                return None
            path, gone = self._files.popleft()
            self._size -= gone
            return path


class Files:
    """The threads that touch one node's files: a slow disk holds up nobody else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="media")
        self.rooms: deque[mmap] = deque(maxlen=THREADS)
        """Memory to receive to, which nobody uses at the moment: new memory costs more."""
        self.newest = Newest()
        self.at_hand: Lru[str, bool] = Lru(REMEMBERED)
        """The media of whose files it is known whether the system had them in memory when they were last read."""
        self.founded = False
        self.founding = asyncio.Lock()

    async def run(self, node: Node, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(*args)`` in a thread. A folder that fails is a node that fails: raises NodeUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        except OSError as fault:
            log.error("media folder failed", node=node.name, errno=fault.errno, reason=fault.strerror)
            raise NodeUnavailable(node.name) from fault


async def _founded(node: Node) -> Files:
    """The node's files; makes the folder of a node that never had a medium. Raises NodeUnavailable.

    A folder that is missing although there are media is one that has gone (a disk that is not mounted): it must not
    come back empty.
    """
    files = node.memory(Files)
    if not files.founded:
        async with files.founding:
            if not (node.media / DRAFTS).is_dir():
                if await node.read(stored.any_stored):
                    log.error("media folder is missing", node=node.name)
                    raise NodeUnavailable(node.name)
                await files.run(node, shelves.found, node.media)
            files.founded = True
    return files


async def prepare_all(server: Server) -> None:
    """`prepare` every node that can be reached."""
    for node in server.nodes:
        with suppress(NodeUnavailable):
            await prepare(node)


async def prepare(node: Node) -> None:
    """Make everything that uploads to a node will need. Raises NodeUnavailable."""
    files = await _founded(node)
    await files.run(node, shelves.prepare, node.media)


# -- writing


class Draft:
    """A file in the making. Whoever began it finishes or discards it."""

    def __init__(self, node: Node, files: Files, like: bytes | None) -> None:
        self.size = 0
        self._room = files.rooms.pop() if files.rooms else mmap(-1, ROOM, MAP_PRIVATE | MAP_ANONYMOUS)
        self._filled = 0  # bytes of it, which are not written yet
        self._node = node
        self._files = files
        self._path = node.media / DRAFTS / secrets.token_hex(16)
        self._hash = digests.begin(like)
        self._fd = -1
        self._over = False
        self._lock = threading.Lock()  # one that was cancelled may be discarded while a thread still writes

    def room(self) -> memoryview:
        """Where the next bytes are to be put, see `took`. Nothing may be put there once this draft is over."""
        return memoryview(self._room)[self._filled :]

    async def took(self, count: int) -> None:
        """So many bytes are in the `room`; when it is full they are written. Raises NodeUnavailable."""
        self.size += count
        self._filled += count
        if self._filled == ROOM:
            await self._files.run(self._node, self._write)

    async def add(self, piece: bytes) -> None:
        """Take the next bytes. Raises NodeUnavailable."""
        rest = memoryview(piece)
        while rest:
            room = self.room()
            fitting = rest[: len(room)]
            room[: len(fitting)] = fitting
            rest = rest[len(fitting) :]
            await self.took(len(fitting))

    async def finish(self, media_id: str) -> Written:
        """Make it durable, in the place of that medium. Raises NodeUnavailable."""
        written, self._files.at_hand[media_id] = await self._files.run(self._node, self._finish, media_id)
        return written

    async def discard(self) -> None:
        """Leave nothing behind; without effect on what is finished."""
        await self._files.run(self._node, self._discard)

    def _write(self) -> None:
        with self._lock:
            if self._over:
                return
            if self._fd < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
            content = memoryview(self._room)[: self._filled]
            self._files.newest.make_way(self._filled)
            self._hash.update(content)
            while content:
                content = content[os.write(self._fd, content) :]
            self._filled = 0

    def _finish(self, media_id: str) -> tuple[Written, bool]:
        self._write()
        with self._lock:
            if self._over:
                raise FileNotFoundError("the draft has been discarded")
            os.fsync(self._fd)
            at_hand = is_at_hand(self._fd)
            self._close()
            digest = self._hash.digest()
            path = path_of(self._node.media, media_id, digest)
            place(self._path, path)
            self._files.newest.add(path, self.size)
            self._end()
        return Written(self.size, digest), at_hand

    def _discard(self) -> None:
        with self._lock:
            if not self._over:
                self._end()
                if self._fd >= 0:
                    self._close()
                    self._path.unlink(missing_ok=True)

    def _end(self) -> None:
        self._over = True
        self._files.rooms.append(self._room)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


def is_at_hand(fd: int) -> bool:
    """Whether the system has the beginning of a file in memory, and says so."""
    if AT_ONCE is None:
        return False
    try:
        return os.preadv(fd, [bytearray(1)], 0, AT_ONCE) == 1
    except OSError:
        return False


async def begin(node: Node, like: bytes | None = None) -> Draft:
    """Begin a draft of a medium's file; ``like``: a digest with which its own is to be compared. Raises
    NodeUnavailable."""
    return Draft(node, await _founded(node), like)


async def holds(node: Node, media_id: str, digest: bytes, size: int) -> bool:
    """Whether the file of a medium is in its place, and as long as it should be. Raises NodeUnavailable."""
    path = path_of(node.media, media_id, digest)
    return await node.memory(Files).run(node, _holds, path, size)


def _holds(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


async def erase(node: Node, media_id: str, digest: bytes) -> None:
    """Delete the file of a medium whose row is gone, and all that was derived from it. Raises NodeUnavailable."""
    await node.memory(Files).run(node, _erase, path_of(node.media, media_id, digest))


def _erase(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        for derived in path.parent.glob(f"{path.name}.*"):
            derived.unlink(missing_ok=True)


# -- what was derived


async def keep(node: Node, medium: Medium, name: str, content: bytes) -> None:
    """Keep what was derived from a medium beside it, to be had by `derived`. Raises NodeUnavailable."""
    files = await _founded(node)
    await files.run(node, _keep, node.media, derived_path(node, medium, name), content)


def _keep(root: Path, path: Path, content: bytes) -> None:
    draft = root / DRAFTS / f"{path.name}.{secrets.token_hex(8)}"
    with open(draft, "xb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    place(draft, path)


def derived_path(node: Node, medium: Medium, name: str) -> Path:
    """Where something that was derived from a medium is kept."""
    assert medium.digest is not None
    path = path_of(node.media, medium.media_id, medium.digest)
    return path.with_name(f"{path.name}.{name}")


async def derived(node: Node, medium: Medium, names: list[str]) -> tuple[str, bytes] | None:
    """The first of ``names`` that was kept with `keep`, and its content. Raises NodeUnavailable."""
    paths = {name: derived_path(node, medium, name) for name in names}
    return await node.memory(Files).run(node, _derived, paths)


def _derived(paths: dict[str, Path]) -> tuple[str, bytes] | None:
    for name, path in paths.items():
        try:
            return name, path.read_bytes()
        except FileNotFoundError:
            pass
    return None
