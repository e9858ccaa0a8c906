"""From bytes to request heads and bodies: HTTP/1.0 and HTTP/1.1, strictly.

Whatever two readers could understand differently (two lengths, two hosts, a length beside chunks) is
refused and nothing after it is read, so that no request can hide in another. Sizes are bounded while
they grow, not after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httptools

from homeserver.protocol.errors import (
    ExpectationFailed,
    HeadersTooLarge,
    InternalError,
    MalformedRequest,
    Refusal,
    UriTooLong,
    VersionNotSupported,
)
from homeserver.web.incoming import Incoming

_ONCE = frozenset((b"authorization", b"content-length", b"content-type", b"expect", b"host", b"transfer-encoding"))
_CHUNK_FRAMING = 16 * 1024  # bytes of framing that a chunked body may have, besides eight times its content


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a head may be: bytes of the address, bytes of it all, and number of headers."""

    target: int = 16 * 1024
    head: int = 32 * 1024
    headers: int = 100


class Head:
    """The head of a request. ``declared`` is the length of its body; None when the body comes in chunks."""

    __slots__ = ("declared", "expects", "headers", "keep_alive", "method", "modern", "target")

    def __init__(
        self,
        method: str,
        target: str,
        headers: dict[bytes, bytes],
        declared: int | None,
        *,
        modern: bool,
        keep_alive: bool,
        expects: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.declared = declared
        self.modern = modern  # HTTP/1.1
        self.keep_alive = keep_alive
        self.expects = expects  # the client sends its body after 100 Continue


class RequestParser:
    """Reads one connection. ``on_head`` is told of each head and says where the body goes; ``on_end`` of its end.

    ``in_head`` and ``incoming`` tell what is being received. After ``closed`` no request will come.
    The callbacks run while bytes are being parsed and may not feed more.
    """

    def __init__(self, on_head: Callable[[Head], Incoming], on_end: Callable[[], None], bounds: Bounds) -> None:
        self.in_head = False
        self.incoming: Incoming | None = None
        self.closed = False
        self._on_head = on_head
        self._on_end = on_end
        self._bounds = bounds
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_size = 0
        self._head_fed = 0  # bytes since the head began that may have been of the head
        self._framed = 0  # bytes of the chunked body with its framing
        self._keep_alive = True
        self._http: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Parse more. Raises Refusal when it is not a request; then nothing more can be parsed."""
        if self.incoming is not None and self.incoming.declared is not None:
            data = self._pass_on(self.incoming, self.incoming.declared, data)
        if not data or self.closed or self._http is None:
            return
        incoming = self.incoming
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.closed = True  # other protocols are not spoken here: the request counts as it stands
            return
        except httptools.HttpParserCallbackError as error:
            self.closed = True
            cause = error.__context__
            raise cause if isinstance(cause, Refusal) else InternalError("Internal server error") from cause
        except httptools.HttpParserError:
            if self.closed:
                return  # something behind the last request
            self.closed = True
            raise MalformedRequest("This is not a valid HTTP request") from None
        if self.in_head:
            self._head_fed += len(data)
            if self._head_fed > 2 * self._bounds.head:
                self.closed = True
                raise HeadersTooLarge("The request's headers are too large")
        elif incoming is not None and incoming is self.incoming and incoming.declared is None:
            self._framed += len(data)
            if self._framed > _CHUNK_FRAMING + 9 * incoming.received:
                self.closed = True
                raise MalformedRequest("The chunks of the body are too small")

    def close(self) -> None:
        """Let go of what refers to this parser."""
        self.closed = True
        self._http = None

    def _pass_on(self, incoming: Incoming, declared: int, data: bytes | memoryview) -> bytes | memoryview:
        """Hand on the bytes of a body whose length is known, which would be copied to be parsed; returns the rest."""
        if self.closed:
            return b""
        missing = declared - incoming.received
        incoming.feed(data[:missing])
        if len(data) < missing:
            return b""
        self._http = httptools.HttpRequestParser(self)  # the one before still waits for this body
        self.on_message_complete()
        return data[missing:]

    # Called by the parser

    def on_message_begin(self) -> None:
        """A first byte."""
        if self.closed:
            raise MalformedRequest("No request may follow")
        self.in_head = True
        self._target = b""
        self._headers = {}
        self._head_size = self._head_fed = self._framed = 0

    def on_url(self, part: bytes) -> None:
        """Some of the address."""
        self._target += part
        if len(self._target) > self._bounds.target:
            raise UriTooLong(f"The address may have at most {self._bounds.target} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header; or a trailer, which nothing here has a use for."""
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._bounds.head:
            raise HeadersTooLarge(f"The headers may have at most {self._bounds.head} bytes")
        if not self.in_head:
            return
        name = name.lower()
        headers = self._headers
        if name in headers:
            if name in _ONCE:
                raise MalformedRequest(f"The header {name.decode('latin-1')} may come only once")
            value = headers[name] + (b"; " if name == b"cookie" else b", ") + value
        elif len(headers) >= self._bounds.headers:
            raise HeadersTooLarge(f"There may be at most {self._bounds.headers} headers")
        headers[name] = value

    def on_headers_complete(self) -> None:
        """The end of a head."""
        http = self._http
        assert http is not None
        version = http.get_http_version()
        if version not in ("1.1", "1.0"):
            raise VersionNotSupported("HTTP/1.1 is spoken here")
        headers = self._headers
        modern = version == "1.1"
        if modern and b"host" not in headers:
            raise MalformedRequest("The header Host is missing")
        declared = _declared(headers, modern)
        if http.should_upgrade() and declared != 0:
            raise MalformedRequest("A request that has a body cannot change the protocol")
        method = http.get_method().decode("ascii")
        target = _origin_form(self._target, method)
        expects = _expects(headers, modern)
        self._keep_alive = http.should_keep_alive() and not http.should_upgrade()
        self.in_head = False
        self.incoming = self._on_head(
            Head(method, target, headers, declared, modern=modern, keep_alive=self._keep_alive, expects=expects)
        )

    def on_body(self, piece: bytes) -> None:
        """Some of a body."""
        assert self.incoming is not None
        self.incoming.feed(piece)

    def on_message_complete(self) -> None:
        """The end of a request."""
        incoming, self.incoming = self.incoming, None
        if not self._keep_alive:
            self.closed = True
        if incoming is not None:
            incoming.end()
            self._on_end()


def _declared(headers: dict[bytes, bytes], modern: bool) -> int | None:
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is None:
        if length is None:
            return 0
        if not length.isdigit():
            raise MalformedRequest("The Content-Length is not a number")
        return int(length)
    if length is not None or not modern or coding.lower() != b"chunked":
        raise MalformedRequest("A body comes with a Content-Length or in chunks, and not encoded otherwise")
    return None


def _expects(headers: dict[bytes, bytes], modern: bool) -> bool:
    expectation = headers.get(b"expect")
    if expectation is None or not modern:
        return False
    if expectation.lower() != b"100-continue":
        raise ExpectationFailed("Only 100-continue can be expected")
    return True


def _origin_form(target: bytes, method: str) -> str:
    """The path and query of a request's target, without the fragment that no target should have."""
    if not target.startswith(b"/"):
        scheme, slashes, rest = target.partition(b"://")
        if slashes and scheme.lower() in (b"http", b"https"):
            authority = rest.partition(b"/")[0].partition(b"?")[0]
            target = rest[len(authority) :]
            target = target if target.startswith(b"/") else b"/" + target
        elif target != b"*" or method != "OPTIONS":
            raise MalformedRequest("The address of the request is not a path")
    try:
        return target.partition(b"#")[0].decode("ascii")
    except UnicodeDecodeError:
        raise MalformedRequest("The address of the request must be percent-encoded") from None
