"""Joining, by id and by alias."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.deployment import POLICY, User
from tests.rooms.play import CLIENT, Cast, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]


def ways(room_id: str, alias: str) -> list[str]:
    return [
        f"{CLIENT}/rooms/{quote(room_id)}/join",
        f"{CLIENT}/join/{quote(room_id)}",
        f"{CLIENT}/join/{quote(alias)}?via=example.org&via=elsewhere.org",
        f"/_matrix/client/r0/join/{quote(alias)}?server_name=example.org",
    ]


async def member(play: Play, user: User, room_id: str) -> dict[str, object]:
    return await play.ask(user, "GET", f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user.user_id)}")


@pytest.mark.parametrize("way", range(4))
@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_every_way_into_a_room(play: Play, way: int, node: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", node)
    await play.ask(bob, "PUT", f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bob"})
    room_id = await play.create(alice, preset="public_chat", room_alias_name="garden")
    path = ways(room_id, "#garden:example.org")[way]
    joined = await bob.asks("POST", path, {"reason": "roses"})
    assert (joined.status, joined.json) == (200, {"room_id": room_id})
    assert await member(play, bob, room_id) == {"membership": "join", "displayname": "Bob", "reason": "roses"}
    assert room_id in (await play.ask(bob, "GET", "/sync"))["rooms"]["join"]
    again = await bob.asks("POST", path)  # without a body, as old clients have it
    assert (again.status, again.json) == (200, {"room_id": room_id})
    assert (await member(play, bob, room_id))["reason"] == "roses"


@pytest.mark.parametrize("way", range(4))
@aio
async def test_who_is_not_let_in(play: Play, way: int) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.create(alice, room_alias_name="garden")
    path = ways(room_id, "#garden:example.org")[way]
    await play.change(alice, room_id, "ban", user_id=carol.user_id)
    for user in (bob, carol):
        refused = await user.asks("POST", path, {})
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    assert (await bob.asks("POST", path, {})).status == 200
    assert (await bob.asks("POST", path, {"reason": 5})).errcode == "M_BAD_JSON"


@aio
async def test_rooms_that_there_are_not(play: Play) -> None:
    alice = await play.user("alice")
    for path in ways("!nowhere:example.org", "#nowhere:example.org"):
        unknown = await alice.asks("POST", path, {})
        assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    neither = await alice.asks("POST", f"{CLIENT}/join/garden", {})
    assert (neither.status, neither.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("way", range(4))
@aio
async def test_no_way_leads_around_the_border(cast: Cast, way: int) -> None:
    play = await cast(policy=POLICY)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, preset="public_chat", room_alias_name="garden")
    refused = await bob.asks("POST", ways(room_id, "#garden:example.org")[way], {})
    assert (refused.status, refused.json["org.domicile.reason"]) == (403, "flow_denied")
