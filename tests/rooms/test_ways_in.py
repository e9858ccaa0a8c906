"""Doors that must not be wider than the one beside them: what a member event may say for itself."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.rooms.play import Play
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
