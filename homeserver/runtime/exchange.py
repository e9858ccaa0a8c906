"""One connection to another server, and one request and answer on it at a time: HTTP/1.1 over httptools.

The other side may be hostile: head and body are bounded while they grow, bytes that nobody asked for end the
connection, and a connection is used again only after an answer that leaves no doubt where it ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

import httptools
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

HEAD: Final = 64 * 1024
"""The most bytes of an answer before its body."""
WAITING: Final = 256 * 1024
"""The bytes of a body that wait to be taken before the other side is held up."""


class Fault(StrEnum):
    """Why another server could not be asked: what `/metrics` tells apart."""

    NAME = "name"  # it has no address, or DNS gives no answer
    DENIED = "denied"  # its address is none that the server connects to
    CONNECTION = "connection"
    CERTIFICATE = "certificate"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    BROKEN = "broken"  # what came is not an answer


class Unreachable(Exception):
    """Another server gave no answer that can be used. For the log and the metrics; no client is told more than that."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Answer:
    """What another server said. The names of ``headers`` are in lower case; a repeated one has its values joined."""

    status: int
    headers: dict[str, str]
    body: bytes


class Flow(AsyncIterator[bytes]):
    """The body of an answer piece by piece, as it comes. The other side is held up while much of it waits to be taken.

    Raises Unreachable when the rest is not going to come.
    """

    def __init__(self, hold: Callable[[bool], object]) -> None:
        self._hold = hold
        self._held = False
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._news = asyncio.Event()
        self._over = False
        self._fault: Unreachable | None = None

    def feed(self, piece: bytes) -> None:
        """A piece has come."""
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting > WAITING and not self._held:
            self._held = True
            self._hold(True)
        self._news.set()

    def end(self, fault: Unreachable | None = None) -> None:
        """Nothing more comes, since that was all, or because of a fault."""
        if not self._over:
            self._over, self._fault = True, fault
            self._news.set()

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._fault is not None:
                raise self._fault
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._held and not self._pieces:
            self._held = False
            self._hold(False)
        return piece


class _Reading:
    """An answer while it comes; its body goes into the ``flow``, if there is one. Called by httptools."""

    def __init__(self, most: int, flow: Flow | None = None) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.most = most
        self.flow = flow
        self.received = 0
        self.spent = 0  # bytes of heads
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.in_body = False
        self.done = False
        self.surplus = False
        self.keep_alive = False
        self.fault: Unreachable | None = None

    def feed(self, data: bytes) -> None:
        """Take in what came."""
        if not self.in_body:
            self.spent += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.surplus = True
            if not self.done and self.fault is None:
                self.fault = Unreachable(Fault.BROKEN, "no answer of HTTP/1.1")
        if not self.in_body and not self.done and self.spent > HEAD:
            self.fault = Unreachable(Fault.TOO_LARGE, f"more than {HEAD} bytes before the body")

    def ends_with_connection(self) -> bool:
        """Whether nothing but the end of the connection tells where the body ends."""
        return self.in_body and not {"content-length", "transfer-encoding"} & self.headers.keys()

    def answer(self) -> Answer:
        """The whole of it."""
        return Answer(self.status, self.headers, bytes(self.body))

    def on_message_begin(self) -> None:
        if self.done:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.done:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.done:
            return
        self.status = self.parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self.in_body = True
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.most:
            self._too_large()
        elif self.headers.get("content-encoding", "identity").lower() != "identity":
            self.fault = Unreachable(Fault.BROKEN, "the answer is compressed, though nobody asked for that")

    def on_body(self, part: bytes) -> None:
        self.received += len(part)
        if self.received > self.most:
            self._too_large()
        elif self.fault is not None or self.done:
            return
        elif self.flow is None:
            self.body += part
        else:
            self.flow.feed(part)

    def on_message_complete(self) -> None:
        if self.in_body:
            self.in_body, self.done = False, True
            self.keep_alive = self.parser.should_keep_alive()

    def _too_large(self) -> None:
        self.fault = Unreachable(Fault.TOO_LARGE, f"more than {self.most} bytes")


