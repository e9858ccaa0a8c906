"""A server on real sockets of this machine, endpoints that do one thing each, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from config.sections.serving import Listener
from homeserver.context import Caller
from homeserver.protocol.errors import UnknownToken
from homeserver.runtime.clock import FakeClock
from homeserver.web.connections import Connections, Patience
from homeserver.web.http1 import Connection
from homeserver.web.limits import Limit, Limits
from homeserver.web.messages import Request, Response
from homeserver.web.parsing import Bounds
from homeserver.web.routes import Auth, Table, declared, route
from homeserver.web.server import Listening
from homeserver.web.site import Site

MIB = 1024 * 1024


@dataclass
class Recorder:
    """An observer that remembers."""

    answers: list[tuple[str, str, int]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self.answers.append((method, route, status))

    def failed(self, method: str, route: str, error: BaseException) -> None:
        self.failures.append(error)


class Props:
    """The server that endpoints are given: what they did, and what they wait for."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.pieces = 0


def caller(name: str = "alice", *, admin: bool = False, guest: bool = False, suspended: bool = False) -> Caller:
    """Somebody who calls; only what the web layer looks at."""
    return cast(
        Caller,
        SimpleNamespace(user_id=f"@{name}:domicile.test", admin=admin, guest=guest, suspended=suspended, limited=True),
    )


async def authenticate(token: str) -> Caller:
    """Knows three tokens."""
    if token not in ("alice", "admin", "guest", "suspended"):
        raise UnknownToken("Unknown access token")
    return caller(token, admin=token == "admin", guest=token == "guest", suspended=token == "suspended")


@route("GET", "/hello", auth=Auth.NONE)
async def hello(props: Props, request: Request) -> dict[str, Any]:
    return {"hello": request.query.get("who", "world")}


@route("POST", "/echo", auth=Auth.NONE, body=4 * MIB, limit=Limit.NONE)
async def echo(props: Props, request: Request) -> Response:
    return Response(200, request.body, content_type="application/octet-stream")


@route("POST", "/small", auth=Auth.NONE, body=1000)
async def small(props: Props, request: Request) -> dict[str, Any]:
    return {"size": len(request.body)}


@route("PUT", "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}", auth=Auth.USER, also=["r0"])
async def send(props: Props, request: Request) -> dict[str, Any]:
    """What must be finished, whether the client waits or not."""
    request.json()
    props.begun.set()
    await props.go.wait()
    props.done.append(request.args["txnId"])
    return {"event_id": "$" + request.args["txnId"]}


@route("GET", "/_matrix/client/v3/sync", auth=Auth.USER, long_poll=True)
async def sync(props: Props, request: Request) -> dict[str, Any]:
    """What only waits."""
    props.begun.set()
    try:
        await props.go.wait()
    except asyncio.CancelledError:
        props.done.append("cancelled")
        raise
    return {"next_batch": "1"}


@route("POST", "/_matrix/media/v3/upload", auth=Auth.USER, stream=True, body=64 * MIB)
async def upload(props: Props, request: Request) -> dict[str, Any]:
    props.begun.set()
    size = 0
    room = memoryview(bytearray(64 * 1024))
    while count := await request.incoming.fill(room):
        size += count
        props.pieces += 1
        await props.go.wait()
    return {"size": size}


@route("POST", "/refusing", auth=Auth.ADMIN, stream=True, body=64 * MIB)
async def refusing(props: Props, request: Request) -> dict[str, Any]:
    raise AssertionError("only administrators come here")


