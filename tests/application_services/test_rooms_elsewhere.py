"""Services in rooms of other servers: what of them is noted for a service, from the invitation on."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from homeserver.application_services.sending import sender
from homeserver.storage import application_services as stored
from homeserver.storage.application_services import ToldEvent
from homeserver.storage.engine import Transaction
from tests.application_services.bridge import Bridge
from tests.application_services.stage import Ghost
from tests.network import Network
from tests.rooms.play import CLIENT, Play
from tests.support import aio


async def _told(tx: Transaction) -> list[ToldEvent]:
    items, _ = await stored.waiting(tx, "bridge", 0, 2**60, 1000)
    found = await stored.events(tx, [item.ref_nid for item in items])
    return [found[item.ref_nid] for item in items]


async def told(play: Play) -> list[tuple[str, str | None]]:
    """The types and memberships of what waits for the service."""
    shown: list[tuple[str, str | None]] = []
    for each in await play.node("tehran").read(_told):
        content: dict[str, Any] = orjson.loads(each.event.client + b"}")["content"]
        shown.append((each.event.type, content.get("membership")))
    return shown


async def bridged(network: Network, directory: Path) -> tuple[Play, Ghost]:
    """The server b.test with a bridge that nobody can reach, and a user of the bridge."""
    bridge = Bridge()
    bridge.port = 1
    place = bridge.write(directory) + 'node = "tehran"\n'
    b = await network.found("b.test", settings=place)
    await sender.introduce(b.server)
    body = {"type": "m.login.application_service", "username": "_bridge_joe", "inhibit_login": True}
    made = await b.deployment.asked("POST", f"{CLIENT}/register", body, token=bridge.as_token)
    assert made.status == 200, made
    return b, Ghost(b.deployment, "@_bridge_joe:b.test", "", bridge.as_token)


@aio
async def test_a_ghost_joins_a_room_of_another_server(network: Network, tmp_path: Path) -> None:
    a = await network.found("a.test")
    b, ghost = await bridged(network, tmp_path)
    alice = await a.user("alice")
    room_id = await a.create(alice, preset="public_chat")
    await a.send(alice, room_id, "before")
    await b.ask(ghost, "POST", f"/join/{quote(room_id)}", {}, via="a.test")
    assert await told(b) == [("m.room.member", "join")]
    await a.send(alice, room_id, "for the bridge")
    await network.settle()
    assert await told(b) == [("m.room.member", "join"), ("m.room.encrypted", None)]


@aio
async def test_a_ghost_is_invited_from_another_server(network: Network, tmp_path: Path) -> None:
    a = await network.found("a.test")
    b, ghost = await bridged(network, tmp_path)
    alice = await a.user("alice")
    room_id = await a.create(alice)
    await a.change(alice, room_id, "invite", user_id=ghost.user_id)
    assert await told(b) == [("m.room.member", "invite")]
    [invite] = await b.node("tehran").read(_told)
    assert invite.preview is not None
    await b.change(ghost, room_id, "join")
    assert await told(b) == [("m.room.member", "invite"), ("m.room.member", "join")]
    await a.change(alice, room_id, "kick", user_id=ghost.user_id)
    await network.settle()
    assert (await told(b))[-1] == ("m.room.member", "leave")
