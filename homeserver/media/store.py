"""The files of a node's media folder: how they get there whole, and how they are read.

A file is written as a draft, synced, renamed into its place, and only then is its row committed; so a row has its
file, and a file without a row is left over from a crash (see sweep.py). No name in here comes from a client.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TYPE_CHECKING, Final, NamedTuple, ParamSpec, TypeVar

import structlog

from homeserver.protocol.errors import NodeUnavailable, NotFound
from homeserver.runtime import durable
from homeserver.storage import media as stored

if TYPE_CHECKING:
    from pathlib import Path

    from homeserver.storage.media import Medium
    from homeserver.storage.nodes import Node

P = ParamSpec("P")
T = TypeVar("T")

CHUNK: Final = 256 * 1024
"""Bytes that are read at once."""
ROOM: Final = 1024 * 1024 + 1
"""Bytes that are received until they are written: each hop to a thread costs as much as many bytes. A body of 1 MiB
does not fill it, so that its last bytes are its first to be written."""
THREADS: Final = 4
"""How many files of a node are written or read at the same moment."""
DRAFTS: Final = "drafts"

_AT_ONCE: Final[int | None] = getattr(os, "RWF_NOWAIT", None)  # "or not at all", which Linux can be told
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_LETTERS: Final = _ALPHABET.encode() * 8  # for each byte the letter of five of its bits
_ID: Final = re.compile(r"[a-z2-7]{32}")
_SHELF: Final = re.compile(r"[a-z2-7]{2}")
_NAME: Final = re.compile(r"([a-z2-7]{32})-([0-9a-f]{16})(?:\..+)?")

log = structlog.get_logger("media")


class Written(NamedTuple):
    """What a draft came to."""

    size: int
    sha256: bytes


def new_id() -> str:
    """A media id of 160 random bits, in letters that no file system confuses.

    spec: client-server-api/#matrix-content-mxc-uris
    """
    return secrets.token_bytes(32).translate(_LETTERS).decode()


def is_ours(media_id: str) -> bool:
    """Whether this could be an id that `new_id` made."""
    return _ID.fullmatch(media_id) is not None


def path_of(root: Path, media_id: str, digest: bytes) -> Path:
    """Where the file of a medium lies. The digest is part of its name, so that of two uploads to one id each has its
    own file, and the row says which one counts.
    """
    if not is_ours(media_id):
        raise ValueError("that is no media id of ours")
    return root / media_id[:2] / f"{media_id}-{digest.hex()[:16]}"


def strangers(root: Path) -> list[str]:
    """What stands directly in a media folder that no node puts there. Raises OSError."""
    found = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(name for name in found if name != DRAFTS and not _SHELF.fullmatch(name))


def belongs_to(name: str) -> tuple[str, str] | None:
    """The media id and the beginning of the digest in the name of a file or of what was derived from it."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match[1], match[2])


class Files:
    """The threads that touch one node's files: a slow disk holds up nobody else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="media")
        self.buffer = bytearray(CHUNK)
        """Where the event loop reads to, for a moment."""
        self.rooms: deque[mmap] = deque(maxlen=THREADS)
        """Memory to receive to, which nobody uses at the moment: new memory costs more."""
        self.founded = False
        self.founding = asyncio.Lock()
        self._lasting: set[str] = set()  # names of folders that were synced after they were made

    async def run(self, node: Node, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(*args)`` in a thread. A folder that fails is a node that fails: raises NodeUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
        except OSError as fault:
            log.error("media folder failed", node=node.name, errno=fault.errno, reason=fault.strerror)
            raise NodeUnavailable(node.name) from fault

    def place(self, draft: Path, path: Path) -> None:
        """Rename a file that has been synced into its place, durably. Waits for the disk."""
        folder = path.parent
        try:
            draft.rename(path)
        except FileNotFoundError:
            row = [folder.name[0] + letter for letter in _ALPHABET]  # those beside it are needed soon
            self._lasting.difference_update(row)
            for name in row:
                folder.with_name(name).mkdir(mode=0o700, exist_ok=True)
            draft.rename(path)
        durable.sync_folder(folder)
        if folder.name not in self._lasting:  # last: a file system that has written both down has nothing to do
            there = os.listdir(folder.parent)
            durable.sync_folder(folder.parent)
            self._lasting.update(there)


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
                await files.run(node, _make, node.media / DRAFTS)
            files.founded = True
    return files


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.sync_folder(folder.parent)


# -- writing


class Draft:
    """A file in the making. Whoever began it finishes or discards it."""

    def __init__(self, node: Node, files: Files) -> None:
        self.size = 0
        self._room = files.rooms.pop() if files.rooms else mmap(-1, ROOM, MAP_PRIVATE | MAP_ANONYMOUS)
        self._filled = 0  # bytes of it, which are not written yet
        self._node = node
        self._files = files
        self._path = node.media / DRAFTS / secrets.token_hex(16)
        self._hash = sha256()
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
        return await self._files.run(self._node, self._finish, media_id)

    async def discard(self) -> None:
        """Leave nothing behind; without effect on what is finished."""
        await self._files.run(self._node, self._discard)

    def _write(self) -> None:
        with self._lock:
            if self._over:
                return
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
            content = memoryview(self._room)[: self._filled]
            self._hash.update(content)
            while content:
                content = content[os.write(self._fd, content) :]
            self._filled = 0

    def _finish(self, media_id: str) -> Written:
        self._write()
        with self._lock:
            if self._over:
                raise FileNotFoundError("the draft has been discarded")
            os.fsync(self._fd)
            self._close()
            digest = self._hash.digest()
            self._files.place(self._path, path_of(self._node.media, media_id, digest))
            self._end()
        return Written(self.size, digest)

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


async def begin(node: Node) -> Draft:
    """Begin a draft of a medium's file. Raises NodeUnavailable."""
    return Draft(node, await _founded(node))


