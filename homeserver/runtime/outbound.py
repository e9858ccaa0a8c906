"""The one place that opens connections of its own accord: requests over HTTPS to servers that others have named, and
to what the operator has named.

The address that is connected to is the one that was judged (addresses.py): a name is looked up once for each
connection, and its second look-up cannot give another answer. Redirects are followed only by `get`, through the same
door.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import SplitResult, urlsplit

from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from homeserver.runtime import redirects as redirecting
from homeserver.runtime.addresses import Address, Network, address_of, is_denied
from homeserver.runtime.certificates import Trust
from homeserver.runtime.clock import Clock, Timer
from homeserver.runtime.exchange import Answer, Connection, Fault, Flow, Unreachable
from homeserver.runtime.names import Names, NamesUnavailable
from homeserver.runtime.telemetry import Telemetry

CONNECT: Final = 10.0
"""Seconds that a connection, its TLS included, may take to one address."""
IDLE: Final = 30.0
"""Seconds that a connection without a request is kept."""
MOST_IDLE: Final = 200
MOST_TARGETS: Final = 4
MOST_ADDRESSES: Final = 4
HTTP: Final = 80
HTTPS: Final = 443

_REPEATABLE: Final = frozenset(("GET", "PUT"))
_HOST: Final = re.compile(r"[0-9a-z](?:[0-9a-z.-]{0,252}[0-9a-z])?")
_OWN_HOST: Final = re.compile(r"[0-9a-z_](?:[0-9a-z._-]{0,252}[0-9a-z])?")
"""Names of machines and containers have underscores too."""
_TARGET: Final = re.compile(r"/[\x21-\x7e]{0,8000}")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to: a name or address (without brackets), and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Place:
    """A server to be asked: the ``targets`` to try in this order, the name that its certificate must be for, and what
    the header ``Host`` says.

    ``own``: nobody but the operator has named it, so that it may be anywhere, on this machine too. ``plain``: it speaks
    no TLS.
    """

    targets: tuple[Target, ...]
    certificate: str
    host: str
    own: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Streamed:
    """The head of an answer, the names of its ``headers`` in lower case, and its body as it comes."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


@dataclass(slots=True)
class _Outcome:
    """What came of a request: the status of its answer, once there is one."""

    status: int | None = None


