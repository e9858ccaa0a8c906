"""Thumbnails: made when they are asked for, in a process apart, and kept beside the medium on its node.

The process starts with the first thumbnail and ends when there has been none to make for a while.

spec: client-server-api/#thumbnails
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from homeserver.media import reading, store
from homeserver.protocol.errors import LimitExceeded, TooLarge, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.sections.media import Thumbnail
    from homeserver.context import Server
    from homeserver.runtime.clock import Timer
    from homeserver.storage.media import Medium
    from homeserver.storage.nodes import Node

LARGEST_SOURCE: Final = 32 * 1024 * 1024
"""Bytes of a picture of which thumbnails are made."""
SECONDS: Final = 10.0
"""How long one thumbnail may take."""
IDLE: Final = 60.0
"""Seconds after which a drawing process that has nothing to do is ended."""
WAITING: Final = 32
"""Thumbnails that may be in the making, most of them waiting for their turn."""
WHOLE: Final = "is"
PROGRAM: Final = Path(__file__).with_name("drawing.py")

_TYPES: Final = {"jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp"}
_STARTS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")

log = structlog.get_logger("media")


class Wish(NamedTuple):
    """What a client asks for, in pixels; ``method`` is ``crop`` or ``scale``."""

    width: int
    height: int
    method: str


class Made(NamedTuple):
    """A thumbnail. ``content`` is None when the medium itself serves as its thumbnail."""

    content_type: str
    content: bytes | None

    @property
    def filename(self) -> str:
        """Under which name it is given out."""
        return f"thumbnail.{self.content_type.rpartition('/')[2]}"


def frame_for(sizes: Iterable[Thumbnail], wish: Wish) -> Wish | None:
    """The smallest size of those that are made which covers the wish, of the same method if possible.

    None when even the largest would be smaller than the wish: then nothing is taken away from the picture.
    """
    frames = [Wish(size.width, size.height, size.method) for size in sizes]
    wide = [frame for frame in frames if frame.width >= wish.width and frame.height >= wish.height]
    return min(wide, key=lambda frame: (frame.method != wish.method, frame.width * frame.height), default=None)


async def find(server: Server, node: Node, medium: Medium, wish: Wish) -> Made:
    """The thumbnail of a medium that comes closest to what is asked for; it is made unless there is one.

    Raises Unknown for what is no picture, TooLarge for a picture with too many bytes or pixels, LimitExceeded when
    too much is waiting to be drawn, NotFound when the file is lost, NodeUnavailable.

    spec: client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid
    """
    frame = frame_for(server.settings.media.thumbnails, wish)
    stem = "full" if frame is None else f"{frame.width}x{frame.height}-{frame.method}"
    names = [f"{stem}.{form}" for form in ("jpeg", "png")] + [f"{stem}.{WHOLE}-{form}" for form in _TYPES]
    kept = await store.derived(node, medium, names)
    if kept is not None:
        name, content = kept
        ending = name.rpartition(".")[2]
        if ending.startswith(WHOLE):
            return Made(_TYPES[ending.removeprefix(f"{WHOLE}-")], None)
        return Made(_TYPES[ending], content)
    return await server.nodes.directory.memory(Studio).make(server, node, medium, frame, stem)


async def close(server: Server) -> None:
    """End the drawing process, if there is one."""
    await server.nodes.directory.memory(Studio).close()


class Studio:
    """The drawing process of the deployment, and what waits for it. It keeps nothing of what it draws."""

    def __init__(self) -> None:
        self.program = PROGRAM
        self._making: dict[tuple[str, str, str], asyncio.Task[Made]] = {}
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="thumbnails")
        self._process: Process | None = None
        self._idle: Timer | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None

    async def make(self, server: Server, node: Node, medium: Medium, frame: Wish | None, stem: str) -> Made:
        """Make a thumbnail and keep it under a name that begins with ``stem``; who asks for the same waits for it."""
        key = (node.name, medium.media_id, stem)
        task = self._making.get(key)
        if task is None:
            if len(self._making) >= WAITING:
                raise LimitExceeded(1000)
            # A task of its own: that one client goes away stops neither the process nor the others.
            task = self._making[key] = asyncio.get_running_loop().create_task(
                self._make(server, node, medium, frame, stem)
            )
            task.add_done_callback(lambda done: self._made(key, done))
        return await asyncio.shield(task)

    def _made(self, key: tuple[str, str, str], task: asyncio.Task[Made]) -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # whoever still waits is told

    async def _make(self, server: Server, node: Node, medium: Medium, frame: Wish | None, stem: str) -> Made:
        start = await reading.read(node, medium, 0, 16)
        if not isinstance(start, bytes) or not start.startswith(_STARTS):
            raise _no_picture()
        if (medium.size or 0) > LARGEST_SOURCE:
            raise _too_large()
        async with self._turn:
            content = await reading.read(node, medium)
            picture = content if isinstance(content, bytes) else b"".join([piece async for piece in content])
            drawn = await self._draw(server, picture, frame)
        if drawn.outcome == "large":
            raise _too_large()
        if drawn.outcome not in ("made", "whole"):
            raise _no_picture()
        form = next(form for form, content_type in _TYPES.items() if content_type == drawn.content_type)
        whole = drawn.outcome == "whole"
        await store.keep(node, medium, f"{stem}.{WHOLE}-{form}" if whole else f"{stem}.{form}", drawn.content)
        return Made(drawn.content_type, None if whole else drawn.content)

    async def _draw(self, server: Server, picture: bytes, frame: Wish | None) -> Drawn:
        """Have the process draw; one that takes too long, or breaks down, is ended and the next one is a new one."""
        if self._idle is not None:
            self._idle.cancel()
        most = server.settings.media.max_pixels
        loop = asyncio.get_running_loop()
        if self._process is None:
            self._process = await loop.run_in_executor(self._thread, Process, self.program, most)
        process = self._process
        timer = server.clock.call_later(SECONDS, process.kill)
        try:
            return await loop.run_in_executor(self._thread, process.draw, picture, frame, most)
        except (OSError, ValueError) as fault:
            log.warning("drawing process ended", fault=type(fault).__name__)
            self._process = None
            await loop.run_in_executor(self._thread, process.close)
            return Drawn("failed", "", b"")
        finally:
            timer.cancel()
            self._idle = server.clock.call_later(IDLE, self._rest)

    def _rest(self) -> None:
        if self._process is not None and not self._turn.locked():
            process, self._process = self._process, None
            self._thread.submit(process.close)

    async def close(self) -> None:
        """End the process when what is being drawn is done."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            process, self._process = self._process, None
            if process is not None:
                await asyncio.get_running_loop().run_in_executor(self._thread, process.close)


