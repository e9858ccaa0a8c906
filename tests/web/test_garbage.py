"""Whatever bytes come, a client is answered or cut off: never a 500, never silence, and the server goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import aio, finish
from tests.web.stage import Stage, request, stage

WORDS = st.sampled_from(
    [
        b"GET ", b"POST ", b"PUT ", b"/hello", b"/echo", b"/small", b"/large/2048", b"/stream/unsized",
        b"/_matrix/client/v3/rooms/%21r/send/m/1", b"?access_token=alice&who=%ff", b" HTTP/1.1", b" HTTP/1.0",
        b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b":", b"Host: a\r\n", b"Content-Length: 5\r\n",
        b"Content-Length: 99999\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
        b"Expect: 100-continue\r\n", b"Authorization: Bearer alice\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b"5\r\nhello\r\n", b"0\r\n\r\n", b"{}", b"[", b"\xff\xfe", b"\x16\x03\x01",
        request("GET", "/hello"), request("POST", "/echo", b"{}"), request("POST", "/refusing", b"{", token="alice"),
        request("PUT", "/_matrix/client/v3/rooms/r/send/m/1", b"\xff", token="alice"),
    ]
)  # fmt: skip
PIECES = st.lists(st.lists(WORDS | st.binary(max_size=30), max_size=8).map(b"".join), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def served() -> Iterator[Stage]:
    """One stage for all that is thrown at it."""
    context = stage()
    at = finish(context.__aenter__())
    at.props.go.set()
    yield at
    finish(context.__aexit__(None, None, None))


async def throw(at: Stage, pieces: list[bytes]) -> bytes:
    """Send the pieces, end, and return all that comes back."""
    client = await at.client()
    before = len(at.recorder.answers)
    reading = asyncio.ensure_future(client.ended())
    for piece in pieces:
        if not reading.done():
            try:
                await client.send(piece)
            except ConnectionError:
                break
        await asyncio.sleep(0)
    await at.clock.advance(1)
    for _ in range(3):  # a head or body in time, a connection that idles, a client that lingers
        await at.clock.advance(80)
    answered = await reading
    client.vanish()
    await at.until(lambda: not len(at.connections) and not at.connections.answering)
    assert at.clock.waiting == 0
    del at.recorder.answers[:before]
    return answered


@settings(max_examples=400, deadline=None)
@given(pieces=PIECES)  # type: ignore[arg-type]  # pytest-twisted waits for the Deferred of each example
@aio
async def test_garbage(served: Stage, pieces: list[bytes]) -> None:
    answered = await throw(served, pieces)
    statuses = re.findall(rb"^HTTP/1\.1 (\d+)", answered, re.MULTILINE)
    assert not any(status.startswith(b"5") and status != b"505" for status in statuses)
    assert answered == b"" or answered.startswith(b"HTTP/1.1 ")
    assert served.recorder.failures == []
    assert b"Traceback" not in answered
