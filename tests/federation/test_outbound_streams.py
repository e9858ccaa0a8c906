"""Answers that are taken as they come: whole, bounded, and never faster than they are taken."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from homeserver.runtime.exchange import WAITING, Fault, Unreachable
from homeserver.runtime.outbound import Outbound, Place
from tests.federation.authority import Asked, says, silence, writes
from tests.federation.test_outbound import gone, stranger
from tests.support import aio

MIB = 2**20


async def taken(outbound: Outbound, place: Place, *, most: int = 100 * MIB, seconds: float = 5) -> tuple[int, bytes]:
    """Ask, and take all of the answer."""
    async with outbound.stream("GET", place, "/", most=most, seconds=seconds) as streamed:
        return streamed.status, b"".join([piece async for piece in streamed.body])


async def fault(outbound: Outbound, place: Place, *, most: int = 100, seconds: float = 5) -> Fault:
    with pytest.raises(Unreachable) as raised:
        await taken(outbound, place, most=most, seconds=seconds)
    return raised.value.fault


@aio
async def test_a_body_comes_whole_and_its_connection_is_used_again(tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_000
    async with stranger(tmp_path, says(body, 201)) as (made, outbound, place):
        for _ in range(3):
            assert await taken(outbound, place) == (201, body)
        assert made.connections == 1
        assert (await outbound.request("GET", place, "/", most=len(body), seconds=5)).body == body
        assert made.connections == 1
        await made.drop()
        assert (await taken(outbound, place))[1] == body, "one that was closed while idle is made anew"
        assert outbound.telemetry.counter("domicile_outbound_bytes", "", []).value("in") == 5 * len(body)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 X\r\n\r\nhello",
        b"HTTP/1.1 200 X\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ],
)
@aio
async def test_every_way_to_end(tmp_path: Path, answer: bytes) -> None:
    async with stranger(tmp_path, writes(answer)) as (_, outbound, place):
        assert await taken(outbound, place) == (200, b"hello")
    async with stranger(tmp_path, writes(b"HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n")) as (_, outbound, place):
        assert await taken(outbound, place) == (204, b"")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 X\r\nContent-Length: 101\r\n\r\n", Fault.TOO_LARGE),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 0x65, Fault.TOO_LARGE),
        (b"HTTP/1.1 200 X\r\n\r\n" + b"x" * 101, Fault.TOO_LARGE),
        (b"HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\nhello", Fault.CONNECTION),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Fault.CONNECTION),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Fault.BROKEN),
        (b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", Fault.BROKEN),
        (b"hello", Fault.BROKEN),
        (b"", Fault.CONNECTION),
    ],
)
@aio
async def test_what_does_not_come_whole(tmp_path: Path, answer: bytes, expected: Fault) -> None:
    async with stranger(tmp_path, writes(answer)) as (_, outbound, place):
        assert await fault(outbound, place) is expected
        assert await gone(outbound)


@aio
async def test_silence_ends(tmp_path: Path) -> None:
    async with stranger(tmp_path, silence) as (_, outbound, place):
        assert await fault(outbound, place, seconds=0.2) is Fault.TIMEOUT
    half = writes(b"HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\nhello", close=False)
    async with stranger(tmp_path, half) as (_, outbound, place):
        assert await fault(outbound, place, seconds=0.2) is Fault.TIMEOUT
        assert await gone(outbound)


@aio
async def test_nothing_piles_up_that_nobody_takes(tmp_path: Path) -> None:
    size, sent, full = 64 * MIB, 0, asyncio.Event()

    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {size}\r\n\r\n".encode())
        while sent < size:
            writer.write(bytes(MIB))
            sent += MIB
            if writer.transport.get_write_buffer_size() > MIB:
                full.set()
            await writer.drain()

    async with stranger(tmp_path, script) as (_, outbound, place):
        async with outbound.stream("GET", place, "/", most=size, seconds=5) as streamed:
            first = await anext(streamed.body)
            await full.wait()
            flow = next(iter(outbound._open))._reading
            assert flow is not None
            received = -1
            while received != flow.received:  # until nothing moves any more
                received = flow.received
                for _ in range(200):
                    await asyncio.sleep(0)
            assert WAITING < received < 8 * MIB, "the rest waits on the other side"
            assert sent < size
            rest = 0
            async for piece in streamed.body:
                rest += len(piece)
        assert len(first) + rest == size


@aio
async def test_who_takes_only_some_ends_the_connection(tmp_path: Path) -> None:
    half = writes(b"HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\nhello", close=False)
    async with stranger(tmp_path, half) as (made, outbound, place):
        for number in range(1, 3):
            async with outbound.stream("GET", place, "/", most=100, seconds=5) as streamed:
                assert await anext(streamed.body) == b"hello"
            assert await gone(outbound)
            assert made.connections == number
