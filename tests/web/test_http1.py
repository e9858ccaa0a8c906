"""A connection, by raw bytes over real sockets: framing, order, bounds, and what happens when a client goes away."""

from __future__ import annotations

import asyncio
import json
import socket
from functools import partial
from typing import cast

import pytest

from homeserver.runtime.clock import FakeClock
from homeserver.web.connections import Patience
from homeserver.web.http1 import PIPELINED, Connection
from homeserver.web.limits import Bucket, Limits
from homeserver.web.parsing import Bounds
from tests.support import aio
from tests.web.stage import MIB, request, stage


def _received(connection: Connection, size: int) -> bool:
    exchange = connection._receiving
    return exchange is not None and exchange.incoming.received == size


SEND = "/_matrix/client/v3/rooms/!r:domicile.test/send/m.room.encrypted/"


@aio
async def test_an_answer_has_the_headers_that_browsers_and_clients_need() -> None:
    async with stage() as at:
        client = await at.client()
        answer = await client.get("/_matrix/federation/v1/version")
        assert answer.status == 200
        assert json.loads(answer.body) == {"server": {"name": "Domicile"}}
        assert answer.headers == {
            "content-type": "application/json",
            "cache-control": "no-store",
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
            "access-control-allow-headers": "X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match",
            "date": "Tue, 14 Nov 2023 22:13:20 GMT",
            "content-length": str(len(answer.body)),
        }


@aio
async def test_the_date_moves_on() -> None:
    async with stage() as at:
        client = await at.client()
        await at.clock.advance(5)
        assert (await client.get("/hello")).headers["date"] == "Tue, 14 Nov 2023 22:13:25 GMT"


@aio
async def test_what_operators_see_is_not_shared_with_web_pages() -> None:
    async with stage() as at:
        answer = await (await at.client()).get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4"
        assert not any(name.startswith("access-control") for name in answer.headers)


@aio
async def test_one_connection_carries_many_requests() -> None:
    async with stage() as at:
        client = await at.client()
        for number in range(50):
            body = b"x" * number
            await client.send(request("POST", "/echo", body))
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, body)
        assert len(at.connections) == 1


@aio
async def test_bytes_may_come_one_by_one() -> None:
    async with stage() as at:
        client = await at.client()
        client.writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request("POST", "/echo", b"slowly"):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).body == b"slowly"


@aio
async def test_pipelined_requests_are_answered_in_order() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(b"".join(request("POST", "/echo", b"%d" % number) for number in range(500)))
        assert [int((await client.answer()).body) for _ in range(500)] == list(range(500))


@aio
async def test_a_slow_request_holds_up_those_behind_it_and_their_number_is_bounded() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", "/_matrix/client/v3/sync", token="alice"))
        many = asyncio.ensure_future(client.send(request("GET", "/hello") * 5_000))
        await at.props.begun.wait()
        (connection,) = at.members
        await at.until(lambda: connection._not_reading)
        assert len(connection._held) <= 128 * 1024
        assert len(connection._queue) <= PIPELINED + 4096 // len(request("GET", "/hello"))
        assert at.recorder.answers == []
        at.props.go.set()
        assert json.loads((await client.answer()).body) == {"next_batch": "1"}
        for _ in range(5_000):
            assert (await client.answer()).status == 200
        await many


@pytest.mark.parametrize(
    ("lines", "keeps", "header"),
    [
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False, "close"),
        (b"GET /hello HTTP/1.0\r\n\r\n", False, "close"),
        (b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, "keep-alive"),
        (b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", True, None),
        (b"\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n", True, None),
        (b"GET http://a/hello HTTP/1.1\r\nHost: a\r\n\r\n", True, None),
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", False, "close"),
    ],
)
@aio
async def test_the_connection_is_kept_as_the_client_asks(lines: bytes, keeps: bool, header: str | None) -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(lines)
        answer = await client.answer()
        assert answer.status == 200
        assert json.loads(answer.body) == {"hello": "world"}
        assert answer.headers.get("connection") == header
        if keeps:
            assert (await client.get("/hello")).status == 200
        else:
            assert await client.ended() == b""


@aio
async def test_nothing_is_read_behind_the_last_request() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", "/hello", headers=["Connection: close"]) + request("GET", "/hello"))
        assert (await client.answer()).status == 200
        assert await client.ended() == b""
        assert len(at.recorder.answers) == 1


