"""A deployment that runs as the product does, in the test's process, and in which users are moved.

The fixture ``stage`` makes one with everything flowing between tehran and paris, or with another policy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from homeserver.control import commands
from homeserver.jobs import Watch, add_jobs
from homeserver.protocol.errors import Refusal
from homeserver.residency.moves import following
from homeserver.runtime.clock import SystemClock
from homeserver.storage.engine import Transaction
from homeserver.storage.tables import TABLES
from tests.deployment import FLOWING, SETTINGS, Deploy, User
from tests.e2ee.play import Device
from tests.rooms.play import Play
from tests.support import finish

ENDED = ("done", "failed", "stopped")


def closed_window() -> str:
    """A window that is closed now, and for an hour."""
    hour = datetime.now(UTC).hour
    return f"{(hour + 2) % 24:02}:00-{(hour + 3) % 24:02}:00"


class Stage(Play):
    """A deployment with all that runs beside requests."""

    async def begin(self) -> None:
        """Start what runs beside requests."""
        await following.settle(self.server)
        add_jobs(self.server)
        self.server.jobs.start()
        self._watch = Watch(self.server)

    async def end(self, grace: float = 10.0) -> None:
        """Stop it; what needs longer is cut off."""
        self.server.wakeups.stop()
        await self._watch.stop()
        await super().end()
        await self.server.jobs.stop(grace)

    async def device(self, localpart: str, node: str = "tehran") -> Device:
        """Make an account whose only device has published its keys."""
        device = Device(await self.user(localpart, node))
        await device.publish(one_time_keys=device.one_time_keys("AAAAAA", "AAAAAB", "AAAAAC"))
        return device

    async def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """What an operator has done."""
        return await commands.perform(self.server, name, arguments)

    async def refusal(self, name: str, **arguments: Any) -> Refusal:
        """What an operator is told that cannot be done."""
        with pytest.raises(Refusal) as refused:
            await self.command(name, **arguments)
        return refused.value

    async def status(self, user: User | Device) -> dict[str, Any]:
        """How far the move of a user is."""
        (found,) = (await self.command("residency-move-status", user=user.user_id))["moves"]
        return dict(found)

    async def ended(self, user: User | Device) -> dict[str, Any]:
        """Wait until the move of a user goes on no more."""
        while (found := await self.status(user))["state"] not in ENDED and found["halted"] is None:
            await self.server.clock.sleep(0.01)  # the only way that an operator has to look
        return found

    async def move(self, user: User | Device, to: str = "paris", **wish: Any) -> None:
        """Move a user, to the end."""
        await self.command("residency-move", user=user.user_id, to=to, **wish)
        found = await self.ended(user)
        assert found["state"] == "done", found

    async def rows_of(self, node: str, user: User | Device) -> dict[str, int]:
        """How many rows a user owns on a node, by table; those that are public and in replicas of rooms excepted."""
        return await self.node(node).read(_rows_of, user.user_id)


async def _rows_of(tx: Transaction, user_id: str) -> dict[str, int]:
    found = {}
    for table in TABLES.values():
        if table.resident or table.name in ("device_keys", "cross_signing_keys"):
            row = await tx.one(
                f"SELECT COUNT(*) FROM {table.name} t JOIN users u ON u.user_nid = t.{table.owner} WHERE u.user_id = ?",
                user_id,
            )
            assert row is not None
            if row[0]:
                found[table.name] = int(row[0])
    return found


Staging = Callable[..., Awaitable[Stage]]


@pytest.fixture
def stage(deploy: Deploy) -> Iterator[Staging]:
    """What begins stages (see `tests.deployment.start`)."""
    begun: list[Stage] = []

    async def begin(**kwargs: Any) -> Stage:
        made = Stage(await deploy(**{"policy": FLOWING, "settings": SETTINGS, "clock": SystemClock(), **kwargs}))
        begun.append(made)
        await made.begin()
        return made

    yield begin
    for made in begun:
        finish(made.end())
