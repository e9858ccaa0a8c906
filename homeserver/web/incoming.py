"""The body of a request while it arrives.

Whoever reads it never waits for more than they asked for, and no more than ``HIGH_WATER`` bytes, or what they ask for
at once, wait for a reader that is slow: then the connection is told to stop reading.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from homeserver.protocol.errors import LimitExceeded, TooLarge
from homeserver.web.unrecognised import AGAIN_MS, Share

HIGH_WATER = 256 * 1024
"""Bytes that may wait for their reader before the connection stops reading."""


class DisconnectedError(Exception):
    """The client went away before its request had arrived, or before its answer had been sent."""


def too_large(limit: int) -> TooLarge:
    """The refusal of a body of more than ``limit`` bytes."""
    return TooLarge(f"The request body may have at most {limit} bytes")


class Incoming:
    """A body of at most ``limit`` bytes: have it put where there is room for it (`fill`), or read it whole (`whole`).

    ``declared`` is the Content-Length, or None for a chunked body.
    ``flow(stop)`` is called with True when the connection should stop reading, False when it may go on;
    ``wanted()`` once, when somebody starts to read. ``share`` is what the body counts towards until its sender is
    `recognised`.
    """

    __slots__ = (
        "_enough",
        "_error",
        "_filled",
        "_flow",
        "_pieces",
        "_room",
        "_share",
        "_stopped",
        "_waiter",
        "_waiting",
        "_wanted",
        "declared",
        "discarding",
        "finished",
        "limit",
        "received",
    )

    def __init__(
        self,
        limit: int,
        declared: int | None = None,
        flow: Callable[[bool], None] | None = None,
        wanted: Callable[[], None] | None = None,
        share: Share | None = None,
    ) -> None:
        self.limit = limit
        self.declared = declared
        self.received = 0
        self.finished = False
        self.discarding = False
        self._flow = flow
        self._wanted = wanted
        self._share = share
        self._pieces: deque[bytes] = deque()
        self._waiting = 0  # bytes that the reader has not had
        self._room: memoryview | None = None  # where they go, before _pieces
        self._filled = 0  # bytes of it
        self._enough: float = 1  # bytes for which the reader waits
        self._stopped = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def of(cls, body: bytes) -> Incoming:
        """A body that is here already."""
        incoming = cls(len(body), len(body))
        incoming.feed(body)
        incoming.end()
        return incoming

    @property
    def remaining(self) -> int | None:
        """Bytes that are still to come; None when only the sender knows."""
        return None if self.declared is None else self.declared - self.received

    @property
    def failed(self) -> bool:
        """Whether the rest of it will not come."""
        return self._error is not None

    @property
    def is_recognised(self) -> bool:
        """Whether it is known who sends it, or need not be."""
        return self._share is None

    def recognised(self) -> None:
        """It is known who sends this, or nobody wants it: it is not held for somebody unknown any more."""
        share, self._share = self._share, None
        if share is not None:
            share.give_back()

    # The connection's side

    def feed(self, piece: bytes | memoryview) -> None:
        """Take what has arrived. Of ``piece`` itself nothing is kept that can change: it may be a view."""
        self.received += len(piece)
        if self.discarding or self._error is not None:
            return
        if self.received > self.limit:
            self.fail(too_large(self.limit))
            return
        if self._share is not None and not self._share.take(len(piece)):
            self.fail(LimitExceeded(AGAIN_MS))
            return
        self._waiting += len(piece)
        rest = self._put(piece)
        if rest:
            self._pieces.append(bytes(rest))
        if self._waiter is not None and self._waiting >= self._enough:
            self._wake()
        if self._waiting > HIGH_WATER and self._waiting > self._enough and self._flow is not None:
            self._stopped = True
            self._flow(True)

    def end(self) -> None:
        """All of it has arrived."""
        self.finished = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will arrive; who reads is told by ``error``, at once."""
        if self._error is None and not self.finished:
            self._error = error
            self._pieces.clear()
            self._waiting = 0
            self.recognised()
            self._wake()
            self._go_on()

    def discard(self) -> None:
        """Nobody is going to read this: forget what has come and what comes."""
        self.discarding = True
        self._pieces.clear()
        self._waiting = 0
        self.recognised()
        self._go_on()

    # The reader's side

    async def whole(self) -> bytes:
        """The entire body. Raises TooLarge, another refusal, or DisconnectedError."""
        await self._have(math.inf)
        return self._all()

    async def fill(self, room: memoryview) -> int:
        """Fill ``room``, and return how many bytes that were: fewer than there is room for only at the end.

        What arrives meanwhile is put there at once. Raises what `whole` does.
        """
        self._room, self._filled = room, 0
        try:
            while self._pieces and self._filled < len(room):
                rest = self._put(self._pieces.popleft())
                if rest:
                    self._pieces.appendleft(bytes(rest))
            await self._have(len(room))
        finally:
            self._room = None
            self._enough = 1
            self._waiting = sum(map(len, self._pieces))
        if self._waiting <= HIGH_WATER // 2:
            self._go_on()
        return self._filled

    def _put(self, piece: bytes | memoryview) -> bytes | memoryview:
        """Put as much of a piece where the reader wants it as there is room for; returns the rest."""
        if self._room is None:
            return piece
        start = self._filled
        fitting = piece[: len(self._room) - start]
        self._filled = start + len(fitting)
        self._room[start : self._filled] = fitting
        return piece[len(fitting) :]

    async def _have(self, enough: float) -> None:
        """Wait until so many bytes are there, or all that will be. Raises what keeps the rest from coming."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not self.finished:
            wanted()
        self._enough = enough
        while self._waiting < enough and not self.finished and self._error is None:
            self._go_on()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error

    def _all(self) -> bytes:
        """What has come and was not read."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        return body

    def _go_on(self) -> None:
        if self._stopped and self._flow is not None:
            self._stopped = False
            self._flow(False)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
