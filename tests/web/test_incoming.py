"""Bodies as they are read: into a room, or whole; and how much of them waits for whoever reads."""

from __future__ import annotations

import asyncio

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


def room_for(size: int) -> memoryview:
    return memoryview(bytearray(size))


@aio
async def test_who_has_room_is_woken_when_it_is_full() -> None:
    incoming = Incoming(10**6)
    fed(incoming, 1)
    room = room_for(2500)
    reading = asyncio.ensure_future(incoming.fill(room))
    await settled()
    view = memoryview(bytearray(b"q" * 1000))
    incoming.feed(view)
    view[:] = bytes(1000)  # of a view nothing is kept, for something else is received to the same place
    await settled()
    assert not reading.done()
    view[:] = b"r" * 1000
    incoming.feed(view)
    view[:] = bytes(1000)
    assert await reading == 2500
    assert room == b"p" * 1000 + b"q" * 1000 + b"r" * 500
    assert await incoming.fill(room[:300]) == 300  # what is there is not waited for
    assert room[:300] == b"r" * 300
    reading = asyncio.ensure_future(incoming.fill(room))
    await settled()
    assert not reading.done()
    incoming.end()
    assert await reading == 200  # the rest is what it is
    assert await incoming.fill(room) == 0


@aio
async def test_what_is_there_already_is_put_where_there_is_room() -> None:
    room = room_for(1500)
    assert await Incoming.of(b"").fill(room) == 0
    assert await Incoming.of(PIECE).fill(room) == 1000
    assert room == PIECE + bytes(500)
    assert await Incoming.of(PIECE).fill(room[:10]) == 10


@aio
async def test_nothing_is_put_to_where_nobody_reads_any_more() -> None:
    incoming = Incoming(10**6)
    room = room_for(3000)
    reading = asyncio.ensure_future(incoming.fill(room))
    await settled()
    fed(incoming, 1)
    reading.cancel()
    await asyncio.wait([reading])
    room[:] = bytes(3000)  # somebody else's by now
    fed(incoming, 1)
    assert room == bytes(3000)


@pytest.mark.parametrize(("size", "most"), [(1000, HIGH_WATER), (3 * HIGH_WATER, 3 * HIGH_WATER)])
@aio
async def test_no_more_waits_than_is_asked_for_at_once(size: int, most: int) -> None:
    flow = Flow()
    incoming = Incoming(10**9, None, flow)
    reading = asyncio.ensure_future(incoming.fill(room_for(size)))
    await settled()
    fed(incoming, most // len(PIECE))
    assert flow.said == []
    fed(incoming, 1)
    assert flow.said == [True]
    assert await reading == size
    assert flow.said == ([True] if size < HIGH_WATER else [True, False])
    if size < HIGH_WATER:
        assert await incoming.fill(room_for(HIGH_WATER // 2)) == HIGH_WATER // 2
        assert flow.said == [True, False]
    fed(incoming, HIGH_WATER // len(PIECE) + 1)  # what was asked for before is not asked for any more
    assert flow.said[2] is True


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


@aio
async def test_a_client_that_goes_away_ends_the_reading() -> None:
    incoming = Incoming(10**6)
    reading = asyncio.ensure_future(incoming.fill(room_for(10**5)))
    await settled()
    fed(incoming, 1)
    incoming.fail(DisconnectedError("It has gone"))
    with pytest.raises(DisconnectedError):
        await reading
