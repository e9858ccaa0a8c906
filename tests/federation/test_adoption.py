"""Writing a room of other servers: in pieces that nobody sees until it is whole, and once more after a crash."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.errors import CommitUnknown, NodeUnavailable
from homeserver.rooms import adoption, state
from tests.deployment import User
from tests.federation.meetings import enter, kept_out, members, membership
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio


async def _hall(network: Network) -> tuple[Play, Play, User, User, str]:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat", name="Hall")
    for number in range(3):
        await a.change(await a.user(f"u{number}"), room_id, "join")
    return a, b, alice, bob, room_id


@pytest.mark.parametrize("written", [0, 1, 2, 3])
@aio
async def test_a_room_that_was_written_in_part_is_written_anew(
    network: Network, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    monkeypatch.setattr(adoption, "CHUNK", 3)
    write, done = adoption._write_part, 0

    async def killed(*args: Any) -> None:
        nonlocal done
        if done == written:
            raise NodeUnavailable("tehran")
        done += 1
        await write(*args)

    monkeypatch.setattr(adoption, "_write_part", killed)
    assert (await kept_out(bob, room_id, "a.test")).status == 503
    assert await state.find(b.node("tehran"), room_id) is None
    assert await membership(a, alice, room_id, bob) == "leave"
    assert (await b.ask(bob, "GET", "/joined_rooms")) == {"joined_rooms": []}
    assert (await b.refused(bob, "GET", f"/rooms/{quote(room_id)}/state")).status == 403
    monkeypatch.setattr(adoption, "_write_part", write)
    await enter(b, bob, room_id, "a.test")
    assert await a.state_of("tehran", room_id) == await b.state_of("tehran", room_id)


@aio
async def test_a_room_that_was_not_opened_is_entered_by_somebody_else(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    carol = await b.user("carol", "paris")
    opened = adoption._open

    async def killed(*args: Any) -> None:
        raise CommitUnknown("tehran")

    monkeypatch.setattr(adoption, "_open", killed)
    assert (await kept_out(bob, room_id, "a.test")).status == 503
    monkeypatch.setattr(adoption, "_open", opened)
    await enter(b, carol, room_id, "a.test")
    await network.settle()
    assert await b.server.nodes.of_room(room_id) is b.node("paris")
    assert bob.user_id in await members(b, carol, room_id), "the other servers have let him in"
    await b.change(bob, room_id, "join")
    await b.settle()
    assert await b.state_of("tehran", room_id) == await b.state_of("paris", room_id)
    await network.settle()
    assert await a.state_of("tehran", room_id) == await b.state_of("paris", room_id)
    assert await members(b, bob, room_id) == await members(a, alice, room_id)


@aio
async def test_users_who_join_at_once_enter_one_room(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    others = [await b.user("carol", "paris"), await b.user("dave"), await b.user("erin", "paris")]
    await asyncio.gather(*(enter(b, user, room_id, "a.test") for user in (bob, *others)))
    asked = [each for each in network.exchanges if each.source == "b.test" and "send_join" in each.target]
    assert len(asked) == 1, "the others found the room here"
    await network.settle()
    assert await a.state_of("tehran", room_id) == await b.state_of("tehran", room_id)
    assert await b.state_of("tehran", room_id) == await b.state_of("paris", room_id)
    assert {bob.user_id, *(user.user_id for user in others)} < await members(a, alice, room_id)
