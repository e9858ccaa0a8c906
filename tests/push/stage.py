"""A deployment whose users have pushers, and the push gateway that is told; see the fixture ``stage``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.context import Server
from homeserver.push import watching
from homeserver.push.lines import Followers
from homeserver.rooms.onlookers import Onlookers
from homeserver.storage.nodes import Node
from tests.deployment import FLOWING, Answer, User, flow
from tests.federation.authority import Authority
from tests.federation.internet import Internet, Wired
from tests.push.gateway import Gateway
from tests.rooms.play import Cast, Play
from tests.support import finish

PUSH = "push.example.net"

WATCHED = FLOWING + flow("IR", "unknown") + flow("FR", "unknown")
"""Notifications may go anywhere."""


class Stage:
    """A play in which those who have pushers are told of what comes."""

    def __init__(self, play: Play, gateway: Gateway, internet: Internet, authority: Authority) -> None:
        self.play = play
        self.gateway = gateway
        self.authority = authority
        self.internet = internet
        self.outbound = Wired(internet, authority, play.server.clock, play.server.telemetry)
        self.server: Server = replace(play.server, outbound=self.outbound)
        self._watching: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Start to tell, or go on with it."""
        self._watching = [asyncio.create_task(watching.push(self.server, node)) for node in self.server.nodes]

    def again(self, play: Play) -> Stage:
        """The same with another deployment."""
        return Stage(play, self.gateway, self.internet, self.authority)

    async def end(self) -> None:
        """Stop to tell."""
        while pending := [task for task in self._watching if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)

    async def close(self) -> None:
        """End everything."""
        await self.end()
        await self.outbound.close()

    async def set(self, user: User, pushkey: str = "key", **data: Any) -> None:
        """Give a user a pusher, and wait until it is known."""
        node = (await user.caller()).node
        assert (await self.sets(user, pushkey, **data)).status == 200
        await self.looked(node)

    async def sets(self, user: User, pushkey: str = "key", **data: Any) -> Answer:
        """Ask for a pusher."""
        return await user.asks("POST", "/_matrix/client/v3/pushers/set", self.gateway.pusher(pushkey, **data))

    async def pushers(self, user: User) -> list[str]:
        """The pushkeys of a user."""
        answer = await user.asks("GET", "/_matrix/client/v3/pushers")
        return [each["pushkey"] for each in answer.json["pushers"]]

    async def looked(self, node: Node) -> None:
        """Wait until everything on a node has been looked at."""
        await node.memory(Onlookers).idle.wait()

    async def quiet(self, node: Node) -> None:
        """Wait until nothing is to be sent, nor being sent, but what waits for the clock."""
        await self.looked(node)
        while tasks := [line.task for line in node.memory(Followers).lines() if line.task is not None]:
            await asyncio.wait(tasks)

    async def read(self, user: User, room_id: str, event_id: str) -> None:
        """Let a user read a room up to an event."""
        await self.play.ask(user, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})


Put = Callable[..., Awaitable[Stage]]


@pytest.fixture
def put(cast: Cast, tmp_path: Any) -> Iterator[Put]:
    """What makes stages, of a play or of one that is begun for it; ``begin`` false: nobody is told anything yet."""
    made: list[Stage] = []
    authority, internet = Authority(tmp_path), Internet()
    gateway = Gateway(PUSH)

    async def one(play: Play | None = None, *, begin: bool = True, **kwargs: Any) -> Stage:
        if not gateway.port:
            await gateway.open(authority.issue(PUSH))
            internet.put(PUSH, 443, gateway.port)
        play = play or await cast(**{"policy": WATCHED, **kwargs})
        made.append(Stage(play, gateway, internet, authority))
        if begin:
            made[-1].begin()
        return made[-1]

    yield one

    async def close() -> None:
        for stage in made:
            await stage.close()
        if gateway.port:
            await gateway.close()

    finish(close())
    assert gateway.faults == []


@pytest.fixture
def stage(put: Put) -> Stage:
    """A stage on which notifications may go anywhere."""

    async def one() -> Stage:
        return await put()

    return finish(one())