@aio
async def test_head_has_the_length_and_no_body() -> None:
    async with stage() as at:
        client = await at.client()
        for path, length in (("/hello", "17"), ("/large/1048576", "1048576"), ("/stream/sized", "25")):
            await client.send(request("HEAD", path))
            answer = await client.answer(bodiless=True)
            assert (answer.status, answer.headers["content-length"]) == (200, length)
        assert (await client.get("/hello")).status == 200


@pytest.mark.parametrize("path", ["/hello", SEND + "1", "/no/such/thing", "*"])
@aio
async def test_a_pre_flight_is_answered_everywhere_and_does_nothing(path: str) -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("OPTIONS", path))
        answer = await client.answer()
        assert answer.status == 204
        assert "content-length" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "*"
        assert (await client.get("/hello")).status == 200
        assert at.props.done == []


@aio
async def test_what_is_not_there_is_unrecognised() -> None:
    async with stage() as at:
        client = await at.client()
        answer = await client.get("/nothing")
        assert (answer.status, json.loads(answer.body)["errcode"]) == (404, "M_UNRECOGNIZED")
        await client.send(request("DELETE", "/hello", b"abc"))
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["errcode"]) == (405, "M_UNRECOGNIZED")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
        assert (await client.get("/hello")).status == 200
        assert at.recorder.answers[:2] == [("GET", "(unmatched)", 404), ("DELETE", "(unmatched)", 405)]


@aio
async def test_chunks_make_a_body() -> None:
    async with stage() as at:
        client = await at.client()
        start = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(start + b"3\r\nabc\r\n6;ext=1\r\n defgh\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"abc defgh"
        await client.send(start + b"0\r\n\r\n" + request("GET", "/hello"))
        assert (await client.answer()).body == b""
        assert (await client.answer()).status == 200


@aio
async def test_a_trailer_is_not_a_header_of_any_request() -> None:
    async with stage() as at:
        client = await at.client()
        chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        trailer = b"0\r\nAuthorization: Bearer admin\r\n\r\n"
        await client.send(chunked + trailer + request("POST", "/refusing", b"") + chunked + trailer)
        assert [(await client.answer()).status for _ in range(3)] == [200, 401, 200]
        await client.send(chunked.replace(b"/echo", b"/refusing") + trailer)
        assert (await client.answer()).status == 401


@aio
async def test_the_body_is_asked_for_when_the_client_expects_that() -> None:
    async with stage() as at:
        client = await at.client()
        expecting = ["Content-Length: 5", "Expect: 100-continue"]
        await client.send(request("POST", "/echo", headers=expecting))
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.answer()).body == b"hello"


@pytest.mark.parametrize(
    ("path", "length", "status"), [("/small", 1001, 413), ("/refusing", 9, 401), ("/nothing", 9, 404)]
)
@aio
async def test_a_refused_body_is_not_asked_for(path: str, length: int, status: int) -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("POST", path, headers=[f"Content-Length: {length}", "Expect: 100-continue"]))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        await client.send(b"x")
        assert await client.ended() == b""


@aio
async def test_too_large_a_body_is_refused_by_its_announcement() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("POST", "/small", headers=["Content-Length: 100000000"]) + b"x" * 10)
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["errcode"]) == (413, "M_TOO_LARGE")
        assert answer.headers["connection"] == "close"
        for _ in range(10):
            await client.send(b"x" * 100_000)  # it is heard out for a while, lest it miss the answer
            await at.clock.advance(0.1)
        assert len(at.connections) == 1
        await at.clock.advance(5)
        assert await client.ended() == b""


@aio
async def test_too_large_a_body_is_refused_once_its_chunks_have_grown_too_large() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(b"POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await client.send(b"190\r\n" + b"x" * 400 + b"\r\n")
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["errcode"]) == (413, "M_TOO_LARGE")
        assert answer.headers["connection"] == "close"


@aio
async def test_a_little_of_an_unwanted_body_is_read_over() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("POST", "/refusing", headers=["Content-Length: 30000"], token="alice"))
        assert (await client.answer()).status == 403
        await client.send(b"x" * 30000 + request("GET", "/hello"))
        assert (await client.answer()).status == 200


