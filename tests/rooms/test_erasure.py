"""Erasure: who joins a room after somebody asked to be forgotten is not shown what they wrote; who was there is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from config.load import policy_from_text
from homeserver.accounts.deactivation import deactivate
from homeserver.residency import isolation
from homeserver.rooms import chores
from tests.deployment import FLOWING, POLICY, User
from tests.residency.test_isolation import all_arrived
from tests.rooms.play import Play, text_of
from tests.support import ON_SQLITE, aio


async def close(play: Play, user: User, *, erase: bool) -> None:
    """Close an account, and have it leave its rooms."""
    await deactivate(play.server, user.user_id, erase=erase)
    await chores.leave_rooms(play.server)
    await play.settle()


async def synced(play: Play, user: User, room_id: str) -> list[str]:
    """The messages that a client which knows nothing is told of."""
    room = (await play.ask(user, "GET", "/sync", filter='{"room":{"timeline":{"limit":50}}}'))["rooms"]["join"][room_id]
    return [text_of(event) for event in room["timeline"]["events"] if event["type"] == "m.room.encrypted"]


async def both(play: Play, user: User, room_id: str) -> list[str]:
    """The messages of a room, which all ways of reading show alike."""
    found = await play.texts(user, room_id)
    assert await synced(play, user, room_id) == found
    return found


@pytest.mark.parametrize("home", ["tehran", "paris"])
@aio
async def test_who_joins_after_an_erasure_is_not_shown_what_was_erased(play: Play, home: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    ward = await play.user("ward", home)
    room_id = await play.room_of(ward, alice, bob)
    await play.send(alice, room_id, "of alice")
    await play.send(bob, room_id, "of bob")
    await play.settle()
    await close(play, alice, erase=True)
    late = [await play.user("carol", "tehran"), await play.user("dora", "paris")]
    for user in late:
        await play.change(ward, room_id, "invite", user_id=user.user_id)
        await play.settle()
        await play.change(user, room_id, "join")
        await play.settle()
    for user in (bob, ward):
        assert await both(play, user, room_id) == ["of alice", "of bob"]
    for user in late:
        assert await both(play, user, room_id) == ["<redacted>", "of bob"]


@ON_SQLITE
@pytest.mark.parametrize("why", ["isolated", "no flow"])
@aio
async def test_an_erasure_waits_until_it_may_cross_the_border(play: Play, why: str) -> None:
    """The copies are there all the while."""
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    ward = await play.user("ward", "paris")
    room_id = await play.room_of(ward, alice, bob)
    await play.send(alice, room_id, "of alice")
    await play.settle()
    if why == "isolated":
        await isolation.declare(play.server, "IR", "")
    else:
        play.server.policy.now = policy_from_text(POLICY, "residency.toml", play.server.name)
    await deactivate(play.server, alice.user_id, erase=True)
    await play.settle()
    if why == "isolated":
        await isolation.release(play.server, "IR")
    else:
        play.server.policy.now = policy_from_text(FLOWING, "residency.toml", play.server.name)
        await play.deployment.clock.advance(2)
    await all_arrived(play)
    late = await play.user("dora", "paris")
    await play.change(ward, room_id, "invite", user_id=late.user_id)
    await play.change(late, room_id, "join")
    assert await both(play, bob, room_id) == ["of alice"]
    assert await both(play, late, room_id) == ["<redacted>"]


@aio
async def test_an_account_that_is_merely_closed_is_not_erased(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol", "paris")
    room_id = await play.room_of(bob, alice)
    await play.send(alice, room_id, "of alice")
    await close(play, alice, erase=False)
    await play.change(bob, room_id, "invite", user_id=carol.user_id)
    await play.settle()
    await play.change(carol, room_id, "join")
    await play.settle()
    assert await both(play, carol, room_id) == ["of alice"]
    await close(play, alice, erase=True)
    assert await both(play, carol, room_id) == ["of alice"], "she had seen it"
    dan = await play.user("dan")
    await play.change(bob, room_id, "invite", user_id=dan.user_id)
    await play.change(dan, room_id, "join")
    assert await both(play, dan, room_id) == ["<redacted>"]


@aio
async def test_a_node_that_comes_late_learns_who_is_erased(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol", "paris")
    room_id = await play.room_of(bob, alice)
    await play.send(alice, room_id, "of alice")
    await close(play, alice, erase=True)
    await play.change(bob, room_id, "invite", user_id=carol.user_id)
    await play.settle()
    await play.change(carol, room_id, "join")
    await play.settle()
    assert await both(play, carol, room_id) == ["<redacted>"]


@aio
async def test_nothing_of_what_was_erased_shows_elsewhere(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    await play.ask(alice, "PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "Alice of the roses"})
    room_id = await play.create(bob, preset="public_chat")
    await play.change(alice, room_id, "join")
    assert "Alice of the roses" in str(await play.timeline(bob, room_id))
    root = await play.send(bob, room_id, "root")
    await play.send(alice, room_id, "reply", relates_to={"rel_type": "m.thread", "event_id": root})
    path = f"/rooms/{quote(room_id)}/event/{quote(root)}"
    assert "m.thread" in (await play.ask(bob, "GET", path))["unsigned"]["m.relations"]
    await close(play, alice, erase=True)
    carol = await play.user("carol")
    await play.change(carol, room_id, "join")
    assert "m.relations" not in (await play.ask(carol, "GET", path))["unsigned"]
    events: list[dict[str, Any]] = await play.timeline(carol, room_id)
    assert "Alice of the roses" not in str(events)
    assert {"join", "leave"} <= {
        event["content"]["membership"] for event in events if event.get("state_key") == alice.user_id
    }
