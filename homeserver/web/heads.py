"""The bytes before the body of an answer, made of blocks that are encoded once.

spec: client-server-api/#web-browser-clients
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus

from homeserver.web.messages import JSON, Response

SHARED = (
    b"Access-Control-Allow-Origin: *\r\n"
    b"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
    b"Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match\r\n"
)
"""What lets web pages from anywhere read an answer."""

KEEP_ALIVE = b"Connection: keep-alive\r\n"
CLOSE = b"Connection: close\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # a line break would start a header of somebody else's making
_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())


def _header(name: str, value: str) -> bytes:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"the header {name!r} cannot be sent")
    return f"{name}: {value}\r\n".encode("latin-1")


class Heads:
    """Encodes heads. `tick` must be called once a second for the sake of the Date."""

    def __init__(self, now_ms: int) -> None:
        self._date = b""
        self._ready: dict[tuple[int, bool], bytes] = {}  # by status and whether shared: JSON with no header of its own
        self.tick(now_ms)

    def tick(self, now_ms: int) -> None:
        """Say that it is ``now_ms`` milliseconds since 1970-01-01 UTC."""
        self._date = f"Date: {formatdate(now_ms / 1000, usegmt=True)}\r\n".encode()

    def head(self, response: Response, length: int | None, *, shared: bool, connection: bytes = b"") -> bytes:
        """The head of an answer whose body has ``length`` bytes; None: the body frames itself or ends the connection.

        ``connection`` are header lines that are ready. Raises ValueError for a header that would break the answer up.
        """
        if response.content_type == JSON and not response.headers:
            start = self._ready.get((response.status, shared))
            if start is None:
                start = self._ready[response.status, shared] = self._start(response, shared)
        else:
            start = self._start(response, shared)
        if length is None or response.status in _BODILESS:
            return b"%b%b%b\r\n" % (start, self._date, connection)
        return b"%b%b%bContent-Length: %d\r\n\r\n" % (start, self._date, connection, length)

    @staticmethod
    def _start(response: Response, shared: bool) -> bytes:
        lines = [_status_line(response.status)]
        if response.status not in _BODILESS:
            lines.append(_header("Content-Type", response.content_type))
        if response.content_type == JSON and not any(name.lower() == "cache-control" for name, _ in response.headers):
            lines.append(b"Cache-Control: no-store\r\n")  # no disk between here and the user keeps a copy
        lines += [_header(name, value) for name, value in response.headers]
        return b"".join([*lines, SHARED]) if shared else b"".join(lines)