@aio
async def test_a_client_that_goes_on_sending_what_was_refused_is_cut_off() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("POST", "/small", headers=["Content-Length: 100000000"]))
        assert (await client.answer()).status == 413
        with pytest.raises(ConnectionError):
            await client.send(b"x" * 100_000_000)
        assert len(at.connections) == 0


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /hello HTTP/1.1\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET /hello HTTP/1.1\nHost: a\n\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET hello HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
@aio
async def test_what_could_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read(bytes_sent: bytes) -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(bytes_sent + request("GET", "/hello?who=smuggled"))
        answer = await client.answer()
        assert answer.status == 400
        assert json.loads(answer.body)["errcode"] == "M_UNKNOWN"
        assert answer.headers["connection"] == "close"
        await at.clock.advance(5)
        assert await client.ended() == b""
        assert at.recorder.failures == []


@aio
async def test_what_is_malformed_waits_for_its_turn() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", "/hello") + request("POST", "/echo", b"x") + b"NONSENSE\r\n\r\n")
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
        await at.clock.advance(5)
        assert await client.ended() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(101)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x" * 200_000, 431),
        (b"GET /" + b"x" * 200_000, 414),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\nContent-Length: 1\r\n\r\n", 417),
    ],
)
@aio
async def test_heads_are_bounded(sent: bytes, status: int) -> None:
    async with stage() as at:
        client = await at.client()
        sending = asyncio.ensure_future(client.send(sent))
        answer = await client.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        await at.clock.advance(5)
        await client.ended()
        await asyncio.gather(sending, return_exceptions=True)


@aio
async def test_framing_cannot_outweigh_a_chunked_body() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        sending = asyncio.ensure_future(client.send(b"1;" + b"x" * 200_000))
        assert (await client.answer()).status == 400
        await asyncio.gather(sending, return_exceptions=True)


@aio
async def test_chunks_of_one_byte_are_read() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
        assert (await client.answer()).body == b"x" * 50_000


@aio
async def test_invalid_utf8_behind_percent_signs_is_an_invalid_parameter() -> None:
    async with stage() as at:
        client = await at.client()
        for path in ("/large/%ff%fe", "/hello?who=%ff", "/large/%00"):
            answer = await client.get(path)
            assert (answer.status, json.loads(answer.body)["errcode"]) == (400, "M_INVALID_PARAM")
        assert (await client.get("/hello")).status == 200


# Time


@aio
async def test_a_head_must_come_in_time_however_steadily_it_drips() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(b"GET /hello HTTP/1.1\r\n")
        await at.until(lambda: at.members[0]._heading)
        for _ in range(29):
            await client.send(b"X: y\r\n")
            await at.clock.advance(1)
        assert len(at.connections) == 1
        await at.clock.advance(2)
        answer = await client.answer()
        assert answer.status == 408
        await at.clock.advance(5)
        assert await client.ended() == b""


@aio
async def test_a_body_must_come_in_time() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("POST", "/echo", headers=["Content-Length: 1000"]) + b"x")
        await at.until(lambda: at.members[0]._receiving)
        await at.clock.advance(32)
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["errcode"]) == (408, "M_UNKNOWN")
        assert answer.headers["connection"] == "close"


@aio
async def test_a_body_may_take_long_as_long_as_enough_of_it_comes() -> None:
    async with stage(patience=Patience(receive=10, least=1000)) as at:
        client = await at.client()
        await client.send(request("POST", "/echo", headers=["Content-Length: 10000"]))
        await at.until(lambda: len(at.connections))
        (connection,) = at.members
        for number in range(1, 10):
            await client.send(b"x" * 1000)
            await at.until(partial(_received, connection, number * 1000))
            await at.clock.advance(8)
        await client.send(b"x" * 1000)
        assert (await client.answer()).status == 200


@aio
async def test_an_idle_connection_is_closed() -> None:
    async with stage() as at:
        silent, used = await at.client(), await at.client()
        assert (await used.get("/hello")).status == 200
        await at.clock.advance(32)
        assert await silent.ended() == b""
        assert len(at.connections) == 1
        assert (await used.get("/hello")).status == 200
        await at.clock.advance(74)
        assert len(at.connections) == 1
        await at.clock.advance(3)
        assert await used.ended() == b""
        await at.until(lambda: not len(at.connections))
        assert at.clock.waiting == 0  # nobody is left to look at


@aio
async def test_a_request_that_is_being_answered_has_all_the_time_it_needs() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", "/_matrix/client/v3/sync", token="alice"))
        await at.props.begun.wait()
        await at.clock.advance(1000)
        at.props.go.set()
        assert (await client.answer()).status == 200


