"""A deployment in the test's own process whose node tehran is archived, lost, and put back from the archive."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homeserver import places
from homeserver.archives import backing_up, restoring
from homeserver.archives.reading import Archive
from homeserver.archives.restoring import Place
from homeserver.rooms import chores, reunion
from homeserver.runtime.clock import FakeClock
from homeserver.storage.connect import engine_for
from homeserver.storage.directory import Directory
from tests.deployment import FLOWING, User, start
from tests.e2ee.play import KeyPlay
from tests.support import Databases, finish


class House:
    """A deployment on SQLite; ``play`` is as it runs at the moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "tehran.tar"
        self.clock = FakeClock()
        self._databases = Databases("sqlite", folder)
        self._directory_key = b"d" * 32
        self.play: KeyPlay

    async def begin(self) -> None:
        """Start it; what it asks of jobs is done."""
        self._databases = Databases("sqlite", self.folder)
        deployment = await start(self._databases, policy=FLOWING, clock=self.clock)
        self.play = KeyPlay(deployment)
        await self.play.begin()
        await self.do_chores()

    async def do_chores(self) -> None:
        """Run the jobs that a restore has work for."""
        await reunion.reunite(self.play.server)
        await chores.leave_rooms(self.play.server)
        await self.play.settle()

    async def end(self) -> None:
        """Stop it."""
        await self.play.end()
        await self._databases.close()
        assert self.play.deployment.observed.faults == []

    async def back_up(self) -> dict[str, Any]:
        """Archive tehran, into ``archive``."""
        server = self.play.server
        answer = await backing_up.begin(server, server.nodes["tehran"], self.archive, None)
        while not answer["done"]:
            answer = await backing_up.progress(server)
        return answer

    async def lose_and_restore(self, *, keep_sessions: bool = True) -> dict[str, Any]:
        """Stop, lose tehran, put it back, and start again."""
        await self.end()
        await asyncio.to_thread(shutil.rmtree, self.folder / "tehran")
        answer = await self.restore(keep_sessions=keep_sessions)
        await self.begin()
        return answer

    async def restore(self, *, keep_sessions: bool = True) -> dict[str, Any]:
        """Put tehran back."""
        routes = await self._databases.open("directory", places.migrations("directory"))
        directory = Directory(routes, self._directory_key)
        place = Place(
            "example.org",
            "tehran",
            "IR",
            "sqlite",
            self.folder / "tehran" / "media",
            lambda migrations: engine_for(
                "tehran", "sqlite:tehran/node.db", migrations, root=self.folder, clock=self.clock
            ),
            ["paris"],
            keep_sessions,
        )
        answer = await restoring.restore(Archive(self.archive), place, directory, self.clock.now_ms())
        await routes.close()
        return answer

    def still(self, user: User) -> User:
        """Somebody with the token that they had before a restart."""
        return User(self.play.deployment, user.user_id, user.device_id, user.token)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house in which everything flows between tehran and paris."""
    made = House(tmp_path)
    finish(made.begin())
    yield made
    finish(made.end())
