"""How the files of media are read: in parts, and without a thread where the system has them in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.media.shelves import path_of
from homeserver.media.store import AT_ONCE, Files, is_at_hand
from homeserver.protocol.errors import NodeUnavailable, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from homeserver.storage.media import Medium
    from homeserver.storage.nodes import Node

CHUNK: Final = 256 * 1024
"""Bytes that are read at once."""

_buffer: Final = bytearray(CHUNK)  # where the event loop reads to, for a moment

log = structlog.get_logger("media")


class Reading(AsyncIterator[bytes]):
    """A part of a file, chunk by chunk. Its file is closed at the end, by `aclose`, or with the object."""

    def __init__(self, node: Node, fd: int, at: int, end: int) -> None:
        self._node = node
        self._fd = fd
        self._at = at
        self._end = end
        self.first: bytes | None = None
        """The first chunk, when it has been read already."""

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return os.fstat(self._fd).st_size

    @property
    def is_at_hand(self) -> bool:
        """Whether the system has the file in memory."""
        return is_at_hand(self._fd)

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
        if AT_ONCE is None:
            return b""
        with memoryview(_buffer) as buffer, buffer[: self._end - self._at] as wanted:
            try:
                count = os.preadv(self._fd, [wanted], self._at, AT_ONCE)
            except OSError:  # it is not in memory; or what it is, whoever waits for the disk will be told
                return b""
            self._at += count
            return bytes(wanted[:count])

    async def __anext__(self) -> bytes:
        chunk, self.first = self.first, None
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
    assert medium.digest is not None
    end = medium.size if length is None else min(start + length, medium.size)
    path = path_of(node.media, medium.media_id, medium.digest)
    files = node.memory(Files)
    if files.at_hand.get(medium.media_id):
        content = _glanced(node, path, medium.size, start, end)
        if content is not None:
            return content
    try:
        content, files.at_hand[medium.media_id] = await files.run(node, _read, node, path, medium.size, start, end)
    except NodeUnavailable as fault:
        if isinstance(fault.__cause__, FileNotFoundError) and node.media.is_dir():
            content = None
        else:
            raise
    if content is None:
        log.error("the file of a medium is missing or damaged", node=node.name, media_id=medium.media_id)
        raise NotFound("The content of this medium has been lost")
    return content


def _glanced(node: Node, path: Path, size: int, start: int, end: int) -> bytes | Reading | None:
    """What `_read` reads, if it can be had without waiting for the disk."""
    try:
        reading = Reading(node, os.open(path, os.O_RDONLY | os.O_CLOEXEC), start, end)
    except OSError:  # whoever waits for the disk will be told
        return None
    first = reading.glance() if reading.size == size else b""
    if first and end - start > CHUNK:
        reading.first = first
        return reading
    reading.close()
    return first if first and len(first) == end - start else None


def _read(node: Node, path: Path, size: int, start: int, end: int) -> tuple[bytes | Reading | None, bool]:
    """The part of a file, None when the file is not so long; and whether it `is_at_hand` now. Waits for the disk."""
    reading = Reading(node, os.open(path, os.O_RDONLY | os.O_CLOEXEC), start, end)
    if reading.size != size:
        reading.close()
        return None, False
    reading.first = reading.read() if end > start else b""
    at_hand = reading.is_at_hand
    if end - start > CHUNK:
        return reading, at_hand
    reading.close()
    return reading.first if len(reading.first) == end - start else None, at_hand