class Outbound:
    """Asks other servers. ``allowed`` are the ranges exempt from the deny-list; ``clock`` ends idle connections."""

    def __init__(
        self, names: Names, trust: Trust, clock: Clock, telemetry: Telemetry, allowed: Iterable[Network] = ()
    ) -> None:
        self.names = names
        self._trust = trust
        self._clock = clock
        self._allowed = tuple(allowed)
        self._open: set[Connection] = set()
        self._idle: OrderedDict[Connection, tuple[Place, Timer]] = OrderedDict()
        self._requests = telemetry.counter(
            "domicile_outbound_requests", "Requests to other servers, by status of the answer or fault.", ["outcome"]
        )
        self._connections = telemetry.counter(
            "domicile_outbound_connections", "Attempts to connect to other servers.", ["outcome"]
        )
        self._bytes = telemetry.counter("domicile_outbound_bytes", "Bytes of bodies.", ["direction"])
        telemetry.gauge("domicile_outbound_connections_open", "Connections to other servers.", lambda: self.connections)
        self._seconds = telemetry.histogram("domicile_outbound_seconds", "Time from request to answer.")

    async def request(
        self,
        method: str,
        place: Place,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        most: int,
        seconds: float,
    ) -> Answer:
        """Ask a server and wait for the whole answer, of at most ``most`` bytes, for at most so many ``seconds``.

        Every status is an answer, a redirect too. Raises Unreachable.
        """
        started = self._clock.monotonic()
        async with self._counted(seconds) as outcome:
            answer = await self._ask(method, place, _written(method, place, target, headers or {}, body), most)
            outcome.status = answer.status
        self._seconds.observe(self._clock.monotonic() - started)
        self._bytes.inc("out", by=len(body))
        self._bytes.inc("in", by=len(answer.body))
        return answer

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        place: Place,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        most: int,
        seconds: float,
    ) -> AsyncIterator[Streamed]:
        """Ask a server, and take its answer as it comes, in all at most ``most`` bytes.

        ``seconds``: how long the head, and each further piece, is waited for. Raises Unreachable.
        """
        async with self._counted(seconds) as outcome:
            request = _written(method, place, target, headers or {}, body)
            connection, answer, flow = await self._begin(method, place, request, most)
            outcome.status = answer.status
        self._bytes.inc("out", by=len(body))
        try:
            yield Streamed(answer.status, answer.headers, self._pieces(flow, seconds))
        finally:
            connection.release()
            if connection.open:
                self._keep(connection, place)

    @asynccontextmanager
    async def _counted(self, seconds: float) -> AsyncIterator[_Outcome]:
        """What is inside asks a server, and is counted by what comes of it. Raises Unreachable after ``seconds``."""
        outcome, counted = _Outcome(), "cancelled"
        try:
            async with asyncio.timeout(seconds):
                yield outcome
            counted = str(outcome.status)
        except TimeoutError:
            counted = Fault.TIMEOUT
            raise Unreachable(Fault.TIMEOUT, f"no answer within {seconds} seconds") from None
        except Unreachable as unreachable:
            counted = unreachable.fault
            raise
        finally:
            self._requests.inc(counted)

    async def _begin(self, method: str, place: Place, request: bytes, most: int) -> tuple[Connection, Answer, Flow]:
        connection = self._kept(place)
        if connection is not None:
            try:
                return connection, *await self._head(connection, request, most)
            except Unreachable as unreachable:
                if connection.heard or method not in _REPEATABLE or unreachable.fault is not Fault.CONNECTION:
                    raise  # else it was closed while it was idle, before the request came there
        connection = await self._connect(place)
        return connection, *await self._head(connection, request, most)

    @staticmethod
    async def _head(connection: Connection, request: bytes, most: int) -> tuple[Answer, Flow]:
        try:
            return await connection.begin(request, most)
        except BaseException:
            connection.abort()
            raise

    async def _pieces(self, flow: Flow, seconds: float) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    piece = await anext(flow)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Unreachable(Fault.TIMEOUT, f"nothing came for {seconds} seconds") from None
            self._bytes.inc("in", by=len(piece))
            yield piece

    async def get(self, url: str, *, most: int, seconds: float, redirects: int = 0) -> Answer:
        """Fetch a page of https, following at most so many redirects, none of which leaves https.

        ``seconds`` and ``most`` hold for each request. Raises Unreachable, also for an address that is none.
        """
        for _ in range(redirects + 1):
            place, target = place_of(url)
            answer = await self.request("GET", place, target, most=most, seconds=seconds)
            location = redirecting.location(answer.status, answer.headers)
            if location is None:
                return answer
            url = redirecting.onward(url, location)
        raise redirecting.too_many(redirects)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._open)

    async def close(self) -> None:
        """End all connections, and wait until they are gone."""
        for _, timer in self._idle.values():
            timer.cancel()
        self._idle.clear()
        while self._open:
            for connection in list(self._open):
                connection.abort()
            await asyncio.sleep(0)

    # connections ------------------------------------------------------------------------------

    async def _ask(self, method: str, place: Place, request: bytes, most: int) -> Answer:
        connection = self._kept(place)
        if connection is not None:
            try:
                return await self._exchange(connection, place, request, most)
            except Unreachable as unreachable:
                if connection.heard or method not in _REPEATABLE or unreachable.fault is not Fault.CONNECTION:
                    raise  # else it was closed while it was idle, before the request came there
        return await self._exchange(await self._connect(place), place, request, most)

    async def _exchange(self, connection: Connection, place: Place, request: bytes, most: int) -> Answer:
        try:
            answer = await connection.exchange(request, most)
        except BaseException:
            connection.abort()
            raise
        if connection.open:
            self._keep(connection, place)
        return answer

    def _kept(self, place: Place) -> Connection | None:
        for connection in reversed(self._idle):
            kept, timer = self._idle[connection]
            if kept == place:
                timer.cancel()
                del self._idle[connection]
                return connection
        return None

    def _keep(self, connection: Connection, place: Place) -> None:
        self._idle[connection] = (place, self._clock.call_later(IDLE, connection.abort))
        if len(self._idle) > MOST_IDLE:
            next(iter(self._idle)).abort()

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        _, timer = self._idle.pop(connection, (None, None))
        if timer is not None:
            timer.cancel()

    async def _connect(self, place: Place) -> Connection:
        """A connection to the first target that lets itself be connected to."""
        unreachable = Unreachable(Fault.NAME, f"{place.certificate} has no address")
        for target in place.targets[:MOST_TARGETS]:
            try:
                addresses = await self._addresses(target.host)
            except NamesUnavailable as fault:
                unreachable = Unreachable(Fault.NAME, str(fault))
                continue
            for address in addresses[:MOST_ADDRESSES]:
                try:
                    return await self._attempt(address, target.port, place)
                except Unreachable as fault:
                    unreachable = fault
                    self._connections.inc(fault.fault)
        raise unreachable

    async def _addresses(self, host: str) -> list[Address]:
        literal = address_of(host)
        return [literal] if literal is not None else await self.names.addresses(host)

    async def _attempt(self, address: Address, port: int, place: Place) -> Connection:
        if not place.own and is_denied(address, self._allowed):
            raise Unreachable(Fault.DENIED, "its address is not one of the public internet")
        connection = Connection(self._lost, plain=place.plain)
        secured: Any = self._endpoint(address, port)
        if not place.plain:
            try:
                expected = self._trust.expecting(place.certificate)
            except ValueError:
                raise Unreachable(Fault.CERTIFICATE, "no certificate can be for a name like that") from None
            secured = wrapClientTLS(cast(Any, expected), secured)
        try:
            async with asyncio.timeout(CONNECT):
                await secured.connect(_Only(connection)).asFuture(asyncio.get_running_loop())
                self._open.add(connection)
                await connection.established()
        except ConnectError as fault:
            raise Unreachable(Fault.CONNECTION, str(fault)) from None
        except TimeoutError:
            raise Unreachable(Fault.TIMEOUT, f"no connection within {CONNECT} seconds") from None
        finally:
            if not connection.open:
                connection.abort()
        self._connections.inc("made")
        return connection

    def _endpoint(self, address: Address, port: int) -> IStreamClientEndpoint:
        """Where a socket is opened: to this very address. Nothing is looked up any more."""
        from twisted.internet import reactor  # installed by now, and not before

        kind: Any = TCP4ClientEndpoint if address.version == 4 else TCP6ClientEndpoint
        made: IStreamClientEndpoint = kind(reactor, str(address), port, CONNECT)
        return made


