"""Bodies as they are read: in pieces, in chunks, whole; and how much of them waits for whoever reads."""

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


@aio
async def test_who_reads_chunks_is_woken_for_no_less() -> None:
    incoming = Incoming(10**6)
    chunks = incoming.chunks(3000)
    reading = asyncio.ensure_future(anext(chunks))
    await settled()
    fed(incoming, 2)
    await settled()
    assert not reading.done()
    fed(incoming, 2)
    assert await reading == PIECE * 4
    fed(incoming, 1)
    reading = asyncio.ensure_future(anext(chunks))
    await settled()
    assert not reading.done()
    incoming.end()
    assert await reading == PIECE  # the rest is what it is
    assert [chunk async for chunk in chunks] == []


@aio
async def test_chunks_of_what_is_there_already() -> None:
    assert [chunk async for chunk in Incoming.of(PIECE).chunks(10)] == [PIECE]
    assert [chunk async for chunk in Incoming.of(PIECE).chunks(10_000)] == [PIECE]
    assert [chunk async for chunk in Incoming.of(b"").chunks(10)] == []


@pytest.mark.parametrize(("size", "most"), [(1, HIGH_WATER), (3 * HIGH_WATER, 3 * HIGH_WATER)])
@aio
async def test_no_more_waits_than_is_asked_for_at_once(size: int, most: int) -> None:
    flow = Flow()
    incoming = Incoming(10**9, None, flow)
    chunks = incoming.chunks(size)
    reading = asyncio.ensure_future(anext(chunks))
    await settled()
    fed(incoming, most // len(PIECE))
    assert flow.said == []
    fed(incoming, 1)
    assert flow.said == [True]
    assert len(await reading) > most // len(PIECE) * len(PIECE)
    assert flow.said == [True, False]


@aio
async def test_a_connection_that_has_stopped_goes_on_when_more_is_asked_for_than_waits() -> None:
    flow = Flow()
    incoming = Incoming(10**9, None, flow)
    fed(incoming, HIGH_WATER // len(PIECE) + 1)
    assert flow.said == [True]
    reading = asyncio.ensure_future(incoming.chunk(2 * HIGH_WATER))
    await settled()
    assert flow.said == [True, False]
    fed(incoming, HIGH_WATER // len(PIECE) + 1)
    assert len(await reading) >= 2 * HIGH_WATER


@pytest.mark.parametrize("read", [lambda body: body.chunks(10**5), lambda body: body])
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
