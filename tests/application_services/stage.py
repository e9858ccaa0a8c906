"""A play with a bridge: the deployment of tests/rooms/play.py, an application service on the node tehran, what sends to
it, and the ways in which the service calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.application_services.sending import sender
from homeserver.context import Server
from homeserver.rooms import ticks
from homeserver.runtime.clock import SystemClock
from tests.application_services.bridge import Bridge
from tests.deployment import FLOWING, NAME, SETTINGS, Answer, Deploy, User
from tests.rooms.play import CLIENT, Play
from tests.support import finish

NODE = 'node = "tehran"\n'


class Ghost(User):
    """A user of the service: acts by the service's token."""

    async def asks(self, method: str, path: str, body: object = None, **query: str) -> Answer:
        """Make a request as this user."""
        own = {"user_id": self.user_id}
        if self.device_id:
            own["device_id"] = self.device_id
        return await self.deployment.asked(method, path, body, token=self.token, **own, **query)


class Stage:
    """A play with services."""

    def __init__(self, play: Play, bridges: list[Bridge]) -> None:
        self.play = play
        self.bridges = bridges
        self._sending: list[asyncio.Task[None]] = []

    @property
    def server(self) -> Server:
        """The server's resources."""
        return self.play.server

    @property
    def bridge(self) -> Bridge:
        """The first service."""
        return self.bridges[0]

    @property
    def bot(self) -> Ghost:
        """The own user of the first service."""
        return self.ghost_of(f"_{self.bridge.name}_bot")

    async def begin(self) -> None:
        """Make the services' own users, and send."""
        await sender.introduce(self.server)
        for service in self.server.services:
            if service.url is not None:
                self._sending.append(asyncio.create_task(sender.send(self.server, service)))
        await asyncio.sleep(0)  # so that they have begun
        for each in self.server.nodes.directory.memory(sender.Senders).held.values():
            await each.ready.wait()

    async def end(self) -> None:
        """Stop to send, as if killed."""
        while pending := [task for task in self._sending if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)
        self._sending.clear()

    def ghost_of(self, localpart: str, device_id: str = "", bridge: Bridge | None = None) -> Ghost:
        """A user of a service who is there."""
        token = (bridge or self.bridge).as_token
        return Ghost(self.play.deployment, f"@{localpart}:{NAME}", device_id, token)

    async def register(self, localpart: str, bridge: Bridge | None = None, **more: Any) -> Answer:
        """Ask for an account by the service's token."""
        body = {"type": "m.login.application_service", "username": localpart, "inhibit_login": True, **more}
        token = (bridge or self.bridge).as_token
        return await self.play.deployment.asked("POST", f"{CLIENT}/register", body, token=token)

    async def ghost(self, name: str, device_id: str = "") -> Ghost:
        """Make a user of the service, with a device if one is named."""
        localpart = f"_{self.bridge.name}_{name}"
        answer = await self.register(localpart)
        assert answer.status == 200, answer
        if device_id:
            made = await self.ghost_of(localpart).asks("PUT", f"{CLIENT}/devices/{device_id}", {})
            assert made.status == 201, made
        return self.ghost_of(localpart, device_id)

    def moved(self, user: User) -> User:
        """Somebody from the stage before, here."""
        return type(user)(self.play.deployment, user.user_id, user.device_id, user.token)

    async def room(self, user: User, *others: User) -> str:
        """A room of users and ghosts, who have all joined."""
        return await self.play.room_of(user, *others)

    async def meeting(self) -> tuple[User, Ghost, str]:
        """alice and joe, who is a ghost, in a room of hers."""
        alice, joe = await self.play.user("alice"), await self.ghost("joe")
        return alice, joe, await self.room(alice, joe)

    async def has_been_told_up_to(self, position: int) -> None:
        """Wait until the first service has been told all up to a position that it is told at all."""
        told = self.server.nodes.directory.memory(sender.Senders).held[self.bridge.name]
        with self.server.wakeups.listen([told.news_key]) as listener:
            while told.place.pos < position:
                await listener.wait(0.01)

    async def has_been_told_by_now(self) -> None:
        """Wait until the first service has been told what has no position, too."""
        told = self.server.nodes.directory.memory(sender.Senders).held[self.bridge.name]
        tick = ticks.now(told.node)
        with self.server.wakeups.listen([told.news_key]) as listener:
            while told.place.tick < tick or told.pending is not None:
                await listener.wait(0.01)

    async def as_service(self, method: str, path: str, body: object = None, **query: str) -> Answer:
        """Make a request by the service's token, without saying as whom."""
        return await self.play.deployment.asked(method, path, body, token=self.bridge.as_token, **query)


SetUp = Callable[..., Awaitable[Stage]]


@pytest.fixture
def set_up(deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    """What begins plays with a bridge: ``registration`` has further fields of its file, ``place`` what the settings
    say of it, ``bridges`` are several instead of one. ``again``: a stage whose databases another one goes on with."""
    stages: list[Stage] = []
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.02)

    async def begin(
        *,
        registration: dict[str, Any] | None = None,
        place: str = NODE,
        settings: str = SETTINGS,
        policy: str = FLOWING,
        bridges: list[Bridge] | None = None,
        again: Stage | None = None,
        clock: Any = None,
        sending: bool = True,
    ) -> Stage:
        if again is not None:
            bridges = again.bridges
            await again.end()
            await again.play.end()
        bridges = bridges or [Bridge()]
        for bridge in bridges:
            if bridge.port == 0:
                bridge.open()
            settings += bridge.write(tmp_path, **(registration or {})) + place
        play = Play(await deploy(settings=settings, policy=policy, clock=clock or SystemClock()))
        stage = Stage(play, bridges)
        stages.append(stage)
        await play.begin()
        if sending:
            await stage.begin()
        else:
            await sender.introduce(stage.server)
        return stage

    yield begin

    async def tidy() -> None:
        for stage in stages:
            await stage.end()
            await stage.play.end()
            await stage.server.outbound.close()
            for bridge in stage.bridges:
                if bridge.held is not None:
                    bridge.held.set()
                await bridge.close()

    finish(tidy())


def path_of(room_id: str, *parts: str) -> str:
    """The path of something in a room."""
    return "/rooms/" + "/".join(quote(part, safe="") for part in (room_id, *parts))
