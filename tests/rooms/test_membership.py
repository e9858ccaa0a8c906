"""Who is in a room, and who brought that about, across nodes."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from homeserver.rooms import replicas
from tests.deployment import User
from tests.rooms.play import Play, ciphertext
from tests.support import aio


async def memberships(play: Play, room_id: str, user: User) -> tuple[str | None, str | None]:
    await play.assert_equal(room_id)
    tehran, paris = await play.replica("tehran", room_id), await play.replica("paris", room_id)
    return tehran.now.membership(user.user_id), paris.now.membership(user.user_id)


@aio
async def test_kicking_and_coming_back(play: Play) -> None:
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.room_of(alice, bob, dora)
    await play.change(alice, room_id, "kick", user_id=bob.user_id, reason="rude")
    assert await memberships(play, room_id, bob) == ("leave", "leave")
    refused = await play.refused(bob, "PUT", f"/rooms/{quote(room_id)}/send/m.room.encrypted/t", ciphertext("?"))
    assert refused.errcode == "M_FORBIDDEN"
    assert (await play.refused(bob, "POST", f"/rooms/{quote(room_id)}/join", {})).errcode == "M_FORBIDDEN"
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.change(bob, room_id, "join")
    assert await memberships(play, room_id, bob) == ("join", "join")
    await play.send(bob, room_id, "back")
    await play.assert_equal(room_id)


@aio
async def test_who_lacks_the_power_removes_nobody(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    for verb in ("kick", "ban"):
        refused = await play.refused(bob, "POST", f"/rooms/{quote(room_id)}/{verb}", {"user_id": alice.user_id})
        assert refused.errcode == "M_FORBIDDEN"
    assert await memberships(play, room_id, alice) == ("join", "join")


@aio
async def test_banning_and_lifting_the_ban(play: Play) -> None:
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.room_of(alice, bob, dora)
    await play.change(alice, room_id, "ban", user_id=bob.user_id)
    assert await memberships(play, room_id, bob) == ("ban", "ban")
    refused = await play.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert refused.errcode == "M_FORBIDDEN"
    await play.change(alice, room_id, "unban", user_id=bob.user_id)
    assert await memberships(play, room_id, bob) == ("leave", "leave")


@aio
async def test_the_last_member_of_a_node_is_removed_and_told(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await play.change(alice, room_id, "kick", user_id=bob.user_id)
    await play.settle()
    room = await play.replica("paris", room_id)
    assert room.now.membership(bob.user_id) == "leave"
    assert room.now.nodes == {"tehran": 1}
    assert (await play.ask(bob, "GET", "/joined_rooms"))["joined_rooms"] == []


@aio
async def test_a_node_that_comes_back_is_given_what_it_missed(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    unwise = await play.send(alice, room_id, "before")
    await play.change(bob, room_id, "leave")
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(unwise)}/r1", {})
    for number in range(40):
        await play.send(alice, room_id, f"without bob {number}")
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "Alone"})
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.change(bob, room_id, "join")
    await play.assert_equal(room_id)
    texts = await play.texts(bob, room_id)
    assert texts == ["<redacted>", *(f"without bob {number}" for number in range(40))]


@aio
async def test_knocking_from_another_node(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = await play.create(alice, initial_state=[rules])
    assert (await play.refused(bob, "POST", f"/rooms/{quote(room_id)}/join", {})).errcode == "M_FORBIDDEN"
    await play.ask(bob, "POST", f"/knock/{quote(room_id)}", {"reason": "please"})
    assert (await play.replica("tehran", room_id)).now.membership(bob.user_id) == "knock"
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    await play.change(bob, room_id, "join")
    assert await memberships(play, room_id, bob) == ("join", "join")


@pytest.mark.parametrize("is_member", [True, False])
@aio
async def test_a_restricted_room_lets_in_the_members_of_another(play: Play, is_member: bool) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    club = await play.room_of(alice, bob) if is_member else await play.create(alice)
    allow = [{"type": "m.room_membership", "room_id": club}]
    rules = {"join_rule": "restricted", "allow": allow}
    state = [{"type": "m.room.join_rules", "state_key": "", "content": rules}]
    room_id = await play.create(alice, initial_state=state)
    if not is_member:
        assert (await play.refused(bob, "POST", f"/rooms/{quote(room_id)}/join", {})).errcode == "M_FORBIDDEN"
        return
    await play.change(bob, room_id, "join")
    assert await memberships(play, room_id, bob) == ("join", "join")


@aio
async def test_joining_late_brings_the_history(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, preset="public_chat")
    texts = [f"{number}" for number in range(70)]
    for text in texts:
        await play.send(alice, room_id, text)
    await play.change(bob, room_id, "join")
    await play.settle()
    assert (await play.texts(bob, room_id))[-5:] == texts[-5:]
    assert len(await play.event_ids("paris", room_id)) < 70
    await replicas.copy_histories(play.server)
    await play.assert_equal(room_id)
    assert await play.texts(bob, room_id) == texts
    await replicas.copy_histories(play.server)
    await play.assert_equal(room_id)
