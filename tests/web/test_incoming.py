"""Bodies as they are read: in pieces, in portions, whole; and how much of them waits for whoever reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from homeserver.web.incoming import HIGH_WATER, DisconnectedError, Incoming
from tests.support import aio

PIECE = b"p" * 1000


class Flow:
    """What the connection is told: whether it is to stop reading."""

    def __init__(self) -> None:
        self.said: list[bool] = []

    def __call__(self, stop: bool) -> None:
        self.said.append(stop)


def fed(incoming: Incoming, count: int) -> None:
    for _ in range(count):
        incoming.feed(PIECE)


async def settled() -> None:
    """Let everything that can run now have run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def count(pieces: AsyncIterator[bytes], most: int) -> int:
    """How many bytes are read before the reader has to wait; it is cancelled then."""
    got = 0
    while got < most:
        reading = asyncio.ensure_future(anext(pieces))
        await settled()
        if not reading.done():
            reading.cancel()
            break
        got += len(reading.result())
    return got


@aio
async def test_who_reads_portions_is_woken_for_no_less() -> None:
    incoming = Incoming(10**6)
    portions = incoming.portions(3000)
    reading = asyncio.ensure_future(anext(portions))
    await settled()
    fed(incoming, 2)
    await settled()
    assert not reading.done()
    fed(incoming, 2)
    assert await reading == PIECE
    assert await count(portions, 10**6) == 3 * len(PIECE)  # what is there is not waited for
    fed(incoming, 1)
    assert await count(portions, 10**6) == len(PIECE)
    reading = asyncio.ensure_future(anext(portions))
    await settled()
    fed(incoming, 1)
    await settled()
    assert not reading.done()
    incoming.end()
    assert await reading == PIECE  # the rest is what it is
    assert [piece async for piece in portions] == []


@aio
async def test_portions_of_what_is_there_already() -> None:
    assert [piece async for piece in Incoming.of(PIECE).portions(10)] == [PIECE]
    assert [piece async for piece in Incoming.of(PIECE).portions(10_000)] == [PIECE]
    assert [piece async for piece in Incoming.of(b"").portions(10)] == []


@pytest.mark.parametrize(("size", "most"), [(1, HIGH_WATER), (3 * HIGH_WATER, 3 * HIGH_WATER)])
@aio
async def test_no_more_waits_than_is_asked_for_at_once(size: int, most: int) -> None:
    flow = Flow()
    incoming = Incoming(10**9, None, flow)
    portions = incoming.portions(size)
    reading = asyncio.ensure_future(anext(portions))
    await settled()
    fed(incoming, most // len(PIECE))
    assert flow.said == []
    fed(incoming, 1)
    assert flow.said == [True]
    assert await reading == PIECE
    await count(portions, HIGH_WATER // 2)
    assert flow.said == ([True] if size > 1 else [True, False])
    await count(portions, 10**9)
    assert flow.said == [True, False]


@aio
async def test_a_connection_that_has_stopped_goes_on_when_more_is_asked_for_than_waits() -> None:
    flow = Flow()
    incoming = Incoming(10**9, None, flow)
    fed(incoming, HIGH_WATER // len(PIECE) + 1)
    assert flow.said == [True]
    reading = asyncio.ensure_future(incoming.whole())
    await settled()
    assert flow.said == [True, False]
    fed(incoming, HIGH_WATER // len(PIECE) + 1)
    incoming.end()
    assert len(await reading) == 2 * (HIGH_WATER // len(PIECE) + 1) * len(PIECE)
    assert flow.said == [True, False]


@pytest.mark.parametrize("read", [lambda body: body.portions(10**5), lambda body: body])
@aio
async def test_a_client_that_goes_away_ends_the_reading(read: object) -> None:
    incoming = Incoming(10**6)
    assert callable(read)
    pieces: AsyncIterator[bytes] = read(incoming)
    reading = asyncio.ensure_future(anext(pieces))
    await settled()
    incoming.fail(DisconnectedError("It has gone"))
    with pytest.raises(DisconnectedError):
        await reading
