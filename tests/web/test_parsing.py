"""The parser by itself: it says the same however the bytes are cut, and never anything but a request or a refusal."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.protocol.errors import Refusal
from homeserver.web.incoming import Incoming
from homeserver.web.parsing import Bounds, Head, RequestParser

BOUNDS = Bounds(target=300, head=600, headers=12)


@dataclass
class Heard:
    """What a parser said."""

    requests: list[tuple[str, str, dict[bytes, bytes], bool]] = field(default_factory=list)
    bodies: list[bytearray] = field(default_factory=list)
    ends: int = 0
    refusal: str | None = None

    def on_head(self, head: Head) -> Incoming:
        self.requests.append((head.method, head.target, head.headers, head.keep_alive))
        self.bodies.append(bytearray())
        return _Kept(self.bodies[-1], head.declared)

    def on_end(self) -> None:
        self.ends += 1


class _Kept(Incoming):
    def __init__(self, kept: bytearray, declared: int | None) -> None:
        super().__init__(10**9, declared)
        self.kept = kept

    def feed(self, piece: bytes | memoryview) -> None:
        super().feed(piece)
        self.kept += piece


def parse(*pieces: bytes, bounds: Bounds = BOUNDS) -> Heard:
    heard = Heard()
    parser = RequestParser(heard.on_head, heard.on_end, bounds)
    for piece in pieces:
        try:
            parser.feed(piece)
        except Refusal as error:
            assert parser.closed
            heard.refusal = type(error).__name__
    parser.close()
    return heard


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


TOKEN = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"get", b"G\0T", b""])
TARGET = st.sampled_from(
    [b"/", b"/a?b=c", b"/%ff", b"*", b"http://a/b", b"a", b"/\xff", b"/#x", b"", b"/" + b"x" * 290]
)
VERSION = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/11", b"RTSP/1.0", b""])
HEADER = st.sampled_from(
    [
        b"Host: a",
        b"host:b",
        b"Content-Length: 3",
        b"Content-Length: 0",
        b"Content-Length: 1e3",
        b"Content-Length:",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: gzip",
        b"Connection: close",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"X: " + b"y" * 200,
        b"Cookie: a=b",
        b" folded",
        b"No colon",
        b"X\0: y",
        b"",
    ]
)
BODY = st.sampled_from(
    [b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"0\r\nHost: x\r\n\r\n", b"zz\r\n", b"fffffffffffffffff\r\n"]
)
END = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Something that looks like a request, more or less."""
    end = draw(END)
    line = b" ".join([draw(TOKEN), draw(TARGET), draw(VERSION)])
    headers = draw(st.lists(HEADER, max_size=5))
    if draw(st.booleans()):
        headers.insert(0, b"Host: a")
    return end.join([line, *headers, b"", b""]) + draw(BODY)


STREAMS = st.lists(requests() | st.binary(max_size=40), max_size=4).map(b"".join)


def test_what_follows_a_body_that_came_in_parts_is_the_next_request() -> None:
    head = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    heard = parse(head % 1, b"a", b"bc" + head % 2 + b"d", b"ef" + head % 3 + b"ghi")
    assert [target for _, target, _, _ in heard.requests] == ["/1", "/2", "/3"]
    assert [bytes(body) for body in heard.bodies] == [b"abc", b"def", b"ghi"]
    assert (heard.ends, heard.refusal) == (3, None)
    last = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n"
    heard = parse(last + b"a", b"bc" + head % 2 + b"def")
    assert (len(heard.requests), heard.ends, heard.refusal) == (1, 1, None)


@settings(max_examples=1500, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 10**6), max_size=12))
def test_it_makes_no_difference_how_the_bytes_are_cut(data: bytes, places: list[int]) -> None:
    whole, pieces = parse(data), parse(*cut(data, places))
    assert pieces == whole
    assert parse(*(bytes([byte]) for byte in data)) == whole


@settings(max_examples=1000)
@given(STREAMS)
def test_every_request_that_is_read_has_one_length_and_one_host(data: bytes) -> None:
    for method, target, headers, _ in parse(data).requests:
        assert method.isupper()
        assert target.startswith("/") or (method, target) == ("OPTIONS", "*")
        assert target.isascii()
        assert not (b"content-length" in headers and b"transfer-encoding" in headers)
        assert headers.get(b"transfer-encoding", b"chunked").lower() == b"chunked"
        assert headers.get(b"content-length", b"0").isdigit()
        assert b"," not in headers.get(b"host", b"")
        assert len(headers) <= BOUNDS.headers


@given(st.lists(st.binary(max_size=50), max_size=5), st.booleans(), st.lists(st.integers(0, 10**6), max_size=8))
def test_what_is_well_formed_is_read_as_it_was_meant(bodies: list[bytes], chunked: bool, places: list[int]) -> None:
    def framed(body: bytes) -> bytes:
        if not chunked:
            return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    data = b"".join(b"POST /%d HTTP/1.1\r\nHost: a\r\n%b" % (index, framed(body)) for index, body in enumerate(bodies))
    heard = parse(*cut(data, places))
    assert [bytes(body) for body in heard.bodies] == bodies
    assert [target for _, target, _, _ in heard.requests] == [f"/{index}" for index in range(len(bodies))]
    assert (heard.ends, heard.refusal) == (len(bodies), None)


@pytest.mark.parametrize(
    ("head", "refusal"),
    [
        (b"GET /" + b"x" * 299, None),
        (b"GET /" + b"x" * 300, "UriTooLong"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 580, None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 600, "HeadersTooLarge"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(11)), None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(12)), "HeadersTooLarge"),
    ],
)
def test_bounds_are_exact(head: bytes, refusal: str | None) -> None:
    end = b" HTTP/1.1\r\nHost: a\r\n\r\n" if b"HTTP" not in head else b"\r\n" if head.endswith(b"\r\n") else b"\r\n\r\n"
    assert parse(head + end).refusal == refusal


def test_a_head_that_never_ends_is_given_up() -> None:
    for start in (b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n", b"GET /"):
        heard = Heard()
        parser = RequestParser(heard.on_head, heard.on_end, BOUNDS)
        parser.feed(start)
        for _ in range(2000):
            with suppress(Refusal):
                parser.feed(b"x")
        assert parser.closed
        assert heard.requests == []


def test_headers_that_may_be_repeated_are_joined() -> None:
    heard = parse(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nX: 1\r\ncookie: c=d\r\nx: 2\r\n\r\n")
    assert heard.requests[0][2] == {b"host": b"a", b"cookie": b"a=b; c=d", b"x": b"1, 2"}


def test_an_error_in_what_is_told_is_ours() -> None:
    def on_head(head: Head) -> Incoming:
        raise KeyError("bug")

    parser = RequestParser(on_head, lambda: None, BOUNDS)
    with pytest.raises(Refusal) as refusal:
        parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert refusal.value.status == 500
    assert isinstance(refusal.value.__cause__, KeyError)