async def keep(node: Node, medium: Medium, name: str, content: bytes) -> None:
    """Keep what was derived from a medium beside it, to be had by `derived`. Raises NodeUnavailable."""
    files = await _founded(node)
    await files.run(node, _keep, files, node.media, derived_path(node, medium, name), content)


def _keep(files: Files, root: Path, path: Path, content: bytes) -> None:
    draft = root / DRAFTS / f"{path.name}.{secrets.token_hex(8)}"
    with open(draft, "xb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    files.place(draft, path)


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


# -- reading


class Reading(AsyncIterator[bytes]):
    """A part of a file, chunk by chunk. Its file is closed at the end, by `aclose`, or with the object."""

    def __init__(self, node: Node, fd: int, at: int, end: int) -> None:
        self._node = node
        self._fd = fd
        self._at = at
        self._end = end
        self._first: bytes | None = None

    def read(self) -> bytes:
        """The next chunk, empty at the end. Waits for the disk."""
        chunk = os.pread(self._fd, min(CHUNK, self._end - self._at), self._at)
        if not chunk and self._at < self._end:
            raise OSError("the file has become shorter")
        self._at += len(chunk)
        return chunk

    def glance(self) -> bytes:
        """The next chunk, or the beginning of it, if the system has it in memory; else nothing. Does not wait: a hop to
        a thread costs more than copying that much.
        """
        if _AT_ONCE is None:
            return b""
        with memoryview(self._node.memory(Files).buffer) as buffer, buffer[: self._end - self._at] as wanted:
            try:
                count = os.preadv(self._fd, [wanted], self._at, _AT_ONCE)
            except OSError:  # it is not in memory; or what it is, whoever waits for the disk will be told
                return b""
            self._at += count
            return bytes(wanted[:count])

    def size(self) -> int:
        """The bytes of the whole file."""
        return os.fstat(self._fd).st_size

    def begin(self) -> None:
        """Have the first chunk ready. Waits for the disk."""
        self._first = self.read()

    async def __anext__(self) -> bytes:
        chunk, self._first = self._first, None
        if chunk is None and self._fd >= 0 and self._at < self._end:
            chunk = self.glance() or await self._node.memory(Files).run(self._node, self.read)
        if not chunk:
            self.close()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Close the file, wherever the reading has come to."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


async def read(node: Node, medium: Medium, start: int = 0, length: int | None = None) -> bytes | Reading:
    """A part of a medium's file, at once when it is short. Raises NotFound when the file is damaged or missing, and
    NodeUnavailable.
    """
    assert medium.size is not None
    assert medium.sha256 is not None
    end = medium.size if length is None else min(start + length, medium.size)
    path = path_of(node.media, medium.media_id, medium.sha256)
    try:
        content = await node.memory(Files).run(node, _read, node, path, medium.size, start, end)
    except NodeUnavailable as fault:
        if isinstance(fault.__cause__, FileNotFoundError) and node.media.is_dir():
            content = None
        else:
            raise
    if content is None:
        log.error("the file of a medium is missing or damaged", node=node.name, media_id=medium.media_id)
        raise NotFound("The content of this medium has been lost")
    return content


def _read(node: Node, path: Path, size: int, start: int, end: int) -> bytes | Reading | None:
    reading = Reading(node, os.open(path, os.O_RDONLY | os.O_CLOEXEC), start, end)
    if reading.size() != size:
        return None
    if end - start > CHUNK:
        reading.begin()
        return reading
    content = reading.read() if end > start else b""
    reading.close()
    return content if len(content) == end - start else None


def derived_path(node: Node, medium: Medium, name: str) -> Path:
    """Where something that was derived from a medium is kept."""
    assert medium.sha256 is not None
    path = path_of(node.media, medium.media_id, medium.sha256)
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