@aio
async def test_a_client_that_does_not_take_its_answer_is_dropped() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", "/endless"))
        await client.head()
        cast(asyncio.ReadTransport, client.writer.transport).pause_reading()
        connection = at.members[0]
        await at.until(lambda: connection._full and connection._writable)
        pieces = at.props.pieces
        for _ in range(100):
            await asyncio.sleep(0)
        assert at.props.pieces == pieces  # the stream is not read further
        await at.clock.advance(62)
        await at.until(lambda: not len(at.connections))
        await at.until(lambda: at.props.done == ["closed"])


# Large things


@pytest.mark.parametrize("size", [0, 1024, 128 * 1024, 129 * 1024, 5 * MIB])
@aio
async def test_answers_of_any_size_arrive_whole(size: int) -> None:
    async with stage() as at:
        client = await at.client()
        for _ in range(2):
            answer = await client.get(f"/large/{size}")
            assert answer.headers["content-length"] == str(size)
            assert answer.body == bytes(range(256)) * (size // 256)


@aio
async def test_a_large_answer_does_not_pile_up_before_a_slow_client() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", f"/large/{32 * MIB}"))
        connection = at.members[0]
        await at.until(lambda: connection._writable)
        wire = connection._wire
        assert len(wire.dataBuffer) + wire._tempDataLen < MIB
        assert len((await client.answer()).body) == 32 * MIB


@aio
async def test_streams_are_sent_in_chunks_or_with_their_length() -> None:
    async with stage() as at:
        client = await at.client()
        expected = b"".join(b"%05d" % number for number in range(5))
        answer = await client.get("/stream/unsized")
        assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", expected)
        assert "content-length" not in answer.headers
        answer = await client.get("/stream/sized")
        assert (answer.headers["content-length"], answer.body) == ("25", expected)
        await client.send(b"GET /stream/unsized HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert (answer.headers["connection"], answer.body) == ("close", expected)
        assert at.props.done == ["closed"] * 3


@aio
async def test_a_stream_cannot_send_more_than_was_announced() -> None:
    async with stage() as at:
        client = await at.client()
        assert (await client.get("/stream/long")).body == b"00000000010000200003"
        assert await client.ended() == b""
        assert len(at.recorder.failures) == 1


@pytest.mark.parametrize("kind", ["broken", "short"])
@aio
async def test_an_answer_that_breaks_off_is_seen_to_break_off(kind: str) -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", f"/stream/{kind}"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        assert len(at.recorder.failures) == 1
        assert at.props.done == ["closed"]


@aio
async def test_an_upload_is_not_read_faster_than_it_is_used() -> None:
    async with stage() as at:
        client = await at.client()
        size = 32 * MIB
        await client.send(
            request("POST", "/_matrix/media/v3/upload", token="alice", headers=[f"Content-Length: {size}"])
        )
        sending = asyncio.ensure_future(client.send(bytes(size)))
        await at.props.begun.wait()
        (connection,) = at.members
        await at.until(lambda: connection._not_reading)
        assert connection._current is not None
        assert connection._current.incoming._waiting < MIB
        await at.clock.advance(1000)  # the client is not to blame
        at.props.go.set()
        assert json.loads((await client.answer()).body) == {"size": size}
        await sending
        assert (await client.get("/hello")).status == 200


@aio
async def test_an_upload_is_refused_before_it_is_sent() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("POST", "/_matrix/media/v3/upload", headers=["Content-Length: 50000000"]))
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["errcode"]) == (401, "M_MISSING_TOKEN")
        assert answer.headers["connection"] == "close"


@aio
async def test_a_large_body_is_refused_to_strangers_before_it_is_sent() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("PUT", SEND + "1", token="nobody", headers=["Content-Length: 1000000"]) + b"{")
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["errcode"]) == (401, "M_UNKNOWN_TOKEN")


# Clients that go away


@aio
async def test_a_wait_ends_with_its_client() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("GET", "/_matrix/client/v3/sync", token="alice"))
        await at.props.begun.wait()
        client.vanish()
        await at.until(lambda: at.props.done == ["cancelled"])
        await at.until(lambda: not at.connections.answering)
        assert at.recorder.answers == [("GET", "/_matrix/client/v3/sync", 499)]
        assert at.recorder.failures == []


