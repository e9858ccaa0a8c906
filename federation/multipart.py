"""Bodies of several parts (RFC 2046), written and read piece by piece; nothing in them is believed to end."""

from __future__ import annotations

import re
from email.message import Message
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_HEADERS: Final = 16 * 1024
"""Bytes of the headers of one part."""
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


class NotMultipart(Exception):
    """What came is no body of several parts, or ended before its end."""


def boundary_in(content_type: str | None) -> bytes | None:
    """The boundary that the Content-Type of a ``multipart/mixed`` names; None for another, or a malformed one."""
    message = Message()
    message["Content-Type"] = (content_type or "")[:1024].replace("\r", " ").replace("\n", " ")
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/mixed" or not isinstance(boundary, str):
        return None
    return boundary.encode() if _BOUNDARY.fullmatch(boundary) else None


class Multipart:
    """The parts of a body, one after the other: `part` gives the headers of the next one, `content` its bytes."""

    def __init__(self, body: AsyncIterator[bytes], boundary: bytes) -> None:
        self._body = body
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning
        self._inside = True  # of a part, or of what stands before the first

    async def part(self) -> dict[str, str]:
        """Go to the next part, whose headers these are, their names in lower case. Raises NotMultipart."""
        async for _ in self.content():
            pass
        self._inside = True
        rest = await self._line()
        if rest.strip(b" \t"):
            raise NotMultipart("there is no further part")
        headers: dict[str, str] = {}
        spent = 0
        while line := await self._line():
            spent += len(line)
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or spent > MOST_HEADERS:
                raise NotMultipart("a part has headers that are none")
            headers[name.strip().lower()] = value.strip()
        return headers

    async def content(self) -> AsyncIterator[bytes]:
        """What is left of this part. Raises NotMultipart."""
        kept = len(self._delimiter) - 1
        while self._inside:
            end = self._buffer.find(self._delimiter)
            if end >= 0:
                piece = bytes(self._buffer[:end])
                del self._buffer[: end + len(self._delimiter)]
                self._inside = False
                if piece:
                    yield piece
                return
            if len(self._buffer) > kept:
                piece = bytes(self._buffer[:-kept])
                del self._buffer[:-kept]
                yield piece
            await self._more()

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MOST_HEADERS:
                raise NotMultipart("a line of a part's headers is too long")
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _more(self) -> None:
        try:
            self._buffer += await anext(self._body)
        except StopAsyncIteration:
            raise NotMultipart("it ended before its end") from None


def around(boundary: str, content_type: str, disposition: str) -> tuple[bytes, bytes]:
    """What stands before and behind the content of a file in an answer: first an empty object, then the file.

    spec: server-server-api/#get_matrixfederationv1mediadownloadmediaid
    """
    before = (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n"
        f"--{boundary}\r\nContent-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
    )
    return before.encode("latin-1"), f"\r\n--{boundary}--\r\n".encode()
