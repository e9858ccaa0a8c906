"""Domiciles in one process that reach each other over a network without sockets.

All that one asks of another goes through `Network.carry`, which keeps a copy of each exchange, so that a test can look
at the bytes that left. Links can be cut, and told to lose answers; in bad weather requests and answers get lost and
overtake one another. Every answer is held against the specification.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from federation.reach import Absences
from homeserver import app, credentials
from homeserver.context import Identity
from homeserver.e2ee.asking import Asking
from homeserver.protocol.signing import SigningKey
from homeserver.rooms.outgoing import Lines
from homeserver.rooms.presence import Presences
from homeserver.runtime import outbound
from homeserver.runtime.addresses import Address
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.exchange import Answer, Fault, Unreachable
from homeserver.runtime.names import Service
from homeserver.runtime.outbound import Outbound, Place, Streamed
from homeserver.runtime.telemetry import Telemetry
from homeserver.web.messages import JSON, Body
from tests.deployment import FLOWING, SETTINGS, Deployment, Observed, flow, start, system_trust
from tests.rooms.play import Play
from tests.support import Databases, finish

OPEN = FLOWING + flow("IR", "unknown") + flow("FR", "unknown")
"""Everything that may flows, to servers that nobody has placed too."""

A_WHILE = 0.02
"""Seconds after which it is looked again at what those do who are waited for."""

PIECE = 10_000
"""Bytes of an answer that come at once, where it is taken as it comes."""


@dataclass(frozen=True)
class Exchange:
    """One request from one server to another, and what came back; ``status`` is None when nothing did."""

    source: str
    destination: str
    method: str
    target: str
    body: bytes
    status: int | None
    answer: bytes


Other = Callable[[str, str, Mapping[str, str], bytes], tuple[int, bytes]]
"""Answers a method, a target, headers and a body by a status and a body."""


class NoNames:
    """A DNS that knows no services, and that nobody asks for addresses."""

    async def addresses(self, host: str) -> list[Address]:
        raise AssertionError(f"nothing connects to {host}")

    async def services(self, name: str) -> list[Service]:
        return []


class Wire(Outbound):
    """What one server asks others through."""

    def __init__(self, network: Network, name: str, telemetry: Telemetry) -> None:
        super().__init__(NoNames(), system_trust(), network.clock, telemetry)
        self._network = network
        self._name = name

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
        outbound._written(method, place, target, headers or {}, body)  # what could not be sent fails here too
        answer = await self._network.carry(self._name, place, method, target, headers or {}, body)
        if len(answer.body) > most:
            raise Unreachable(Fault.TOO_LARGE, f"more than {most} bytes")
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
        outbound._written(method, place, target, headers or {}, body)
        answer = await self._network.carry(self._name, place, method, target, headers or {}, body)
        yield Streamed(answer.status, answer.headers, _pieces(answer.body, most))


@dataclass(frozen=True)
class Weather:
    """How badly a network works: the chances that a request is lost on its way, or its answer, and how long either may
    take (seconds). What takes long is overtaken."""

    luck: Random
    lost: float = 0.0
    answer_lost: float = 0.0
    delay: float = 0.0


class Network:
    """Several deployments, one clock, and the links between them. ``weather`` is fair when it is None."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self.clock = FakeClock()
        self.exchanges: list[Exchange] = []
        self.faults: list[str] = []
        self.plays: dict[str, Play] = {}
        self._more: list[Databases] = []
        self._cut: set[frozenset[str]] = set()
        self._losing: set[tuple[str, str]] = set()
        self.weather: Weather | None = None
        self.others: dict[str, Other] = {}
        """What is no Domicile: by the host, at the port of https."""

    async def found(
        self, name: str, *, policy: str = OPEN, settings: str = "", top: str = "", breakable: bool = False
    ) -> Play:
        """Start a deployment with a server name; ``settings`` are further lines of its settings, ``top`` the first.

        ``breakable``: its nodes' databases can be taken away (`databases_of`).
        """
        databases = self._databases_for(name)
        self._more.append(databases)
        for node in ("tehran", "paris") if breakable else ():
            await databases.make_breakable(node)
        made = await start(
            databases, settings=top + SETTINGS.replace("example.org", name) + settings, policy=policy, clock=self.clock
        )
        digest = sha256(name.encode()).digest()
        server = replace(
            made.server,
            identity=Identity(
                name,
                SigningKey("k" + digest.hex()[:6], digest),
                b"s" * 32,
                policy_key=credentials.policy_key(made.server.settings, digest),
            ),
            outbound=Wire(self, name, made.server.telemetry),
        )
        site, observed = app.site_of(server), Observed()
        site.observer = observed
        play = self.plays[name] = Play(Deployment(server, site, observed))
        await play.begin()
        return play

    def databases_of(self, name: str) -> Databases:
        """The databases of a server that has been founded."""
        return self._more[list(self.plays).index(name)]

    def _databases_for(self, name: str) -> Databases:
        directory = Path(self.databases.directory, name)
        directory.mkdir()
        return Databases(self.databases.kind, directory, self.databases._url)

    def cut(self, one: str, other: str) -> None:
        """Cut the link between two servers: nothing goes either way until `mend`."""
        self._cut.add(frozenset((one, other)))

    def mend(self, one: str, other: str) -> None:
        """Undo `cut` and `lose_answers`. Users need not wait until their server tries the other again."""
        self._cut.discard(frozenset((one, other)))
        self._losing -= {(one, other), (other, one)}
        for name, away in ((one, other), (other, one)):
            if name in self.plays:
                self.plays[name].server.nodes.directory.memory(Absences).held.pop(away)

    def lose_answers(self, source: str, destination: str) -> None:
        """Let requests from one server to another arrive, and their answers not, until `mend`."""
        self._losing.add((source, destination))

    def bytes_out(self, source: str) -> bytes:
        """All bodies that a server has sent to others so far: of its requests, and of its answers."""
        asked = [each.body for each in self.exchanges if each.source == source]
        return b"\n".join([*asked, *(each.answer for each in self.exchanges if each.destination == source)])

    async def carry(
        self, source: str, place: Place, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Take a request to the server it is for, and its answer back. Raises Unreachable."""
        name = place.targets[0].host
        if name in self.others and place.targets[0].port == 443:
            status, content = self.others[name](method, target, headers, body)
            self.exchanges.append(Exchange(source, name, method, target, body, status, content))
            return Answer(status, {"content-type": JSON}, content)
        if name not in self.plays:
            raise Unreachable(Fault.NAME, "there is no such host")
        if frozenset((source, name)) in self._cut:
            raise Unreachable(Fault.CONNECTION, "the link is cut")
        if place.targets[0].port != 8448:
            raise Unreachable(Fault.CONNECTION, "nobody listens there")
        await self._on_the_way(lambda weather: weather.lost)
        response = await self.plays[name].deployment.site.call(
            method, target, headers=headers, body=body, address="127.0.0.1"
        )
        content = await _whole(response.body)
        path = target.partition("?")[0]
        found = []
        if response.content_type == JSON:
            found = self.plays[name].deployment.answer_faults(method, path, response.status, content)
        self.faults += [f"{name} answered {method} {path}: {fault}" for fault in found]
        lost = (source, name) in self._losing or frozenset((source, name)) in self._cut
        self.exchanges.append(
            Exchange(source, name, method, target, body, None if lost else response.status, b"" if lost else content)
        )
        if lost:
            raise Unreachable(Fault.CONNECTION, "the connection ended before the answer")
        await self._on_the_way(lambda weather: weather.answer_lost)
        named = {"content-type": response.content_type, **{key.lower(): value for key, value in response.headers}}
        return Answer(response.status, named, content)

    async def _on_the_way(self, chance: Callable[[Weather], float]) -> None:
        """Take as long as the weather says. Raises Unreachable when it lets something get lost."""
        if self.weather is not None:
            weather = self.weather
            await self.clock.sleep(weather.luck.random() * weather.delay)
            if weather.luck.random() < chance(weather):
                raise Unreachable(Fault.TIMEOUT, "lost on the way")

    async def settle(self) -> None:
        """Wait until everything has arrived that can before the clock moves on: on all nodes, on all servers that can
        be reached, and what these ask for because of it.
        """
        while True:
            crossed = len(self.exchanges)
            for play in self.plays.values():
                await play.settle()
            nodes = [node for play in self.plays.values() if play.is_shipping for node in play.server.nodes]
            if not all(node.memory(Lines).scanned for node in nodes if node.engine.health().up):
                await asyncio.sleep(0)
                continue
            lines = [line for node in nodes for line in node.memory(Lines).held.values()]
            busy = [line.task for line in lines if line.task] + self._beside()
            if busy:
                await asyncio.wait(busy, timeout=A_WHILE)  # one of them may fall asleep
            elif any(line.due for line in lines) or crossed != len(self.exchanges):
                await asyncio.sleep(0)
            else:
                return

    def _beside(self) -> list[asyncio.Task[Any]]:
        """What nodes do for which no request waits, and which does not wait for the clock: they tell of presence, and
        ask for lists of keys anew.
        """
        nodes = [node for play in self.plays.values() for node in play.server.nodes]
        telling = [followed.task for node in nodes for followed in node.memory(Presences).followed.values()]
        asking = [task for node in nodes for task in node.memory(Asking).refreshing.values()]
        return [task for task in [*telling, *asking] if task is not None and task not in self.clock.asleep]

    async def end(self) -> None:
        """Stop everything."""
        for play in self.plays.values():
            await play.end()
        for databases in self._more:
            await databases.close()


async def _pieces(body: bytes, most: int) -> AsyncIterator[bytes]:
    """A body as it comes over a wire. Raises Unreachable."""
    for at in range(0, len(body), PIECE):
        if at + PIECE > most and len(body) > most:
            raise Unreachable(Fault.TOO_LARGE, f"more than {most} bytes")
        yield body[at : at + PIECE]


async def _whole(body: Body) -> bytes:
    """The bytes of a response."""
    if isinstance(body, AsyncIterator):
        return b"".join([chunk async for chunk in body])
    return body if isinstance(body, bytes) else b"".join(body)


@pytest.fixture
def network(engines: Databases) -> Iterator[Network]:
    """An empty network, on SQLite and on PostgreSQL; a test fails when a server answered with a 500, or in another form
    than the specification's.
    """
    made = Network(engines)
    yield made
    finish(made.end())
    assert [fault for play in made.plays.values() for fault in play.deployment.observed.faults] == []
    assert made.faults == []