@implementer(IHandshakeListener)
class Connection(Protocol):
    """A connection, from the attempt to make it on. ``lost`` is called once when it is no more; ``plain``: no TLS."""

    def __init__(self, lost: Callable[[Connection], object], *, plain: bool = False) -> None:
        self._lost = lost
        self._plain = plain
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[Answer] | None = None
        self._reading: _Reading | None = None
        self._aborted = False
        self.open = False
        self.used = False
        self.heard = False
        """Whether anything came since the last request was sent."""

    async def established(self) -> None:
        """Wait for the end of the TLS handshake. Raises Unreachable."""
        await self._ready

    async def exchange(self, request: bytes, most: int) -> Answer:
        """Send a request and wait for its answer of at most ``most`` bytes. Raises Unreachable."""
        self._answer = asyncio.get_running_loop().create_future()
        self._reading = _Reading(most)
        self.heard, self.used = False, True
        cast(Any, self.transport).write(request)
        try:
            return await self._answer
        finally:
            self._answer = self._reading = None

    async def begin(self, request: bytes, most: int) -> tuple[Answer, Flow]:
        """Send a request and wait for the head of its answer; the body, of at most ``most`` bytes, is in the flow.

        Whoever began calls `release` in the end. Raises Unreachable.
        """
        flow = Flow(self._hold)
        self._answer = asyncio.get_running_loop().create_future()
        self._reading = _Reading(most, flow)
        self.heard, self.used = False, True
        cast(Any, self.transport).write(request)
        return await self._answer, flow

    def release(self) -> None:
        """The answer has been taken; one that did not come to its end takes the connection along."""
        reading, self._reading, self._answer = self._reading, None, None
        if reading is not None and not reading.done:
            self.abort()

    def _hold(self, held: bool) -> None:
        """Let the other side wait with the rest of its answer, or go on."""
        transport = cast(Any, self.transport)
        if transport is not None and not self._aborted:
            transport.pauseProducing() if held else transport.resumeProducing()

    def abort(self) -> None:
        """End the connection at once, if there is one."""
        self.open = False
        if self.transport is not None and not self._aborted:
            self._aborted = True
            cast(Any, self.transport).abortConnection()

    def connectionMade(self) -> None:  # noqa: N802
        """Called by Twisted."""
        if self._plain:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:  # noqa: N802
        """Called by Twisted: the other side is who it should be."""
        self.open = True
        if not self._ready.done():
            self._ready.set_result(None)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Called by Twisted."""
        reading, answer = self._reading, self._answer
        if reading is None or answer is None or (reading.done if reading.flow else answer.done()):
            self.abort()  # nobody asked
            return
        self.heard = True
        reading.feed(data)
        if reading.fault is not None:
            self.abort()
            self._end(reading, answer, reading.fault)
        elif reading.done:
            if reading.surplus or not reading.keep_alive:
                self.abort()
            self._end(reading, answer)
        elif reading.flow is not None and reading.in_body and not answer.done():
            answer.set_result(reading.answer())  # its head

    @staticmethod
    def _end(reading: _Reading, answer: asyncio.Future[Answer], fault: Unreachable | None = None) -> None:
        if reading.flow is not None:
            reading.flow.end(fault)
        if not answer.done():
            if fault is None:
                answer.set_result(reading.answer())
            else:
                answer.set_exception(fault)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """Called by Twisted."""
        self.open, self._aborted = False, True
        fault = Fault.CERTIFICATE if isinstance(reason.value, SSL.Error) and not self.used else Fault.CONNECTION
        lost = Unreachable(fault, f"the connection was lost: {_text(reason)}")
        if not self._ready.done():
            self._ready.set_exception(lost)
        answer, reading = self._answer, self._reading
        if answer is not None and reading is not None:
            whole = reading.done or (reading.ends_with_connection() and isinstance(reason.value, ConnectionDone))
            reading.done = True
            self._end(reading, answer, None if whole else lost)
        self._lost(self)


def _text(reason: Failure) -> str:
    """What OpenSSL or the system says, in a line."""
    fault = reason.value
    parts = fault.args[0] if isinstance(fault, SSL.Error) and fault.args else ()
    if isinstance(parts, list | tuple) and parts:
        return ", ".join(str(part[-1]) for part in parts if isinstance(part, tuple) and part)
    return reason.getErrorMessage()
