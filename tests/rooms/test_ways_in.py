"""Doors that must not be wider than the one beside them: what a member event may say for itself."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.deployment import FLOWING, POLICY
from tests.rooms.play import CLIENT, Cast, Play
from tests.rooms.test_replicas import THREE
from tests.support import aio


@pytest.mark.parametrize("home", ["tehran", "paris"])
@aio
async def test_nobody_vouches_for_themselves(play: Play, home: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", home)
    club = await play.create(alice)
    rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
    state = [{"type": "m.room.join_rules", "state_key": "", "content": rules}]
    room_id = await play.create(alice, initial_state=state)
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    content = {"membership": "join", "join_authorised_via_users_server": alice.user_id}
    assert (await play.refused(bob, "PUT", path, content)).errcode == "M_FORBIDDEN"
    await play.change(alice, club, "invite", user_id=bob.user_id)
    await play.change(bob, club, "join")
    await play.settle()
    await play.ask(bob, "PUT", path, {"membership": "join", "displayname": "Bob"})
    member = await play.ask(bob, "GET", path)
    assert (member["displayname"], member["join_authorised_via_users_server"]) == ("Bob", alice.user_id)


@pytest.mark.parametrize("may", [True, False])
@aio
async def test_the_profile_of_the_invited_goes_only_where_it_may(cast: Cast, may: bool) -> None:
    closed = 'from = "FR"\nto = ["KZ"]\nclasses = ["*"]'
    assert closed in THREE
    play = await cast(policy=THREE if may else THREE.replace(closed, closed.replace('"*"', '"events", "keys"')))
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol", "almaty")
    await play.ask(bob, "PUT", f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bob"})
    room_id = await play.room_of(alice, carol)
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    member = await play.ask(carol, "GET", f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}")
    assert member.get("displayname") == ("Bob" if may else None)


@pytest.mark.parametrize("policy", [FLOWING, POLICY])
@aio
async def test_aliases_beyond_a_closed_border(cast: Cast, policy: str) -> None:
    play = await cast(policy=policy)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    shown = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    room_id = await play.create(alice, room_alias_name="garden", initial_state=[shown])
    answer = await bob.asks("GET", f"{CLIENT}/rooms/{quote(room_id)}/aliases")
    if policy == FLOWING:
        assert answer.json == {"aliases": ["#garden:example.org"]}
    else:
        assert answer.errcode == "M_FORBIDDEN"
