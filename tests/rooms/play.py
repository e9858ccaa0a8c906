"""A deployment whose nodes ship to one another, and users who write to each other in it.

The fixture ``play`` lets everything flow between tehran and paris; ``cast`` makes one with other settings or another
policy.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation import sender
from homeserver.jobs import PARCELS
from homeserver.rooms import replicas, state
from homeserver.rooms.state import Room, Rooms
from homeserver.storage import events as stored
from homeserver.storage import rooms as stored_rooms
from homeserver.storage.nodes import Node
from tests.deployment import FLOWING, Answer, Deploy, Deployment, User
from tests.support import finish

CLIENT = "/_matrix/client/v3"


def ciphertext(text: str, relates_to: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content of an m.room.encrypted event that stands for a text."""
    payload = text.encode() or b"-"
    message = b"\x03\x08\x01\x12" + bytes([len(payload)]) + payload + bytes(8 + 64)
    content: dict[str, Any] = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "ciphertext": base64.b64encode(message).decode().rstrip("="),
        "session_id": base64.b64encode(bytes(32)).decode().rstrip("="),
    }
    if relates_to is not None:
        content["m.relates_to"] = relates_to
    return content


class Play:
    """A deployment in which parcels are shipped as long as the test runs."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.server = deployment.server
        self._transactions = 0
        self._registered = False
        self._shipping: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Start to ship, or go on with it. Histories are copied when a test asks for it."""
        if not self._registered:
            self._registered = True
            self.server.jobs.add(replicas.HISTORY_JOB, lambda: replicas.copy_histories(self.server))
        nodes = list(self.server.nodes)
        for source in nodes:
            for destination in nodes:
                if source is not destination:
                    shipping = replicas.ship(self.server, source, destination, PARCELS)
                    self._shipping.append(asyncio.create_task(shipping))
            if self.server.settings.federation.enabled:
                self._shipping.append(asyncio.create_task(sender.send(self.server, source)))

    async def end(self) -> None:
        """Stop to ship."""
        while pending := [task for task in self._shipping if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)  # asyncio.wait_for, under the driver, may swallow a cancellation
        self._shipping.clear()

    @property
    def is_shipping(self) -> bool:
        """Whether parcels are shipped, and other servers sent what is for them."""
        return bool(self._shipping)

    async def settle(self) -> None:
        """Wait until everything has arrived everywhere."""
        nodes = list(self.server.nodes)
        for _ in range(2):
            for source in nodes:
                for destination in nodes:
                    await replicas.caught_up(self.server, source, destination)

    def node(self, name: str) -> Node:
        """A node by name."""
        return self.deployment.node(name)

    # users

    async def user(self, localpart: str, node: str = "tehran") -> User:
        """Make an account."""
        return await self.deployment.user(localpart, node)

    async def ask(self, user: User, method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
        """Make a request that succeeds."""
        answer = await user.asks(method, CLIENT + path, body, **query)
        assert answer.status == 200, answer
        return answer.json

    async def refused(self, user: User, method: str, path: str, body: object = None) -> Answer:
        """Make a request that does not."""
        answer = await user.asks(method, CLIENT + path, body)
        assert answer.status >= 400, answer
        return answer

    async def create(self, user: User, **wish: Any) -> str:
        """Create a room."""
        created = await self.ask(user, "POST", "/createRoom", wish)
        return str(created["room_id"])

    async def change(self, user: User, room_id: str, verb: str, **body: Any) -> None:
        """``invite``, ``join``, ``leave``, ``kick``, ``ban`` and so on."""
        await self.ask(user, "POST", f"/rooms/{quote(room_id)}/{verb}", body)

    async def room_of(self, *users: User) -> str:
        """A room that the first creates and the others join, wherever they are at home."""
        first, *others = users
        room_id = await self.create(first, invite=[other.user_id for other in others])
        for other in others:
            await self.change(other, room_id, "join")
        await self.settle()
        return room_id

    async def send(
        self, user: User, room_id: str, text: str, txn_id: str | None = None, relates_to: dict[str, Any] | None = None
    ) -> str:
        """Send a message."""
        if txn_id is None:
            self._transactions += 1
            txn_id = f"txn{self._transactions}"
        path = f"/rooms/{quote(room_id)}/send/m.room.encrypted/{txn_id}"
        return str((await self.ask(user, "PUT", path, ciphertext(text, relates_to)))["event_id"])

    async def timeline(self, user: User, room_id: str) -> list[dict[str, Any]]:
        """All that a user may read of a room, oldest first."""
        found: list[dict[str, Any]] = []
        start: dict[str, str] | None = {}
        while start is not None:
            page = await self.ask(user, "GET", f"/rooms/{quote(room_id)}/messages", dir="f", limit="1000", **start)
            found += page["chunk"]
            start = {"from": page["end"]} if "end" in page else None
        return found

    async def texts(self, user: User, room_id: str) -> list[str]:
        """The messages that a user may read, oldest first."""
        return [text_of(event) for event in await self.timeline(user, room_id) if event["type"] == "m.room.encrypted"]

    # replicas

    async def replica(self, node: str, room_id: str) -> Room:
        """A node's replica of a room, read anew from its database."""
        memory = self.node(node).memory(Rooms)
        assert room_id not in memory.busy
        memory.held.pop(room_id)
        return await state.get(self.node(node), room_id)

    async def state_of(self, node: str, room_id: str) -> dict[tuple[str, str], str]:
        """The current state of a room on a node: event ids."""
        held = await state.get(self.node(node), room_id)
        fresh = await self.replica(node, room_id)
        found = {key: entry.event_id for key, entry in fresh.now.state.items()}
        assert found == {key: entry.event_id for key, entry in held.now.state.items()}
        assert (fresh.now.joined, fresh.now.invited) == (held.now.joined, held.now.invited)
        assert dict(fresh.now.nodes) == dict(held.now.nodes)
        assert fresh.residents == held.residents
        return found

    async def event_ids(self, node: str, room_id: str) -> list[str]:
        """The timeline of a room on a node."""
        place = self.node(node)
        room = await place.read(stored_rooms.find, room_id)
        assert room is not None
        return [row.event_id for row in await place.read(stored.timeline_forwards, room.room_nid, -(2**60), None, 9999)]

    async def assert_equal(self, room_id: str, *, ordered: bool = True) -> None:
        """Both replicas of a room hold the same."""
        await self.settle()
        tehran, paris = await self.replica("tehran", room_id), await self.replica("paris", room_id)
        assert await self.state_of("tehran", room_id) == await self.state_of("paris", room_id)
        assert set(tehran.now.tips) == set(paris.now.tips)
        assert dict(tehran.now.nodes) == dict(paris.now.nodes)
        ours, theirs = await self.event_ids("tehran", room_id), await self.event_ids("paris", room_id)
        assert (ours == theirs) if ordered else (sorted(ours) == sorted(theirs))
        assert len(ours) == len(set(ours))


def text_of(event: dict[str, Any]) -> str:
    """The text for which a message stands; ``<redacted>`` when it has been."""
    content = event["content"]
    if "ciphertext" not in content:
        return "<redacted>"
    padded = content["ciphertext"] + "=" * (-len(content["ciphertext"]) % 4)
    raw = base64.b64decode(padded)
    return raw[5 : 5 + raw[4]].decode()


def told(encoded: list[bytes]) -> list[Any]:
    """Encoded events as JSON."""
    return [orjson.loads(event) for event in encoded]


Cast = Callable[..., Awaitable[Play]]


@pytest.fixture
def cast(deploy: Deploy) -> Iterator[Cast]:
    """What begins plays (see `tests.deployment.start`)."""
    begun: list[Play] = []

    async def begin(**kwargs: Any) -> Play:
        play = Play(await deploy(**{"policy": FLOWING, **kwargs}))
        begun.append(play)
        await play.begin()
        return play

    yield begin
    for play in begun:
        finish(play.end())


@pytest.fixture
def play(cast: Cast) -> Play:
    """A play in which everything flows between tehran and paris."""

    async def one() -> Play:
        return await cast()

    return finish(one())
