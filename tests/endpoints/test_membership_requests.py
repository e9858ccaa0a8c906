"""What members ask about each other's membership and their own: what is granted, what is said, what is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import Answer, User
from tests.rooms.play import CLIENT, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]


async def ask(user: User, room_id: str, verb: str, **body: Any) -> Answer:
    return await user.asks("POST", f"{CLIENT}/rooms/{quote(room_id)}/{verb}", body)


async def member(play: Play, reader: User, room_id: str, user: User) -> dict[str, Any]:
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user.user_id)}"
    return await play.ask(reader, "GET", path, format="event")


@pytest.mark.parametrize(
    ("verb", "before", "became"),
    [
        ("invite", None, "invite"),
        ("invite", "invite", "invite"),
        ("kick", "join", "leave"),
        ("kick", "invite", "leave"),
        ("ban", "join", "ban"),
        ("ban", None, "ban"),
        ("unban", "ban", "leave"),
    ],
)
@aio
async def test_what_becomes_of_somebody(play: Play, verb: str, before: str | None, became: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob) if before == "join" else await play.create(alice)
    if before in ("invite", "ban"):
        await play.change(alice, room_id, before, user_id=bob.user_id)
    answer = await ask(alice, room_id, verb, user_id=bob.user_id, reason="weeds")
    assert (answer.status, answer.json) == (200, {})
    event = await member(play, alice, room_id, bob)
    assert (event["sender"], event["content"]["membership"], event["content"]["reason"]) == (
        alice.user_id,
        became,
        "weeds",
    )


@pytest.mark.parametrize(
    ("verb", "before"),
    [("invite", "join"), ("invite", "ban"), ("kick", None), ("kick", "ban"), ("unban", None), ("unban", "join")],
)
@aio
async def test_what_cannot_become_of_somebody(play: Play, verb: str, before: str | None) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob) if before == "join" else await play.create(alice)
    if before == "ban":
        await play.change(alice, room_id, "ban", user_id=bob.user_id)
    answer = await ask(alice, room_id, verb, user_id=bob.user_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize("verb", ["invite", "kick", "ban", "unban"])
@aio
async def test_who_may_and_what_must_be_said(play: Play, verb: str) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob)
    if verb == "unban":
        await play.change(alice, room_id, "ban", user_id=bob.user_id)
    stranger = await ask(carol, room_id, verb, user_id=bob.user_id)
    assert (stranger.status, stranger.errcode) == (403, "M_FORBIDDEN")
    assert (await ask(alice, "!nowhere:example.org", verb, user_id=bob.user_id)).status in (403, 404)
    assert (await ask(alice, room_id, verb)).errcode == "M_MISSING_PARAM"
    assert (await ask(alice, room_id, verb, user_id="bob")).errcode == "M_INVALID_PARAM"
    assert (await ask(alice, room_id, verb, user_id=5)).errcode == "M_BAD_JSON"
    assert (await ask(alice, room_id, verb, user_id=bob.user_id, reason=[])).errcode == "M_BAD_JSON"


@aio
async def test_no_identity_server_is_asked_that_the_operator_has_not_allowed(play: Play) -> None:
    alice = await play.user("alice")
    wish = {"id_server": "id.example.org", "id_access_token": "x", "medium": "email", "address": "bob@example.org"}
    answer = await ask(alice, await play.create(alice), "invite", **wish)
    assert (answer.status, answer.errcode) == (400, "M_SERVER_NOT_TRUSTED")


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_leaving_and_forgetting(play: Play, node: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", node)
    room_id = await play.room_of(alice, bob)
    assert (await play.ask(bob, "GET", "/joined_rooms")) == {"joined_rooms": [room_id]}
    early = await ask(bob, room_id, "forget")
    assert (early.status, early.errcode) == (400, "M_UNKNOWN")
    for _ in range(2):  # who has left already stays so
        left = await ask(bob, room_id, "leave", reason="weeds")
        assert (left.status, left.json) == (200, {})
    await play.settle()
    assert (await member(play, alice, room_id, bob))["content"] == {"membership": "leave", "reason": "weeds"}
    assert (await play.ask(bob, "GET", "/joined_rooms")) == {"joined_rooms": []}
    assert await play.timeline(bob, room_id), "what they saw they may still read"
    forgotten = await ask(bob, room_id, "forget")
    assert (forgotten.status, forgotten.json) == (200, {})
    gone = await bob.asks("GET", f"{CLIENT}/rooms/{quote(room_id)}/messages", dir="b")
    assert (gone.status, gone.errcode) == (403, "M_FORBIDDEN")
    assert (await ask(bob, "!nowhere:example.org", "forget")).status == 404


@pytest.mark.parametrize("by_alias", [True, False])
@aio
async def test_knocking(play: Play, by_alias: bool) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room_id = await play.create(alice, initial_state=[rules], room_alias_name="garden")
    path = f"{CLIENT}/knock/{quote('#garden:example.org' if by_alias else room_id)}?via=example.org"
    answer = await bob.asks("POST", path, {"reason": "please"})
    assert (answer.status, answer.json) == (200, {"room_id": room_id})
    event = await member(play, alice, room_id, bob)
    assert event["content"] == {"membership": "knock", "reason": "please"}
    await play.settle()
    assert room_id in (await play.ask(bob, "GET", "/sync"))["rooms"]["knock"]
    await play.change(alice, room_id, "ban", user_id=carol.user_id)
    banned = await carol.asks("POST", path, {})
    assert (banned.status, banned.errcode) == (403, "M_FORBIDDEN")
    closed = await play.create(alice)
    refused = await bob.asks("POST", f"{CLIENT}/knock/{quote(closed)}", {})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    unknown = await bob.asks("POST", f"{CLIENT}/knock/{quote('#nowhere:example.org')}", {})
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_who_takes_no_invitations(play: Play, node: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", node)
    early, room_id = await play.create(alice, invite=[bob.user_id]), await play.create(alice)
    await play.settle()
    config = f"/user/{quote(bob.user_id)}/account_data/m.invite_permission_config"
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    await play.ask(bob, "PUT", config, {"default_action": "block"})
    for answer in (
        await ask(alice, room_id, "invite", user_id=bob.user_id),
        await alice.asks("PUT", CLIENT + path, {"membership": "invite"}),
        await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]}),
    ):
        assert (answer.status, answer.errcode) == (403, "M_INVITE_BLOCKED")
    assert len((await play.ask(alice, "GET", "/joined_rooms"))["joined_rooms"]) == 2
    assert "rooms" not in await play.ask(bob, "GET", "/sync")
    await play.ask(bob, "PUT", config, {"default_action": "perhaps"})
    assert list((await play.ask(bob, "GET", "/sync"))["rooms"]["invite"]) == [early]
    assert (await ask(alice, room_id, "invite", user_id=bob.user_id)).status == 200