@aio
async def test_a_send_goes_on_without_its_client() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("PUT", SEND + "txn", b"{}", token="alice"))
        await at.props.begun.wait()
        client.vanish()
        await at.until(lambda: not len(at.connections))
        at.props.go.set()
        await at.until(lambda: at.props.done == ["txn"])
        await at.until(lambda: not at.connections.answering)
        assert at.recorder.failures == []


@aio
async def test_a_body_that_breaks_off_is_no_request() -> None:
    async with stage() as at:
        at.props.go.set()
        for headers in (["Content-Length: 100"], ["Content-Length: 1000000"], ["Transfer-Encoding: chunked"]):
            client = await at.client()
            await client.send(request("PUT", SEND + "txn", token="alice", headers=headers))
            await client.send(b"2\r\n{}\r\n" if "chunked" in headers[0] else b"{}")
            await at.until(lambda: len(at.connections))
            client.writer.close()
            await at.until(lambda: not len(at.connections) and not at.connections.answering)
        assert at.props.done == []
        assert at.recorder.failures == []


# The end


@aio
async def test_a_stop_lets_requests_end_and_waits_be_repeated() -> None:
    async with stage() as at:
        idle, waiting, sending, uploading = [await at.client() for _ in range(4)]
        assert (await idle.get("/hello")).status == 200
        await sending.send(request("PUT", SEND + "txn", b"{}", token="alice"))
        await at.props.begun.wait()
        at.props.begun.clear()
        await waiting.send(request("GET", "/_matrix/client/v3/sync", token="alice"))
        await at.props.begun.wait()
        await uploading.send(request("POST", "/echo", headers=["Content-Length: 5"]) + b"12")
        await at.until(lambda: any(member._receiving for member in at.members))
        closing = asyncio.ensure_future(at.listening.close(10))
        assert await idle.ended() == b""
        assert await waiting.ended() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", at.port)
        assert not closing.done()
        at.props.go.set()
        answer = await sending.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await uploading.send(b"345")
        assert (await uploading.answer()).body == b"12345"
        await closing
        assert at.props.done == ["cancelled", "txn"]


@aio
async def test_a_stop_does_not_wait_for_ever() -> None:
    async with stage() as at:
        client = await at.client()
        await client.send(request("PUT", SEND + "txn", b"{}", token="alice"))
        await at.props.begun.wait()
        closing = asyncio.ensure_future(at.listening.close(10))
        await at.clock.advance(9)
        assert not closing.done()
        await at.clock.advance(2)
        await closing
        assert await client.ended() == b""
        assert at.props.done == []


# Many, and often


@aio
async def test_connections_are_counted() -> None:
    async with stage(capacity=3) as at:
        clients = [await at.client() for _ in range(3)]
        assert [(await client.get("/hello")).status for client in clients] == [200] * 3
        refused = await at.client()
        assert await refused.ended() == b""
        clients[0].vanish()
        await at.until(lambda: len(at.connections) == 2)
        assert (await (await at.client()).get("/hello")).status == 200


@aio
async def test_hundreds_of_clients_are_answered_together() -> None:
    async with stage() as at:
        clients = [await at.client() for _ in range(400)]

        async def calls(number: int) -> None:
            for turn in range(5):
                answer = await clients[number].get(f"/hello?who={number}.{turn}")
                assert json.loads(answer.body) == {"hello": f"{number}.{turn}"}

        await asyncio.gather(*map(calls, range(400)))
        assert len(at.recorder.answers) == 2000


@aio
async def test_strangers_are_limited_by_address_and_users_by_name() -> None:
    clock = FakeClock()
    limits = Limits({"request": Bucket(per_second=0.5, burst=2)}, clock.monotonic)
    async with stage(limits=limits) as at:
        at.props.go.set()
        first, second = await at.client(), await at.client()
        assert [(await first.get("/hello")).status, (await second.get("/hello")).status] == [200, 200]
        answer = await second.get("/hello")
        assert (answer.status, answer.headers["retry-after"]) == (429, "2")
        assert json.loads(answer.body)["retry_after_ms"] == 2000
        assert (await first.get("/_matrix/client/v3/sync", token="alice")).status == 200
        await clock.advance(2)
        assert (await second.get("/hello")).status == 200


@aio
async def test_a_shorter_bound_on_heads_can_be_set() -> None:
    async with stage(bounds=Bounds(head=200)) as at:
        client = await at.client()
        await client.send(request("GET", "/hello", headers=["X: " + "x" * 200]))
        assert (await client.answer()).status == 431
