"""One client's connection: HTTP/1.0 and HTTP/1.1 over any stream transport of Twisted.

Requests of a connection are answered one after the other, in order. What a client can make this side
hold is bounded: the requests that wait, the bytes of a body that wait for their reader, the bytes of an
answer that wait for the client, and (by `Connections`) the time that each may take.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Any, cast

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection as TcpConnection
from twisted.python.failure import Failure
from zope.interface import implementer

from homeserver.protocol.errors import InternalError, Refusal, RequestTimeout
from homeserver.web import heads
from homeserver.web.connections import Connections
from homeserver.web.incoming import DisconnectedError, Incoming, too_large
from homeserver.web.messages import Request, Response, refused
from homeserver.web.parsing import Bounds, Head, RequestParser
from homeserver.web.routes import Route, Table
from homeserver.web.site import UNMATCHED, Site
from homeserver.web.unrecognised import LONGEST, SMALL, Share

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PIPELINED = 16  # requests that may wait for their turn, before no more is parsed
SLICE = 4096  # bytes that are parsed before the queue is looked at again
EARLY = SMALL  # a body above this is not waited for before its request is looked at
PIECE = 128 * 1024  # bytes of an answer that are handed to the transport at once
UNREAD = 64 * 1024  # bytes of an unwanted body that are read over to keep the connection
DROPPED = 4 * 1024 * 1024  # bytes that a client may go on sending after it was refused
_QUEUE, _BODY = 1, 2  # why reading has stopped


class Exchange:
    """One request, from its head to the end of its answer. ``answer`` is there when no endpoint is needed."""

    __slots__ = ("answer", "begun", "head", "incoming", "keep_alive", "ready", "request", "route", "task", "unasked")

    def __init__(self, head: Head, request: Request, route: Route[Any] | None, answer: Response | None) -> None:
        self.head = head
        self.request = request
        self.incoming = request.incoming
        self.route = route
        self.answer = answer
        self.keep_alive = head.keep_alive
        self.ready = answer is not None
        self.unasked = head.expects  # the client has not been asked for the body that it holds back
        self.begun = False  # some of the answer has been sent
        self.task: asyncio.Task[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether nothing is lost when the endpoint is cancelled, or the sending of its answer."""
        return self.begun or (self.route is not None and self.route.long_poll)


class Service(Factory):
    """Makes the connections of one listener, which serves the routes of ``table``.

    ``proxies`` are the addresses whose X-Forwarded-For is believed.
    """

    noisy = False

    def __init__(
        self,
        site: Site[Any],
        connections: Connections,
        table: Table[Any] | None = None,
        *,
        proxies: Iterable[Network] = (),
        bounds: Bounds | None = None,
    ) -> None:
        self.site = site
        self.connections = connections
        self.table = site.table if table is None else table
        self.bounds = bounds or Bounds()
        self._proxies = tuple(proxies)

    def buildProtocol(self, addr: object) -> Connection:  # noqa: N802
        """A connection for a client that has just been accepted."""
        return Connection(self)

    def is_proxy(self, address: str) -> bool:
        """Whether the address belongs to a trusted reverse proxy."""
        if not self._proxies:
            return False
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    def client(self, peer: str, forwarded: bytes) -> str:
        """The address furthest from us that a chain of trusted proxies vouches for."""
        for part in reversed(forwarded.decode("latin-1").split(",")):
            if not self.is_proxy(peer):
                break
            peer = _bare(part.strip())
        return peer


def _bare(said: str) -> str:
    """An address as some proxies write it, ``203.0.113.7:5000`` or ``[2001:db8::7]:5000``, without its port: each
    connection has another one, and one client would be many."""
    if said.startswith("["):
        return said[1:].partition("]")[0]
    host, _, port = said.partition(":")
    return host if port.isdecimal() else said


