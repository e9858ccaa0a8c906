"""A process that ends between any two writes of a move leaves one home, and the next one brings the move to its end.

What is tried here in order, one write after the other, tests/durability/test_move.py tries by chance and for real.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from homeserver.protocol import move_receipts
from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage.engine import Engine
from homeserver.transparency import statements
from tests.deployment import SETTINGS, User
from tests.e2ee.play import Device, events, message
from tests.moves.play import Stage, Staging
from tests.support import aio

SILENT = (
    SETTINGS
    + """
[users]
presence = false
"""
)

STEP = int(os.environ.get("DOMICILE_TEST_CRASH_STEP", "27"))
"""Every how many writes the process ends in one test."""
FIRST = range(1, STEP, int(os.environ.get("DOMICILE_TEST_CRASH_APART", "9")))
"""Behind which write it ends first."""


class Mortal:
    """The databases of a stage, which from their n-th write on answer nothing any more."""

    def __init__(self, play: Stage, writes: int) -> None:
        self.left = writes
        self.over = asyncio.Event()
        self.buried = False
        self.waiting: list[asyncio.Future[None]] = []
        for engine in (*(node.engine for node in play.server.nodes), play.server.nodes.directory.engine):
            for name in ("write", "_write_alone"):
                setattr(engine, name, self._mortal(getattr(engine, name)))
            self._end_reading(engine)

    def _mortal(self, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def until_the_end(*args: Any, **kwargs: Any) -> Any:
            await self._wait_if_over()
            result = await write(*args, **kwargs)
            self.left -= 1
            if self.left <= 0:
                self.over.set()
            await self._wait_if_over()
            return result

        return until_the_end

    def _end_reading(self, engine: Engine) -> None:
        read = engine.read

        async def until_the_end(*args: Any, **kwargs: Any) -> Any:
            await self._wait_if_over()
            return await read(*args, **kwargs)

        engine.read = until_the_end  # type: ignore[method-assign]

    async def _wait_if_over(self) -> None:
        if self.buried:  # what is cancelled may want to write down how far it came
            raise NodeUnavailable("over")
        if self.over.is_set():
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]  # until it is buried

    async def bury(self) -> None:
        """End what nobody could cancel: it would be in the way when its memory is collected."""
        for each in self.waiting:
            if not each.done():
                each.set_exception(NodeUnavailable("over"))
        for _ in range(10):
            await asyncio.sleep(0)


async def crashed(play: Stage, user: Device, target: str, writes: int) -> bool:
    """Move a user, and let the process end after so many writes; False when the move was over before."""
    mortal = Mortal(play, writes)

    async def move() -> None:
        await play.command("residency-move", user=user.user_id, to=target)
        await play.ended(user)

    moving = asyncio.ensure_future(move())
    ending = asyncio.ensure_future(mortal.over.wait())
    await asyncio.wait([moving, ending], return_when=asyncio.FIRST_COMPLETED)
    done = moving.done()
    for each in (moving, ending):
        each.cancel()
    await asyncio.wait([moving, ending])
    mortal.buried = True
    await play.end(grace=0.0)
    await mortal.bury()
    return not done


def again(play: Stage, device: Device) -> None:
    """The same device with the deployment that was started anew."""
    device.user = User(play.deployment, device.user_id, device.device_id, device.user.token)


@pytest.mark.parametrize("first", FIRST)
@aio
async def test_one_home_whenever_it_ends(stage: Staging, first: int) -> None:
    play = await stage(settings=SILENT)
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    room = await play.room_of(alice.user, bob.user)
    own = await play.create(alice.user)
    said: list[str] = []
    got: list[str] = []
    since = (await alice.sync())["next_batch"]
    writes, target = first, "paris"
    while True:
        said.append(f"m{writes}")
        await play.send(alice.user, own, said[-1], txn_id=f"own{writes}")
        await play.send(bob.user, room, said[-1], txn_id=f"room{writes}")
        assert (await bob.send(said[-1], {alice.user_id: {alice.device_id: message(said[-1])}})).status == 200
        await play.settle()
        reached = await crashed(play, alice, target, writes)
        play = await stage(settings=SILENT)
        again(play, alice)
        again(play, bob)
        home = (await alice.user.caller()).node.name  # they are logged in, on one node or on the other
        assert "accounts" in await play.rows_of(home, alice)
        if home != target and not (await play.command("residency-move-status", user="alice"))["moves"]:
            await play.command("residency-move", user="alice", to=target)
        assert (await play.ended(alice))["state"] == "done"
        assert (await alice.user.caller()).node.name == target
        left = "tehran" if target == "paris" else "paris"
        assert await play.rows_of(left, alice) == {}
        assert await play.texts(alice.user, own) == await play.texts(alice.user, room) == said
        assert await play.texts(bob.user, room) == said
        answer = await alice.sync(since)
        got += [each["content"]["ciphertext"] for each in events(answer)]
        since = answer["next_batch"]
        assert got == [message(text)["ciphertext"] for text in said]
        assert (await play.command("residency-audit"))["findings"] == []
        receipts = (await play.command("residency-receipts", user="alice"))["receipts"]
        for node in play.server.nodes:
            stated = await node.read(statements.stated, "receipt")
            assert [each.said.digest for each in stated] == [move_receipts.digest(each.encode()) for each in receipts]
        if not reached:
            break
        writes, target = writes + STEP, left
    assert writes > 20