@route("GET", "/large/{size}", auth=Auth.NONE)
async def large(props: Props, request: Request) -> Response:
    chunk = bytes(range(256)) * 4
    return Response(200, [chunk] * (int(request.args["size"]) // 1024), content_type="application/octet-stream")


@route("GET", "/stream/{kind}", auth=Auth.NONE)
async def stream(props: Props, request: Request) -> Response:
    """Five pieces of five bytes, and sometimes a fault on the way."""
    kind = request.args["kind"]

    async def pieces() -> AsyncIterator[bytes]:
        try:
            for number in range(5):
                if number == 3 and kind == "broken":
                    raise OSError("the disk is gone")
                yield b"%05d" % number
                yield b""
        finally:
            props.done.append("closed")

    length = {"sized": 25, "short": 30, "long": 20}.get(kind)
    return Response(200, pieces(), content_type="text/plain", length=length)


@route("GET", "/endless", auth=Auth.NONE)
async def endless(props: Props, request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                props.pieces += 1
                yield bytes(64 * 1024)
        finally:
            props.done.append("closed")

    return Response(200, pieces(), content_type="application/octet-stream")


@route("GET", "/crash/{how}", auth=Auth.NONE)
async def crash(props: Props, request: Request) -> Response | dict[str, Any]:
    how = request.args["how"]
    if how == "unserialisable":
        return {"value": object()}
    if how == "header":
        return Response(200, b"{}", (("X-Test", "a\r\nSet-Cookie: b"),))
    if how == "cancelled":
        raise asyncio.CancelledError
    raise RuntimeError("secret detail")


@route("GET", "/metrics", auth=Auth.NONE)
async def metrics(props: Props, request: Request) -> Response:
    return Response(200, b"up 1\n", content_type="text/plain; version=0.0.4")


@route("GET", "/health", auth=Auth.NONE)
async def health(props: Props, request: Request) -> dict[str, Any]:
    return {}


@route("GET", "/_matrix/federation/v1/version", auth=Auth.NONE)
async def version(props: Props, request: Request) -> dict[str, Any]:
    return {"server": {"name": "Domicile"}}


ENDPOINTS = (hello, echo, small, send, sync, upload, refusing, large, stream, endless, crash, metrics, health, version)


@dataclass
class Answer:
    """An answer, read from the bytes."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, in raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """The head of the next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 ")
        pairs = [line.partition(": ") for line in lines[1:-2]]
        assert len({name.lower() for name, _, _ in pairs}) == len(pairs), "a header came twice"
        return Answer(int(lines[0].split(" ")[1]), {name.lower(): value for name, _, value in pairs}, b"")

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """The next answer, whole."""
        answer = await self.head()
        if bodiless or answer.status in (204, 304):
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                answer.body += (await self.reader.readexactly(size + 2))[:-2]
            assert await self.reader.readexactly(2) == b"\r\n"
        elif "content-length" in answer.headers:
            answer.body = await self.reader.readexactly(int(answer.headers["content-length"]))
        else:
            answer.body = await self.reader.read()
        return answer

    async def get(self, path: str, token: str | None = None) -> Answer:
        await self.send(request("GET", path, token=token))
        return await self.answer()

    async def ended(self) -> bytes:
        """What still comes until the server closes."""
        received = b""
        try:
            while piece := await self.reader.read(65536):
                received += piece
        except ConnectionError:
            pass
        return received

    def vanish(self) -> None:
        """Go away without a word."""
        self.writer.transport.abort()


def request(
    method: str, path: str, body: bytes | None = None, *, token: str | None = None, headers: Sequence[str] = ()
) -> bytes:
    """A well-formed request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: domicile.test", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Stage:
    """A server that is listening."""

    def __init__(self, patience: Patience, bounds: Bounds, limits: Limits | None, capacity: int) -> None:
        self.clock = FakeClock()
        self.props = Props()
        self.recorder = Recorder()
        self.connections = Connections(self.clock, patience, capacity)
        self.site = Site(
            self.props,
            Table[Props](declared(*ENDPOINTS)),
            authenticate=authenticate,
            observer=self.recorder,
            seconds=self.clock.monotonic,
            limits=limits,
        )
        self.listening = Listening(self.site, self.connections, bounds)
        self.port = 0
        self._clients: list[Client] = []

    @property
    def members(self) -> list[Connection]:
        """The server's ends of the connections."""
        return cast(list[Connection], list(self.connections._members))

    def adopt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Client:
        """A client whose connection is closed with the stage."""
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def client(self) -> Client:
        return self.adopt(*await asyncio.open_connection("127.0.0.1", self.port))

    async def until(self, condition: Any) -> None:
        """Let everything run until the condition holds; a test that waits in vain is ended by its time limit."""
        while not condition():  # noqa: ASYNC110  # there is no event for most of what is waited for here
            await asyncio.sleep(0)

    async def close(self) -> None:
        self.props.go.set()
        for client in self._clients:
            client.vanish()
        await self.until(lambda: not len(self.connections) and not self.connections.answering)
        await self.listening.close()
        await asyncio.sleep(0)  # the clients' transports close on the loop's next turn


@asynccontextmanager
async def stage(
    listener: Listener | None = None,
    *,
    patience: Patience | None = None,
    bounds: Bounds | None = None,
    limits: Limits | None = None,
    capacity: int = 1000,
) -> AsyncIterator[Stage]:
    """Open a stage on a free port, and close it afterwards."""
    made = Stage(patience or Patience(), bounds or Bounds(), limits, capacity)
    made.listening.open([listener or Listener(port=0)])
    made.port = int(made.listening.addresses[0].rpartition(":")[2])
    try:
        yield made
    finally:
        await made.close()
