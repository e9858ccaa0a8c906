"""A device that never asks does not fill the database: the oldest of its messages make room, and are counted."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.e2ee.mailbox_bound import Filling
from tests.deployment import FLOWING, SETTINGS, Deploy, Deployment, User
from tests.support import aio

CLIENT = "/_matrix/client/v3"
SMALL = SETTINGS + "\n[limits]\nmailbox = 20\n"


async def send(deployment: Deployment, sender: User, to: User, number: int) -> None:
    body = {"messages": {to.user_id: {to.device_id: {"number": number}}}}
    answer = await sender.asks("PUT", f"{CLIENT}/sendToDevice/org.example.note/{to.device_id}{number}", body)
    assert answer.status == 200
    node = (await to.caller()).node
    task = node.memory(Filling).task
    if task is not None:
        await task


async def received(user: User) -> list[int]:
    """All that waits for a device, as it is given to it."""
    found: list[int] = []
    query: dict[str, str] = {}
    while True:
        answer = (await user.asks("GET", f"{CLIENT}/sync", **query)).json
        events: list[dict[str, Any]] = answer.get("to_device", {}).get("events", [])
        if not events:
            return found
        found += [event["content"]["number"] for event in events]
        query = {"since": quote(answer["next_batch"])}


@aio
async def test_the_oldest_messages_make_room(deploy: Deploy) -> None:
    deployment = await deploy(settings=SMALL, policy=FLOWING)
    alice, bob, carol = [
        await deployment.user(name, node) for name, node in (("alice", "tehran"), ("bob", "paris"), ("carol", "paris"))
    ]
    for number in range(15):
        await send(deployment, alice, carol, number)
    for number in range(61):
        await send(deployment, alice, bob, number)
    dropped = deployment.server.telemetry.counter("domicile_mailbox_dropped", "", ["node"])
    found = await received(bob)
    assert found == list(range(61 - len(found), 61)), "the newest, in their order"
    assert 20 <= len(found) <= 22
    assert dropped.value("paris") == 61 - len(found)
    assert await received(carol) == list(range(15)), "nobody else's"