class Drawn(NamedTuple):
    """The answer of the process."""

    outcome: str
    content_type: str
    content: bytes


class Process:
    """A drawing process, seen from a thread that may wait for it. ``most`` is the pixels it must have room for."""

    def __init__(self, program: Path, most: int) -> None:
        memory = 512 * 1024 * 1024 + 16 * most  # each of 4 copies of a picture has 4 bytes for a pixel
        self._child = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", str(program), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # the terminal's Ctrl-C is for the server
        )
        self._end = weakref.finalize(self, _end, self._child)

    def draw(self, picture: bytes, frame: Wish | None, most: int) -> Drawn:
        """Wait for a thumbnail. Raises OSError or ValueError when the process fails."""
        requests, answers = self._child.stdin, self._child.stdout
        assert requests is not None
        assert answers is not None
        requests.write(json.dumps({"size": len(picture), "frame": frame, "most": most}).encode() + b"\n")
        requests.write(picture)
        requests.flush()
        head = json.loads(answers.readline())  # a ValueError when there is no line
        content = answers.read(head["size"])
        if len(content) != head["size"]:
            raise ValueError("the answer was cut off")
        return Drawn(head["outcome"], head["content_type"], content)

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._child.kill()

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self._end()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):  # something was on its way to it
                pipe.close()
    child.wait()


def _no_picture() -> Unknown:
    return Unknown("Cannot generate thumbnails for the requested content")


def _too_large() -> TooLarge:
    return TooLarge("The content is too large to make a thumbnail of")
