"""Who may invite a user: by lists of users and servers, on this server and from others."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import User
from tests.network import Network, network
from tests.rooms.play import Play
from tests.support import aio

__all__ = ["network"]

LISTS = "org.matrix.msc4155.invite_permission_config"


async def says(play: Play, user: User, kind: str = LISTS, **content: Any) -> None:
    """Let a user say who may invite them."""
    await play.ask(user, "PUT", f"/user/{quote(user.user_id)}/account_data/{kind}", content)


async def invitations(play: Play, user: User) -> set[str]:
    """The rooms to which a user sees themselves invited."""
    return set((await play.ask(user, "GET", "/sync")).get("rooms", {}).get("invite", {}))


async def invites(play: Play, user: User, guest: User) -> tuple[str, int, str | None]:
    """Let a user invite somebody to a new room: the room, and the answer's status and errcode."""
    room_id = await play.create(user)
    answer = await user.asks("POST", f"/_matrix/client/v3/rooms/{quote(room_id)}/invite", {"user_id": guest.user_id})
    return room_id, answer.status, answer.errcode


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_lists_of_users(play: Play, node: str) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol", node)
    before, *_ = await invites(play, bob, carol)
    await play.settle()
    await says(play, carol, blocked_users=["@bob:*"], ignored_users=[alice.user_id])
    assert (await invites(play, bob, carol))[1:] == (403, "M_INVITE_BLOCKED")
    ignored, status, _ = await invites(play, alice, carol)
    assert status == 200
    await play.settle()
    assert await invitations(play, carol) == set()
    await says(play, carol)
    assert await invitations(play, carol) == {before, ignored}


@aio
async def test_an_exception_from_none(play: Play) -> None:
    alice, bob, carol = [await play.user(name) for name in ("alice", "bob", "carol")]
    await says(play, carol, "m.invite_permission_config", default_action="block", allowed_users=[bob.user_id])
    assert (await invites(play, alice, carol))[1:] == (403, "M_INVITE_BLOCKED")
    room_id, status, _ = await invites(play, bob, carol)
    assert status == 200
    assert await invitations(play, carol) == {room_id}
    await says(play, carol, blocked_servers=["*"])
    assert (await invites(play, bob, carol))[1:] == (403, "M_INVITE_BLOCKED")
    gone = f"/_matrix/client/unstable/org.matrix.msc3391/user/{carol.user_id}/account_data/{LISTS}"
    assert (await carol.asks("DELETE", gone)).status == 200
    assert (await invites(play, bob, carol))[1] == 200


@aio
async def test_lists_of_servers(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    await says(b, bob, blocked_servers=["?.test"], allowed_servers=["b.test"])
    assert (await invites(a, alice, bob))[1:] == (403, "M_INVITE_BLOCKED")
    assert await invitations(b, bob) == set()
    await says(b, bob, ignored_servers=["a.test"])
    unseen, status, _ = await invites(a, alice, bob)
    assert status == 200
    assert await invitations(b, bob) == set()
    await says(b, bob, blocked_servers=["a.test"], allowed_users=[alice.user_id])
    seen, status, _ = await invites(a, alice, bob)
    assert status == 200
    assert await invitations(b, bob) == {unseen, seen}
