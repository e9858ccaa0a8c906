"""What a room's encryption has to be before anything is sent to it."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.network import Network
from tests.rooms.play import ciphertext
from tests.support import aio


@pytest.mark.parametrize(
    ("content", "status"),
    [({"algorithm": "m.megolm.v1.aes-sha2"}, 200), ({"algorithm": "org.example.rot13"}, 403), ({}, 403)],
)
@aio
async def test_an_algorithm_that_does_not_encrypt_is_no_encryption(
    network: Network, content: dict[str, str], status: int
) -> None:
    play = await network.found("a.test", top="conformance_mode = true\n")
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.encryption", content)
    object.__setattr__(play.server.settings, "conformance_mode", False)
    await play.replica("tehran", room_id)
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.encrypted/1"
    assert (await alice.asks("PUT", path, ciphertext("hello"))).status == status