@implementer(IPushProducer)
class Connection(Protocol):
    """Speaks with one client. To the transport it is the producer of answers, which can be paused."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._site = service.site
        self._connections = service.connections
        self._parser = RequestParser(self._on_head, self._on_end, service.bounds)
        self._queue: deque[Exchange] = deque()
        self._receiving: Exchange | None = None  # whose body is arriving
        self._current: Exchange | None = None  # whose answer is being made or sent
        self._wire: Any = None  # the transport, which has more methods than its interface
        self._peer = ""
        self._held = b""  # received, but not parsed until there is room in the queue
        self._not_reading = 0
        self._deaf = False  # nothing more is parsed
        self._dropped = 0  # bytes that came nevertheless
        self._closing = self._stopping = self._lost = False
        self._full = False  # the transport has enough to send
        self._writable: asyncio.Future[None] | None = None
        self._heading = False  # a head has begun
        self._read_by = math.inf  # when the client must have sent what is due, by the monotonic clock
        self._whole_by = math.inf  # when all of a body must be here, unless its sender is recognised
        self._write_by = math.inf  # when it must have taken what it was sent
        self._progress = 0  # bytes of the body that had come when that was decided

    # From the transport

    def connectionMade(self) -> None:  # noqa: N802
        """Start to wait for the first request."""
        wire: Any = self.transport
        self._wire = wire
        if self._connections.full:
            self._abort()
            return
        self._peer = getattr(wire.getPeer(), "host", "")
        if isinstance(self.transport, TcpConnection):
            wire.setTcpNoDelay(True)
        wire.registerProducer(self, True)
        self._read_by = self._site.seconds() + self._connections.patience.receive
        self._connections.add(self)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Parse what has come, and answer what is complete. Of ``data`` itself nothing is kept: it may be a view."""
        if self._deaf:
            self._dropped += len(data)
            if self._dropped > DROPPED:
                self._abort()
        elif self._held:
            self._held += data  # what was on its way when reading stopped
        else:
            self._take(data)
            self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """The client is gone. What only waits for it is cancelled; what acts goes on."""
        self._lost = self._deaf = self._closing = True
        self._connections.discard(self)
        gone = DisconnectedError("The client has gone away")
        if self._receiving is not None:
            self._receiving.incoming.fail(gone)
        if self._current is not None and self._current.waits and self._current.task is not None:
            self._current.task.cancel()
        self._drop_queue()
        self._parser.close()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(gone)

    def pauseProducing(self) -> None:  # noqa: N802
        """The transport has enough to send."""
        self._full = True
        self._write_by = self._site.seconds() + self._connections.patience.write

    def resumeProducing(self) -> None:  # noqa: N802
        """The client has taken what there was."""
        self._full = False
        self._write_by = math.inf
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._advance()

    def stopProducing(self) -> None:  # noqa: N802
        """Nothing can be sent any more; `connectionLost` follows."""

    # From the connections

    def check(self, now: float) -> None:
        """End what has taken too long."""
        if now >= self._write_by:
            self._abort()
        elif now >= self._read_by and not self._not_reading:
            self._late(now)
        elif now >= self._whole_by:
            self._whole_by = math.inf
            if self._receiving is not None and not self._receiving.incoming.is_recognised:
                self._unreadable(RequestTimeout("The request did not arrive in time"))
                self._advance()

    def stop(self) -> None:
        """Answer what has been asked, and close. What only waits is cancelled, for its client will ask again."""
        self._stopping = True
        if self._current is None and not self._queue and self._receiving is None:
            self._close()
        elif self._current is not None and self._current.waits and not self._current.begun:
            assert self._current.task is not None
            self._current.task.cancel()

    def abort(self) -> None:
        """Close now, whatever is going on."""
        self._abort()

    # Receiving

    def _take(self, data: bytes) -> None:
        """Parse as much as the queue has room for, and hold the rest."""
        rest: bytes | memoryview = data
        parser = self._parser
        while rest and not self._deaf:
            if len(self._queue) >= PIPELINED:
                self._held = bytes(rest)
                self._pause(_QUEUE)
                return
            piece, rest = rest, b""
            if len(piece) > SLICE and (parser.incoming is None or (parser.incoming.remaining or 0) < len(piece)):
                view = memoryview(piece)
                piece, rest = view[:SLICE], view[SLICE:]
            try:
                parser.feed(piece)
            except Refusal as error:
                self._unreadable(error)
            if parser.closed:
                self._deaf = True
        if parser.in_head and not self._heading:
            self._heading = True
            self._read_by = self._site.seconds() + self._connections.patience.receive

    def _on_head(self, head: Head) -> Incoming:
        site, service = self._site, self._service
        self._heading = False
        request = Request(head.method, head.target, head.headers, self._peer)
        route: Route[Any] | None = None
        answer: Response | None = None
        limit = UNREAD
        try:
            route, request.args = service.table.match(head.method, request.path)
            request.template = route.path
            limit = site.max_body(route)
            if head.declared is not None and head.declared > limit:
                raise too_large(limit)
        except Refusal as error:
            answer = (
                site.unmatched(service.table, head.method, request.path, error) if route is None else refused(error)
            )
            site.observer.answered(head.method, request.template or UNMATCHED, answer.status, 0.0)
        if (forwarded := head.headers.get(b"x-forwarded-for")) is not None:
            request.address = service.client(self._peer, forwarded)
        exchange = Exchange(head, request, route, answer)
        ask = partial(self._ask, exchange) if head.expects else None
        share = None if head.declared == 0 else Share(self._connections.unrecognised, request.address, head.declared)
        incoming = request.incoming = exchange.incoming = Incoming(limit, head.declared, self._flow, ask, share)
        if answer is not None:
            incoming.discard()
        elif head.declared is None or head.declared > EARLY or head.expects or (route is not None and route.stream):
            exchange.ready = True
        if head.declared != 0:
            self._progress = 0
            now = site.seconds()
            self._read_by, self._whole_by = now + self._connections.patience.receive, now + LONGEST
        self._receiving = exchange
        self._queue.append(exchange)
        return incoming

    def _on_end(self) -> None:
        exchange, self._receiving = self._receiving, None
        self._whole_by = math.inf
        if exchange is not None:
            exchange.ready = True
        self._read_by = math.inf if self._queue or self._current is not None else self._idle_until()

    def _unreadable(self, error: Refusal) -> None:
        """What came is no request, or not the rest of one."""
        self._deaf = True
        if isinstance(error, InternalError):
            self._site.observer.failed("-", UNMATCHED, error.__cause__ or error)
        exchange = self._receiving
        if exchange is None:
            head = Head("-", "/", {}, 0, modern=True, keep_alive=False, expects=False)
            exchange = Exchange(head, Request("-", "/", {}, ""), None, refused(error))
            exchange.incoming.end()
            self._site.observer.answered("-", UNMATCHED, error.status, 0.0)
            self._queue.append(exchange)
            return
        exchange.keep_alive = False
        exchange.ready = True
        exchange.incoming.fail(error)
        if exchange is not self._current and exchange not in self._queue:
            self._close()  # it has been answered, and its body was read over

    def _late(self, now: float) -> None:
        exchange = self._receiving
        patience = self._connections.patience
        if exchange is not None and exchange.incoming.received - self._progress >= patience.least:
            self._progress = exchange.incoming.received
            self._read_by = now + patience.receive
        elif exchange is not None or self._parser.in_head:
            self._read_by = math.inf
            self._unreadable(RequestTimeout("The request did not arrive in time"))
            self._advance()
        elif self._current is None and not self._queue:
            self._close()
        else:
            self._read_by = math.inf

    def _ask(self, exchange: Exchange) -> None:
        exchange.unasked = False
        if not self._lost and exchange.incoming.received == 0:
            self._wire.write(heads.CONTINUE)

    def _flow(self, stop: bool) -> None:
        if stop:
            self._pause(_BODY)
        else:
            self._resume(_BODY)

    def _pause(self, why: int) -> None:
        if not self._not_reading:
            self._wire.pauseProducing()
        self._not_reading |= why

    def _resume(self, why: int) -> None:
        if self._not_reading == why and not self._lost:
            self._read_by = self._site.seconds() + self._connections.patience.receive
            self._wire.resumeProducing()
        self._not_reading &= ~why

    # Answering

    def _advance(self) -> None:
        """Turn to the next requests, as far as they can be answered now."""
        while self._current is None and not self._full and not self._closing and self._queue and self._queue[0].ready:
            exchange = self._current = self._queue.popleft()
            if exchange.answer is not None:
                self._send(exchange, exchange.answer)
                self._finish(exchange)
            else:
                exchange.task = self._connections.run(self._run(exchange))
            if self._held:
                held, self._held = self._held, b""
                self._take(held)
                if not self._held:
                    self._resume(_QUEUE)

    async def _run(self, exchange: Exchange) -> None:
        """Have a request answered, and send the answer. Raises nothing."""
        assert exchange.route is not None
        try:
            response = await self._site.answer(exchange.request, exchange.route)
            try:
                if not self._send(exchange, response):
                    await self._send_long(exchange, response)
            finally:
                if isinstance(response.body, AsyncIterator):
                    await _end(response.body)
        except asyncio.CancelledError:
            self._break_off(exchange)
        except DisconnectedError:
            pass
        except Exception as error:
            self._site.observer.failed(exchange.request.method, exchange.route.path, error)
            if exchange.begun:
                self._abort()
            else:
                self._send(exchange, refused(InternalError("Internal server error")))
        if not self._lost:
            self._finish(exchange)
            self._advance()

    def _send(self, exchange: Exchange, response: Response) -> bool:
        """Send an answer in one piece; False when it is too long for that."""
        body = response.body
        if not isinstance(body, bytes):
            if isinstance(body, AsyncIterator) or sum(map(len, body)) > PIECE:
                return False
            body = b"".join(body)
        elif len(body) > PIECE:
            return False
        head = self._head(exchange, response, len(body))
        exchange.begun = True
        if not self._lost:
            self._wire.write(head if exchange.head.method == "HEAD" else head + body)
        return True

    async def _send_long(self, exchange: Exchange, response: Response) -> None:
        """Send an answer piece by piece, no faster than the client takes it."""
        body = response.body
        if isinstance(body, AsyncIterator):
            pieces, length = body, response.length
        else:
            chunks = [body] if isinstance(body, bytes) else body
            pieces, length = _pieces(chunks), sum(map(len, chunks))
        chunked = length is None and exchange.head.modern
        if length is None and not chunked:
            exchange.keep_alive = False  # its end is the end of the connection
        head = self._head(exchange, response, length, b"Transfer-Encoding: chunked\r\n" if chunked else b"")
        exchange.begun = True
        self._wire.write(head)
        if exchange.head.method == "HEAD":
            return
        sent = 0
        async for piece in pieces:
            if piece:
                sent += len(piece)
                if length is not None and sent > length:
                    break
                await self._drained()
                self._wire.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if length is not None and sent != length:
            raise ValueError(f"the body of an answer has not the {length} bytes that were announced")
        if chunked:
            self._wire.write(b"0\r\n\r\n")

    def _head(self, exchange: Exchange, response: Response, length: int | None, framing: bytes = b"") -> bytes:
        self._settle(exchange)
        if not exchange.keep_alive:
            framing += heads.CLOSE
        elif not exchange.head.modern:
            framing += heads.KEEP_ALIVE
        shared = exchange.route is None or exchange.route.resource.shared
        return self._connections.heads.head(response, length, shared=shared, connection=framing)

    def _settle(self, exchange: Exchange) -> None:
        """Decide whether the connection is kept: not when more of the body is to come than is worth reading."""
        incoming = exchange.incoming
        if not incoming.finished:
            remaining = incoming.remaining
            if exchange.unasked or incoming.failed or remaining is None or remaining > UNREAD:
                exchange.keep_alive = False
                self._deaf = True
            incoming.discard()
        if self._stopping:
            exchange.keep_alive = False

    def _finish(self, exchange: Exchange) -> None:
        self._current = None
        if not exchange.keep_alive:
            self._close()
        elif not self._queue and self._receiving is None and not self._heading:
            self._read_by = self._idle_until()

    async def _drained(self) -> None:
        while self._full and not self._lost:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        if self._lost:
            raise DisconnectedError("The client has gone away")

    def _break_off(self, exchange: Exchange) -> None:
        if exchange.begun:
            self._abort()
        exchange.keep_alive = False

    def _idle_until(self) -> float:
        return self._site.seconds() + self._connections.patience.idle

    def _close(self) -> None:
        """Close when what was sent has been taken; hear a client out that is still sending, or it might miss that."""
        if self._closing:
            return
        self._closing = self._deaf = True
        self._drop_queue()
        now = self._site.seconds()
        self._write_by = now + self._connections.patience.write
        self._wire.unregisterProducer()
        if self._receiving is None and not self._dropped and not self._not_reading:
            self._wire.loseConnection()
            return
        self._write_by = now + self._connections.patience.linger
        wire = self._wire
        if isinstance(self.transport, TcpConnection):
            wire.loseWriteConnection()
        wire.resumeProducing()

    def _drop_queue(self) -> None:
        """Forget the requests that wait, and what they hold."""
        for exchange in self._queue:
            exchange.incoming.discard()
        self._queue.clear()
        self._held = b""

    def _abort(self) -> None:
        self._closing = self._deaf = True
        self._wire.abortConnection()


async def _pieces(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in _regrouped(chunks):
        yield piece


def _regrouped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about PIECE."""
    group: list[bytes] = []
    size = 0
    for chunk in chunks:
        if size and size + len(chunk) > PIECE:
            yield b"".join(group)
            group, size = [], 0
        if len(chunk) > PIECE:
            for start in range(0, len(chunk), PIECE):
                yield chunk[start : start + PIECE]
        else:
            group.append(chunk)
            size += len(chunk)
    yield b"".join(group)


async def _end(stream: AsyncIterator[bytes]) -> None:
    """Let a stream that may not have been read to its end close what it holds."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await cast(Any, close)()
