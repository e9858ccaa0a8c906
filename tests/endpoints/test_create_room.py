"""Every wish that a client may have of a new room."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import SETTINGS, Deployment, User
from tests.rooms.play import CLIENT, Cast, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]

CREATE = CLIENT + "/createRoom"


async def content(play: Play, user: User, room_id: str, kind: str, state_key: str = "") -> dict[str, Any]:
    return await play.ask(user, "GET", f"/rooms/{quote(room_id)}/state/{kind}/{quote(state_key)}")


@pytest.mark.parametrize(
    ("wish", "join_rule", "guests", "invite_level"),
    [
        ({}, "invite", "can_join", 0),
        ({"visibility": "private"}, "invite", "can_join", 0),
        ({"visibility": "public"}, "public", "forbidden", 50),
        ({"preset": "private_chat", "visibility": "public"}, "invite", "can_join", 0),
        ({"preset": "public_chat"}, "public", "forbidden", 50),
        ({"preset": "trusted_private_chat"}, "invite", "can_join", 0),
    ],
)
@aio
async def test_presets(play: Play, wish: dict[str, Any], join_rule: str, guests: str, invite_level: int) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, **wish)
    assert await content(play, alice, room_id, "m.room.join_rules") == {"join_rule": join_rule}
    assert await content(play, alice, room_id, "m.room.history_visibility") == {"history_visibility": "shared"}
    assert await content(play, alice, room_id, "m.room.guest_access") == {"guest_access": guests}
    assert (await content(play, alice, room_id, "m.room.power_levels"))["invite"] == invite_level
    listed = (await alice.asks("GET", CLIENT + "/publicRooms")).json["chunk"]
    assert [entry["room_id"] for entry in listed] == ([room_id] if wish.get("visibility") == "public" else [])


@pytest.mark.parametrize("version", ["3", "10", "11", "12"])
@aio
async def test_whom_a_trusted_room_trusts(play: Play, version: str) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.create(
        alice,
        preset="trusted_private_chat",
        room_version=version,
        invite=[bob.user_id],
        creation_content={"additional_creators": [carol.user_id, bob.user_id]} if version == "12" else {},
    )
    create = await content(play, alice, room_id, "m.room.create")
    levels = await content(play, alice, room_id, "m.room.power_levels")
    assert create["room_version"] == version
    if version == "12":
        assert sorted(create["additional_creators"]) == [bob.user_id, carol.user_id]
        assert levels["users"] == {}
        assert levels["events"]["m.room.tombstone"] > levels["state_default"]
    else:
        assert levels["users"] == {alice.user_id: 100, bob.user_id: 100}
    assert create.get("creator") == (alice.user_id if int(version) < 11 else None)
    assert (await content(play, alice, room_id, "m.room.member", bob.user_id))["membership"] == "invite"


@aio
async def test_the_creator_overwrites_nothing_of_the_servers(play: Play) -> None:
    alice = await play.user("alice")
    wanted = {"creator": "@mallory:example.org", "room_version": "1", "m.federate": False, "type": "m.space"}
    room_id = await play.create(alice, room_version="10", creation_content=wanted)
    create = await content(play, alice, room_id, "m.room.create")
    assert create == {"creator": alice.user_id, "room_version": "10", "m.federate": False, "type": "m.space"}


@aio
async def test_the_version_of_the_settings(cast: Cast) -> None:
    play = await cast(settings=SETTINGS + '[rooms]\ndefault_version = "11"\n')
    alice = await play.user("alice")
    create = await content(play, alice, await play.create(alice), "m.room.create")
    assert create["room_version"] == "11"
    capabilities = (await play.ask(alice, "GET", "/capabilities"))["capabilities"]
    assert capabilities["m.room_versions"]["default"] == "11"


@aio
async def test_names_win_over_the_initial_state_and_that_over_the_preset(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(
        alice,
        preset="public_chat",
        name="Garden",
        topic="Roses",
        initial_state=[
            {"type": "m.room.name", "state_key": "", "content": {"name": "Attic"}},
            {"type": "m.room.topic", "content": {"topic": "Dust"}},
            {"type": "m.room.join_rules", "content": {"join_rule": "knock"}},
            {"type": "org.example.note", "state_key": "one", "content": {"text": "x"}},
        ],
    )
    assert await content(play, alice, room_id, "m.room.name") == {"name": "Garden"}
    topic = await content(play, alice, room_id, "m.room.topic")
    assert topic == {"topic": "Roses", "m.topic": {"m.text": [{"body": "Roses"}]}}
    assert await content(play, alice, room_id, "m.room.join_rules") == {"join_rule": "knock"}
    assert await content(play, alice, room_id, "m.room.guest_access") == {"guest_access": "forbidden"}
    assert await content(play, alice, room_id, "org.example.note", "one") == {"text": "x"}


@aio
async def test_events_come_in_the_order_of_the_specification(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(
        alice,
        name="Garden",
        topic="Roses",
        room_alias_name="garden",
        invite=[bob.user_id],
        initial_state=[{"type": "m.room.avatar", "content": {"url": "mxc://example.org/rose"}}],
    )
    timeline = await play.timeline(alice, room_id)
    assert [event["type"] for event in timeline if event["type"] != "m.room.encryption"] == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.canonical_alias",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.avatar",
        "m.room.name",
        "m.room.topic",
        "m.room.member",
    ]
    assert (timeline[-1]["state_key"], timeline[-1]["content"]["membership"]) == (bob.user_id, "invite")
    assert await content(play, alice, room_id, "m.room.canonical_alias") == {"alias": "#garden:example.org"}
    found = await play.ask(alice, "GET", f"/directory/room/{quote('#garden:example.org')}")
    assert found["room_id"] == room_id


@aio
async def test_invitations_to_a_direct_chat_say_so(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    for direct in (True, False):
        invited = [bob.user_id, carol.user_id, bob.user_id]
        room_id = await play.create(alice, is_direct=direct, invite=invited)
        for user in (bob, carol):
            member = await content(play, alice, room_id, "m.room.member", user.user_id)
            assert (member["membership"], member.get("is_direct", False)) == ("invite", direct)
        assert "is_direct" not in await content(play, alice, room_id, "m.room.member", alice.user_id)


@aio
async def test_power_levels_are_laid_over_the_usual_ones(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(
        alice, power_level_content_override={"events_default": 7, "events": {"m.room.name": 33}}
    )
    levels = await content(play, alice, room_id, "m.room.power_levels")
    assert (levels["events_default"], levels["events"], levels["ban"]) == (7, {"m.room.name": 33}, 50)


@pytest.mark.parametrize(
    ("wish", "errcode"),
    [
        ({"room_version": "org.example.none"}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": 12}, "M_BAD_JSON"),
        ({"visibility": "secret"}, "M_INVALID_PARAM"),
        ({"preset": "loud_chat"}, "M_INVALID_PARAM"),
        ({"room_alias_name": "a:b"}, "M_INVALID_PARAM"),
        ({"name": 5}, "M_BAD_JSON"),
        ({"invite": "@bob:example.org"}, "M_BAD_JSON"),
        ({"invite": ["bob"]}, "M_INVALID_PARAM"),
        ({"invite": ["@nobody:example.org"]}, "M_NOT_FOUND"),
        ({"is_direct": "yes"}, "M_BAD_JSON"),
        ({"creation_content": []}, "M_BAD_JSON"),
        ({"initial_state": {}}, "M_BAD_JSON"),
        ({"initial_state": [{"content": {}}]}, "M_MISSING_PARAM"),
        ({"initial_state": [{"type": "m.room.topic"}]}, "M_MISSING_PARAM"),
        ({"initial_state": [{"type": "m.room.create", "content": {}}]}, "M_INVALID_PARAM"),
        ({"power_level_content_override": {"users": {"@alice:example.org": 100}}}, "M_INVALID_ROOM_STATE"),
        (
            {
                "room_version": "11",
                "name": "Garden",
                "power_level_content_override": {"users": {"@alice:example.org": 1}},
            },
            "M_INVALID_ROOM_STATE",
        ),
    ],
)
@aio
async def test_wishes_that_are_refused(play: Play, wish: dict[str, Any], errcode: str) -> None:
    alice = await play.user("alice")
    refused = await alice.asks("POST", CREATE, {"room_alias_name": "garden", **wish})
    assert (refused.status, refused.errcode) == (404 if errcode == "M_NOT_FOUND" else 400, errcode)
    assert (await play.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == []
    assert await play.create(alice, room_alias_name="garden"), "the alias is still to be had"


@aio
async def test_an_alias_that_is_taken(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.create(alice, room_alias_name="garden")
    for user in (alice, bob):
        refused = await user.asks("POST", CREATE, {"room_alias_name": "garden"})
        assert (refused.status, refused.errcode) == (400, "M_ROOM_IN_USE")
    assert (await play.ask(bob, "GET", "/joined_rooms"))["joined_rooms"] == []


@aio
async def test_a_room_that_is_refused_leaves_nothing_behind(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    wishes: list[dict[str, Any]] = [
        {"initial_state": [{"type": "m.room.encryption", "content": {"algorithm": "none"}}]},
        {"power_level_content_override": {"users": {"@nobody": 100}}},
        {"initial_state": [{"type": "m.room.name", "content": {"name": "x" * 70_000}}]},
    ]
    for wish in wishes:
        answer = await alice.asks("POST", "/_matrix/client/v3/createRoom", {"room_alias_name": "hall", **wish})
        assert 400 <= answer.status < 500, answer
    node = deployment.node("tehran")
    assert await node.read(_count, "rooms") == 0
    assert await deployment.server.nodes.directory.engine.read(_count, "routes WHERE kind = 'room'") == 0


async def _count(tx: Any, what: str) -> int:
    return int((await tx.one(f"SELECT COUNT(*) FROM {what}"))[0])
