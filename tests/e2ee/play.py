"""Devices that encrypt: they make keys as clients do, publish them, and look at what others are told.

The fixture ``play`` lets everything flow between tehran and paris; ``cast`` makes one with other settings or another
policy.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from homeserver.e2ee import publication
from homeserver.jobs import PARCELS
from homeserver.protocol.signing import SigningKey, encode_base64, sign_json
from homeserver.rooms import replicas
from homeserver.rooms.replicas import ship
from tests.deployment import FLOWING, Answer, Deploy, User
from tests.rooms.play import CLIENT, Play
from tests.support import finish

OLM = "m.olm.v1.curve25519-aes-sha2"


def random_key() -> str:
    """A public key that nobody has the secret of."""
    return encode_base64(os.urandom(32))


class Device:
    """One device of a user, with its signing key."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.key = SigningKey.generate(user.device_id)
        self.curve = random_key()

    @property
    def user_id(self) -> str:
        """The user ID of its owner."""
        return self.user.user_id

    @property
    def device_id(self) -> str:
        """Its ID."""
        return self.user.device_id

    def sign(self, key: dict[str, Any]) -> dict[str, Any]:
        """A JSON object, signed by the device."""
        return sign_json(key, self.user_id, self.key)

    def device_keys(self) -> dict[str, Any]:
        """Its identity keys, signed."""
        return self.sign(
            {
                "user_id": self.user_id,
                "device_id": self.device_id,
                "algorithms": [OLM, "m.megolm.v1.aes-sha2"],
                "keys": {
                    f"curve25519:{self.device_id}": self.curve,
                    f"ed25519:{self.device_id}": self.key.verify_key.base64,
                },
            }
        )

    def one_time_keys(self, *names: str, fallback: bool = False) -> dict[str, Any]:
        """Signed one-time keys by name."""
        extra = {"fallback": True} if fallback else {}
        return {f"signed_curve25519:{name}": self.sign({"key": random_key(), **extra}) for name in names}

    async def asks(self, method: str, path: str, body: object = None, **query: str) -> Answer:
        """Make a request."""
        return await self.user.asks(method, CLIENT + path, body, **query)

    async def gets(self, method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
        """Make a request that succeeds."""
        answer = await self.asks(method, path, body, **query)
        assert answer.status == 200, answer
        return answer.json

    async def publish(self, **more: Any) -> dict[str, int]:
        """Upload the identity keys, and more."""
        answer = await self.gets("POST", "/keys/upload", {"device_keys": self.device_keys(), **more})
        return dict(answer["one_time_key_counts"])

    async def query(self, *users: User | Device, **devices: list[str]) -> dict[str, Any]:
        """Ask for the keys of users."""
        wanted = {user.user_id: devices.get(user.user_id[1:].partition(":")[0], []) for user in users}
        return await self.gets("POST", "/keys/query", {"device_keys": wanted})

    async def claim(self, *devices: Device, algorithm: str = "signed_curve25519") -> dict[str, Any]:
        """Claim a key of each device."""
        wanted: dict[str, dict[str, str]] = {}
        for device in devices:
            wanted.setdefault(device.user_id, {})[device.device_id] = algorithm
        return await self.gets("POST", "/keys/claim", {"one_time_keys": wanted})

    async def sync(self, since: str | None = None, *, wait_ms: int = 0) -> dict[str, Any]:
        """Sync once."""
        query = {"timeout": str(wait_ms)} if since is None else {"timeout": str(wait_ms), "since": since}
        return await self.gets("GET", "/sync", **query)

    async def send(self, txn_id: str, messages: dict[str, Any], event_type: str = "m.room.encrypted") -> Answer:
        """Send messages to devices."""
        return await self.asks("PUT", f"/sendToDevice/{event_type}/{txn_id}", {"messages": messages})

    async def another(self) -> Device:
        """Log in on one more device of the same user."""
        answer = await self.user.deployment.login(self.user)
        assert answer.status == 200, answer
        user = User(self.user.deployment, self.user_id, answer.json["device_id"], answer.json["access_token"])
        return Device(user)


class Identity:
    """The cross-signing keys of a user."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.master, self.self_signing, self.user_signing = (named_key() for _ in range(3))

    def _public(self, key: SigningKey, usage: str) -> dict[str, Any]:
        text = key.verify_key.base64
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{text}": text}}

    def master_key(self) -> dict[str, Any]:
        """The public master key."""
        return self._public(self.master, "master")

    def upload(self) -> dict[str, Any]:
        """What a client uploads of it."""
        return {
            "master_key": self.master_key(),
            "self_signing_key": self.by(self.master, self._public(self.self_signing, "self_signing")),
            "user_signing_key": self.by(self.master, self._public(self.user_signing, "user_signing")),
        }

    def by(self, key: SigningKey, signed: dict[str, Any]) -> dict[str, Any]:
        """A JSON object, signed by one of the keys."""
        return sign_json(signed, self.user_id, key)


def named_key() -> SigningKey:
    """A signing key whose ID is its public key."""
    seed = os.urandom(32)
    return SigningKey(SigningKey("", seed).verify_key.base64, seed)


def events(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages to the device in an answer of `/sync`."""
    return list(answer.get("to_device", {}).get("events", []))


def message(text: str) -> dict[str, Any]:
    """The content of a message to a device."""
    return {"algorithm": OLM, "ciphertext": base64.b64encode(text.encode()).decode()}


class KeyPlay(Play):
    """A play in which keys and messages to devices are shipped too."""

    async def begin(self) -> None:
        """Start to ship, or go on with it."""
        if not self._registered:
            self._registered = True
            self.server.jobs.add(replicas.HISTORY_JOB, lambda: replicas.copy_histories(self.server))
        for source in self.server.nodes:
            self._shipping.append(asyncio.create_task(publication.follow(self.server, source)))
            for destination in self.server.nodes:
                if source is not destination:
                    self._shipping.append(asyncio.create_task(ship(self.server, source, destination, PARCELS)))

    async def device(self, localpart: str, node: str = "tehran", *, published: bool = True) -> Device:
        """Make an account whose only device has published its keys."""
        device = Device(await self.user(localpart, node))
        if published:
            await device.publish()
        return device


Cast = Callable[..., Awaitable[KeyPlay]]


@pytest.fixture
def cast(deploy: Deploy) -> Iterator[Cast]:
    """What begins plays (see `tests.deployment.start`)."""
    begun: list[KeyPlay] = []

    async def begin(**kwargs: Any) -> KeyPlay:
        play = KeyPlay(await deploy(**{"policy": FLOWING, **kwargs}))
        begun.append(play)
        await play.begin()
        return play

    yield begin
    for play in begun:
        finish(play.end())


@pytest.fixture
def play(cast: Cast) -> KeyPlay:
    """A play in which everything flows between tehran and paris."""

    async def one() -> KeyPlay:
        return await cast()

    return finish(one())
