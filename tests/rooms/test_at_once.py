"""Two requests at the same time, of which one must not undo or hide what the other does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.push import unread
from homeserver.storage import receipts
from tests.rooms.play import CLIENT, Play
from tests.support import aio


@pytest.mark.parametrize("home", ["tehran", "paris"])
@aio
async def test_an_alias_for_two_rooms_at_once(play: Play, home: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", home)
    wish = {"room_alias_name": "garden"}
    answers = await asyncio.gather(
        *(user.asks("POST", f"{CLIENT}/createRoom", wish) for user in (alice, bob, alice, bob))
    )
    assert sorted(answer.status for answer in answers) == [200, 400, 400, 400]
    assert {answer.errcode for answer in answers if answer.status == 400} == {"M_ROOM_IN_USE"}
    (made,) = [answer.json["room_id"] for answer in answers if answer.status == 200]
    alias = quote("#garden:example.org")
    assert (await play.ask(alice, "GET", f"/directory/room/{alias}"))["room_id"] == made
    joined = [(await play.ask(user, "GET", "/joined_rooms"))["joined_rooms"] for user in (alice, bob)]
    assert sorted(joined, key=len) == [[], [made]], "nobody is left with a room that they were refused"


@aio
async def test_an_alias_that_failed_can_be_taken(play: Play) -> None:
    alice = await play.user("alice")
    weak = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "rot13"}}
    await play.refused(alice, "POST", "/createRoom", {"room_alias_name": "garden", "initial_state": [weak]})
    await play.create(alice, room_alias_name="garden")


@aio
async def test_reading_on_while_the_unread_are_counted(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    node = play.node("tehran")
    read = node.read
    path = f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}"

    async def overtaken(fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        found = await read(fn, *args, **kwargs)
        if fn is receipts.unread_starts:
            monkeypatch.undo()
            await play.ask(bob, "POST", path, {})
        return found

    monkeypatch.setattr(node, "read", overtaken)
    await play.ask(bob, "GET", "/sync")
    section = (await play.ask(bob, "GET", "/sync"))["rooms"]["join"][room_id]
    assert section["unread_notifications"]["notification_count"] == 0


@aio
async def test_a_count_that_was_overtaken_is_not_kept(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "WORTH_KEEPING", 0)
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    node = play.node("tehran")
    write = node.write
    path = f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}"

    async def overtaken(fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        if fn is receipts.keep_count:
            monkeypatch.undo()
            await play.ask(bob, "POST", path, {})
        return await write(fn, *args, **kwargs)

    monkeypatch.setattr(node, "write", overtaken)
    await play.ask(bob, "GET", "/sync")
    node.memory(unread.Counts).kept.clear()
    section = (await play.ask(bob, "GET", "/sync"))["rooms"]["join"][room_id]
    assert section["unread_notifications"]["notification_count"] == 0
