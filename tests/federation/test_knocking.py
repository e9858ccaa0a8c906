"""Knocking at rooms of other servers."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.deployment import User
from tests.federation.meetings import kept_out, members, membership, told
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

KNOCK = [{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}]


async def knock(play: Play, user: User, room_id: str, via: str) -> None:
    """Knock through a server."""
    await play.ask(user, "POST", f"/knock/{quote(room_id)}", {"reason": "please"}, via=via)


@pytest.mark.parametrize("version", ["7", "11", "12"])
@aio
async def test_a_knock_is_answered_by_an_invitation(network: Network, version: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob", "paris")
    room_id = await a.create(alice, initial_state=KNOCK, name="Hall", room_version=version)
    await knock(b, bob, room_id, "a.test")
    assert await membership(a, alice, room_id, bob) == "knock"
    shown = await told(b, bob, "knock", room_id)
    assert shown is not None
    seen = {event["type"]: event["content"] for event in shown["knock_state"]["events"]}
    assert seen["m.room.name"] == {"name": "Hall"}
    assert seen["m.room.member"] == {"membership": "knock", "reason": "please"}
    await a.change(alice, room_id, "invite", user_id=bob.user_id)
    assert await told(b, bob, "invite", room_id) is not None
    await b.change(bob, room_id, "join")
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@aio
async def test_a_knock_is_taken_back(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, initial_state=KNOCK)
    await knock(b, bob, room_id, "a.test")
    await b.change(bob, room_id, "leave")
    assert await membership(a, alice, room_id, bob) == "leave"
    assert await told(b, bob, "knock", room_id) is None


@aio
async def test_a_knock_is_refused(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, initial_state=KNOCK)
    await knock(b, bob, room_id, "a.test")
    await a.change(alice, room_id, "kick", user_id=bob.user_id)
    await network.settle()
    assert await told(b, bob, "knock", room_id) is None
    assert await told(b, bob, "leave", room_id) is not None


@aio
async def test_who_may_not_knock_is_told_so(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    private = await a.create(alice)
    old = await a.create(alice, room_version="6")
    banned = await a.create(alice, initial_state=KNOCK)
    await a.change(alice, banned, "ban", user_id=bob.user_id)
    for room_id in (private, old, banned):
        assert (await kept_out(bob, room_id, "a.test", "knock")).status == 403
    assert (await kept_out(bob, "!none:a.test", "a.test", "knock")).status == 404
    network.cut("a.test", "b.test")
    assert (await kept_out(bob, private, "a.test", "knock")).status == 502
    assert await told(b, bob, "knock", private) is None
