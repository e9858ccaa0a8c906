"""Who waits for what is new is told nothing any more once their device was logged out: it may be in other hands."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms import presence
from homeserver.rooms.state import arrivals
from tests.deployment import PASSWORD, Answer, User
from tests.rooms.play import CLIENT, Play, cast, play
from tests.support import ON_SQLITE, aio
from tests.sync.sliding import ask, window

__all__ = ["cast", "play"]

pytestmark = ON_SQLITE

Asked = tuple[Awaitable[Answer], tuple[Any, ...]]


def proof(user: User) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"auth": {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}}


async def sync(play: Play, user: User, room_id: str) -> Asked:
    """A request that is about to wait, and the key of what it waits for."""
    since = (await user.asks("GET", CLIENT + "/sync", set_presence="offline")).json["next_batch"]
    caller = await user.caller()
    asked = user.asks("GET", CLIENT + "/sync", since=since, timeout="30000", set_presence="offline")
    return asked, (caller.node.name, caller.user_nid)


async def sliding(play: Play, user: User, room_id: str) -> Asked:
    wish = {"lists": {"all": window(0, 9)}}
    first = await ask(user, None, 0, **wish)
    caller = await user.caller()
    return ask(user, first.json["pos"], 30_000, **wish), (caller.node.name, caller.user_nid)


async def events(play: Play, user: User, room_id: str) -> Asked:
    start = (await user.asks("GET", CLIENT + "/events")).json["end"]
    caller = await user.caller()
    asked = user.asks("GET", CLIENT + "/events", timeout="30000", **{"from": start})
    return asked, (caller.node.name, caller.user_nid)


async def events_of_a_room(play: Play, user: User, room_id: str) -> Asked:
    start = (await user.asks("GET", CLIENT + "/events", room_id=room_id)).json["end"]
    asked = user.asks("GET", CLIENT + "/events", timeout="30000", room_id=room_id, **{"from": start})
    return asked, arrivals(play.node("tehran"), await play.replica("tehran", room_id))


async def begun(play: Play, asked: Asked) -> asyncio.Task[Answer]:
    """The request, when it waits."""
    request, key = asked
    waiting = asyncio.ensure_future(request)
    listeners = play.server.wakeups.listeners
    while not waiting.done() and not any(each._future for each in listeners.get(key, ())):  # noqa: ASYNC110
        await asyncio.sleep(0)  # nothing tells that somebody else has begun to wait
    return waiting


async def second_device(play: Play, user: User) -> User:
    told = (await play.deployment.login(user)).json
    return User(play.deployment, user.user_id, told["device_id"], told["access_token"])


Way = Callable[[Play, User, str], Awaitable[Asked]]

LOOKS: dict[Way, str] = {
    sync: "homeserver.sync.classic._look",
    sliding: "homeserver.sync.sliding.answering._look",
    events: "homeserver.sync.legacy._behind",
    events_of_a_room: "homeserver.sync.legacy._behind",
}
"""What looks whether there is anything to tell, by the way in which it is asked."""

WAYS = pytest.mark.parametrize("way", LOOKS)


async def log_out(user: User, device: User) -> None:
    gone = await user.asks("POST", CLIENT + "/delete_devices", {"devices": [device.device_id], **proof(user)})
    assert gone.status == 200


@WAYS
@aio
async def test_a_device_that_was_logged_out(play: Play, way: Way) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    lost, kept = await second_device(play, alice), await second_device(play, alice)
    waiting = {device.device_id: await begun(play, await way(play, device, room_id)) for device in (lost, kept)}
    await log_out(alice, lost)
    answer = await waiting[lost.device_id]
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert not waiting[kept.device_id].done()
    await play.send(bob, room_id, "for those who are left")
    assert (await waiting[kept.device_id]).status == 200


@WAYS
@aio
async def test_one_that_is_logged_out_while_something_comes(
    play: Play, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    lost = await second_device(play, alice)
    waiting = await begun(play, await way(play, lost, room_id))
    module, _, name = LOOKS[way].rpartition(".")
    look = getattr(importlib.import_module(module), name)

    async def slow(*args: Any) -> Any:
        found = await look(*args)
        await log_out(alice, lost)
        return found

    monkeypatch.setattr(LOOKS[way], slow)
    await play.send(bob, room_id, "not for whoever has the device now")
    answer = await waiting
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")


@aio
async def test_one_that_is_logged_out_before_it_waits(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    lost = await second_device(play, alice)
    asked = await sync(play, lost, room_id)
    seen = presence.seen

    async def slow(*args: Any) -> None:
        monkeypatch.setattr(presence, "seen", seen)
        await log_out(alice, lost)
        await seen(*args)

    monkeypatch.setattr(presence, "seen", slow)
    waiting = await begun(play, asked)
    assert waiting.done()
    assert (await waiting).errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_an_account_that_was_locked(play: Play) -> None:
    alice, grace = await play.user("alice"), await play.deployment.user("grace", admin=True)
    waiting = await begun(play, await sync(play, alice, ""))
    path = f"/_matrix/client/v1/admin/lock/{quote(alice.user_id)}"
    assert (await grace.asks("PUT", path, {"locked": True})).status == 200
    answer = await waiting
    assert (answer.status, answer.errcode, answer.json["soft_logout"]) == (401, "M_USER_LOCKED", True)


@aio
async def test_a_token_that_was_exchanged_ends_nothing(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    told = (await play.deployment.login(alice, refresh_token=True)).json
    device = User(play.deployment, alice.user_id, told["device_id"], told["access_token"])
    waiting = await begun(play, await sync(play, device, room_id))
    fresh = await play.deployment.asked("POST", CLIENT + "/refresh", {"refresh_token": told["refresh_token"]})
    await second_device(play, alice)  # which has all be looked at that wait
    assert (await alice.asks("GET", CLIENT + "/account/whoami")).status == fresh.status == 200
    assert not waiting.done()
    await play.send(bob, room_id, "still here")
    assert (await waiting).status == 200
