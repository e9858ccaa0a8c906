"""Receipts, typing and presence as clients meet them: in the answer of a `/sync` that waits, on the other node too."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import User
from tests.rooms.play import Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]


async def sync(play: Play, user: User, since: str | None = None, wait_ms: int = 0) -> dict[str, Any]:
    query = {"timeout": str(wait_ms), "set_presence": "offline", **({} if since is None else {"since": since})}
    return await play.ask(user, "GET", "/sync", **query)


async def up_to_date(play: Play, user: User) -> str:
    """A token behind which there is nothing."""
    answer = await sync(play, user)
    while "rooms" in answer or "presence" in answer or "account_data" in answer or "device_lists" in answer:
        answer = await sync(play, user, answer["next_batch"])
    return str(answer["next_batch"])


async def waits(play: Play, user: User) -> asyncio.Task[dict[str, Any]]:
    """A `/sync` that has begun to wait."""
    since, caller = await up_to_date(play, user), await user.caller()
    waiting = asyncio.create_task(sync(play, user, since, 30_000))
    key = (caller.node.name, caller.user_nid)
    while not any(each._future for each in play.server.wakeups.listeners.get(key, ())):  # noqa: ASYNC110
        await asyncio.sleep(0)  # nothing tells that somebody else has begun to wait
    return waiting


def ephemeral(answer: dict[str, Any], room_id: str) -> list[dict[str, Any]]:
    return list(answer["rooms"]["join"][room_id]["ephemeral"]["events"])


@aio
async def test_a_waiting_client_is_told(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    await play.settle()
    waiting = await waits(play, alice)
    typing = f"/rooms/{quote(room_id)}/typing/{quote(bob.user_id)}"
    await play.ask(bob, "PUT", typing, {"typing": True, "timeout": 10_000})
    told = [{"type": "m.typing", "content": {"user_ids": [bob.user_id]}}]
    assert ephemeral(await waiting, room_id) == told
    waiting = await waits(play, alice)
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})
    content = {event_id: {"m.read": {bob.user_id: {"ts": play.server.clock.now_ms()}}}}
    assert ephemeral(await waiting, room_id) == [{"type": "m.receipt", "content": content}]
    waiting = await waits(play, alice)
    await play.deployment.clock.advance(11)
    assert ephemeral(await waiting, room_id) == [{"type": "m.typing", "content": {"user_ids": []}}]
    waiting = await waits(play, alice)
    await play.ask(bob, "PUT", f"/presence/{quote(bob.user_id)}/status", {"presence": "online"})
    (event,) = (await waiting)["presence"]["events"]
    assert (event["type"], event["sender"], event["content"]["presence"]) == ("m.presence", bob.user_id, "online")


@pytest.mark.parametrize("kind", ["m.read", "m.read.private"])
@aio
async def test_reading_ends_the_notifications_of_other_devices(play: Play, kind: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    await play.settle()
    room = (await sync(play, bob))["rooms"]["join"][room_id]
    assert room["unread_notifications"] == {"notification_count": 1, "highlight_count": 0}
    waiting = await waits(play, bob)
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id)}", {})
    room = (await waiting)["rooms"]["join"][room_id]
    assert room["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}