class _Only(Factory):
    """Hands Twisted the one connection that there is to be."""

    noisy = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def buildProtocol(self, _: object) -> Connection:  # noqa: N802
        """Called by Twisted."""
        return self._connection


def place_of(url: str) -> tuple[Place, str]:
    """Place and target of a web address. Raises Unreachable unless it is a usable one of https."""
    broken = Unreachable(Fault.BROKEN, "that is no address of https")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or HTTPS
    except ValueError:
        raise broken from None
    target = _target(parts)
    is_host = _HOST.fullmatch(host) or address_of(host) is not None
    if parts.scheme != "https" or parts.username is not None or not is_host or not _TARGET.fullmatch(target):
        raise broken
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == HTTPS else f"{shown}:{port}"
    return Place((Target(host, port),), host, authority), target


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def own_place(url: str) -> tuple[Place, str]:
    """Place and target of a web address that the operator chose, of http or https. Raises Unreachable."""
    broken = Unreachable(Fault.BROKEN, "that is no address of http or https")
    try:
        parts = urlsplit(url)
        host, plain = (parts.hostname or "").lower(), parts.scheme == "http"
        port = parts.port or (HTTP if plain else HTTPS)
    except ValueError:
        raise broken from None
    is_host = _OWN_HOST.fullmatch(host) or address_of(host) is not None
    if parts.scheme not in ("http", "https") or not is_host or not _TARGET.fullmatch(_target(parts)):
        raise broken
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == (HTTP if plain else HTTPS) else f"{shown}:{port}"
    return Place((Target(host, port),), host, authority, own=True, plain=plain), _target(parts)


def _written(method: str, place: Place, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The request as it is sent. Raises ValueError for what would be read as something else."""
    fields = {"Host": place.host, "User-Agent": "Domicile", "Accept": "application/json", **headers}
    if body or method != "GET":
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    if not _TARGET.fullmatch(target) or any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a request has a line that is none")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body
