"""Replacing a room by one of another version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.versions import VERSIONS
from homeserver.rooms import chores
from homeserver.rooms import upgrade as upgrades
from homeserver.rooms.upgrade import UPGRADED
from homeserver.storage import chores as stored
from tests.deployment import POLICY, User
from tests.rooms.play import CLIENT, Cast, Play
from tests.support import aio


async def content(play: Play, user: User, room_id: str, kind: str, state_key: str = "") -> dict[str, Any]:
    return await play.ask(user, "GET", f"/rooms/{quote(room_id)}/state/{kind}/{quote(state_key)}")


async def put(play: Play, user: User, room_id: str, kind: str, body: dict[str, Any], state_key: str = "") -> None:
    await play.ask(user, "PUT", f"/rooms/{quote(room_id)}/state/{kind}/{quote(state_key)}", body)


async def upgrade(play: Play, user: User, room_id: str, version: str, **more: Any) -> str:
    made = await play.ask(user, "POST", f"/rooms/{quote(room_id)}/upgrade", {"new_version": version, **more})
    return str(made["replacement_room"])


def path(room_id: str) -> str:
    return f"/rooms/{quote(room_id)}/upgrade"


COPIED = {
    "m.room.name": {"name": "Garden"},
    "m.room.topic": {"topic": "roses"},
    "m.room.avatar": {"url": "mxc://example.org/rose"},
    "m.room.server_acl": {"allow": ["*"], "deny": ["evil.test"], "allow_ip_literals": False},
    "m.room.guest_access": {"guest_access": "forbidden"},
    "m.room.history_visibility": {"history_visibility": "joined"},
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 7},
}


@pytest.mark.parametrize(("before", "after"), [("10", "11"), ("11", "12"), ("12", "12"), ("12", "10"), ("1", "12")])
@aio
async def test_the_new_room_is_as_the_old_one_was(play: Play, before: str, after: str) -> None:
    alice, bob, eve = await play.user("alice"), await play.user("bob", "paris"), await play.user("eve", "paris")
    state = [{"type": kind, "state_key": "", "content": body} for kind, body in COPIED.items()]
    room_id = await play.create(
        alice,
        room_version=before,
        invite=[bob.user_id],
        initial_state=state,
        creation_content={"type": "org.example.w"},
    )
    await play.change(bob, room_id, "join")
    await play.change(alice, room_id, "ban", user_id=eve.user_id, reason="thorns")
    await play.settle()
    new = await upgrade(play, alice, room_id, after)
    assert {kind: await content(play, alice, new, kind) for kind in COPIED} == COPIED
    assert await content(play, alice, new, "m.room.join_rules") == {"join_rule": "invite"}
    assert await content(play, alice, new, "m.room.member", eve.user_id) == {"membership": "ban", "reason": "thorns"}
    create = await content(play, alice, new, "m.room.create")
    assert (create["room_version"], create["type"]) == (after, "org.example.w")
    last = create["predecessor"]["event_id"]
    assert create["predecessor"]["room_id"] == room_id
    await play.settle()
    seen = [event for event in await play.timeline(bob, room_id) if event["type"] != "m.room.power_levels"]
    assert seen[-2]["event_id"] == last
    assert seen[-1]["type"] == "m.room.tombstone"
    assert seen[-1]["content"] == {"body": "This room has been replaced", "replacement_room": new}
    assert list((await play.ask(alice, "GET", f"/rooms/{quote(new)}/joined_members"))["joined"]) == [alice.user_id]
    assert (await bob.asks("POST", f"{CLIENT}/rooms/{quote(new)}/join", {})).errcode == "M_FORBIDDEN"
    await play.change(alice, new, "invite", user_id=bob.user_id)
    await play.change(bob, new, "join")
    await play.send(bob, new, "roses")
    assert await play.texts(alice, new) == ["roses"]


@aio
async def test_power_levels(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    events = {"m.room.tombstone": 60, "m.room.name": 90, "m.room.power_levels": 100}
    given = {"users": {bob.user_id: 60, alice.user_id: 100}, "events": events}
    room_id = await play.create(alice, room_version="11", invite=[bob.user_id], power_level_content_override=given)
    await play.change(bob, room_id, "join")
    await put(play, alice, room_id, "m.room.name", {"name": "Garden"})
    before = await content(play, alice, room_id, "m.room.power_levels")
    new = await upgrade(play, bob, room_id, "10")  # bob could not set the name, nor the levels
    assert await content(play, bob, new, "m.room.power_levels") == before
    assert await content(play, bob, new, "m.room.name") == {"name": "Garden"}
    assert (await play.refused(bob, "PUT", f"/rooms/{quote(new)}/state/m.room.name/", {"name": "Bob's"})).status == 403
    assert await content(play, bob, room_id, "m.room.power_levels") == before  # bob may not
    newest = await upgrade(play, alice, room_id, "12", additional_creators=[bob.user_id])
    levels = await content(play, alice, newest, "m.room.power_levels")
    assert levels == {**before, "users": {}, "events": events}
    assert (await content(play, alice, newest, "m.room.create"))["additional_creators"] == [bob.user_id]
    closed = await content(play, alice, room_id, "m.room.power_levels")
    assert closed == {**before, "events_default": 50, "invite": 50}


@aio
async def test_creators_and_levels(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    old = await play.create(alice, room_version="11", preset="trusted_private_chat", invite=[bob.user_id])
    await play.change(bob, old, "join")
    room_id = await upgrade(play, alice, old, "12")
    levels = await content(play, alice, room_id, "m.room.power_levels")
    assert levels["users"] == {bob.user_id: 100}
    assert levels["events"]["m.room.tombstone"] == 150  # for creators only, as the top level was before
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.change(bob, room_id, "join")
    refused = await play.refused(bob, "POST", path(room_id), {"new_version": "12"})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    back = await upgrade(play, alice, room_id, "11", additional_creators=[bob.user_id])
    levels = await content(play, alice, back, "m.room.power_levels")
    assert levels["users"] == {alice.user_id: 150, bob.user_id: 100}
    assert "additional_creators" not in await content(play, alice, back, "m.room.create")


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_aliases_and_the_directory_move(play: Play, node: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", node)
    levels = {"users": {alice.user_id: 100, bob.user_id: 100}}
    room_id = await play.create(
        alice, room_version="11", preset="public_chat", visibility="public", room_alias_name="garden",
        power_level_content_override=levels,
    )  # fmt: skip
    await play.change(bob, room_id, "join")
    await play.ask(alice, "PUT", f"/directory/room/{quote('#roses:example.org')}", {"room_id": room_id})
    names = {"alias": "#garden:example.org", "alt_aliases": ["#roses:example.org"]}
    await put(play, alice, room_id, "m.room.canonical_alias", names)
    await play.settle()
    new = await upgrade(play, bob, room_id, "12")
    for alias in ("#garden:example.org", "#roses:example.org"):
        assert (await play.ask(alice, "GET", f"/directory/room/{quote(alias)}"))["room_id"] == new
    assert await content(play, bob, new, "m.room.canonical_alias") == names
    assert await content(play, bob, room_id, "m.room.canonical_alias") == {}
    listed = (await play.ask(alice, "GET", "/publicRooms"))["chunk"]
    assert [entry["room_id"] for entry in listed] == [new]
    await play.ask(alice, "POST", f"/join/{quote('#garden:example.org')}", {})
    await play.ask(alice, "DELETE", f"/directory/room/{quote('#roses:example.org')}")  # who made it may still


@aio
async def test_who_may_not(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob)
    for user in (bob, carol):
        refused = await play.refused(user, "POST", path(room_id), {"new_version": "12"})
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    unknown = await play.refused(alice, "POST", path(room_id), {"new_version": "99"})
    assert (unknown.status, unknown.errcode) == (400, "M_UNSUPPORTED_ROOM_VERSION")
    nowhere = await play.refused(alice, "POST", path("!nowhere:example.org"), {"new_version": "12"})
    assert (nowhere.status, nowhere.errcode) == (404, "M_NOT_FOUND")
    missing = await play.refused(alice, "POST", path(room_id), {})
    assert (missing.status, missing.errcode) == (400, "M_MISSING_PARAM")
    for creators, errcode in (
        (["bob"], "M_INVALID_PARAM"),
        ("bob", "M_BAD_JSON"),
        (["@nobody:example.org"], "M_NOT_FOUND"),
    ):
        body = {"new_version": "12", "additional_creators": creators}
        assert (await play.refused(alice, "POST", path(room_id), body)).errcode == errcode
    assert (await play.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == [room_id]
    assert not [key for key in (await play.state_of("tehran", room_id)) if key[0] == "m.room.tombstone"]


@aio
async def test_nobody_is_made_a_creator_across_the_border(cast: Cast) -> None:
    play = await cast(policy=POLICY)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice)
    body = {"new_version": "12", "additional_creators": [bob.user_id]}
    refused = await play.refused(alice, "POST", path(room_id), body)
    assert (refused.status, refused.json["org.domicile.reason"]) == (403, "flow_denied")
    assert (await play.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == [room_id]


@aio
async def test_a_repeated_request_finds_the_room(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, room_version="11")
    new = await upgrade(play, alice, room_id, "12")
    assert await upgrade(play, alice, room_id, "12") == new
    assert await upgrade(play, alice, room_id, "11") != new


@aio
async def test_the_new_room_is_encrypted_whatever_the_old_one_was(play: Play) -> None:
    alice = await play.user("alice")
    strict = play.server.settings
    object.__setattr__(play.server, "settings", replace(strict, conformance_mode=True))
    bare = await play.create(alice, room_version="11")
    odd = {
        "type": "m.room.encryption",
        "state_key": "",
        "content": {"algorithm": "none", "rotation_period_ms": 1 << 40},
    }
    weak = await play.create(alice, room_version="11", initial_state=[odd])
    object.__setattr__(play.server, "settings", strict)
    assert (await alice.asks("GET", f"{CLIENT}/rooms/{quote(bare)}/state/m.room.encryption/")).status == 404
    for room_id in (bare, weak):
        new = await upgrade(play, alice, room_id, "12")
        assert await content(play, alice, new, "m.room.encryption") == {"algorithm": "m.megolm.v1.aes-sha2"}
        await play.send(alice, new, "secret")


@pytest.mark.parametrize("way", ["join", "state"])
@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_settings_follow(play: Play, node: str, way: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", node)
    room_id = await play.create(alice, room_version="11", preset="public_chat")
    await play.change(bob, room_id, "join")
    await play.settle()
    me = f"/user/{quote(bob.user_id)}"
    await play.ask(bob, "PUT", f"{me}/rooms/{quote(room_id)}/tags/m.favourite", {"order": 0.5})
    await play.ask(bob, "PUT", f"{me}/account_data/m.direct", {alice.user_id: [room_id], "@x:y": ["!z:y"], "odd": 1})
    await play.ask(bob, "PUT", f"/pushrules/global/room/{quote(room_id)}", {"actions": []})
    condition = {"kind": "event_match", "key": "room_id", "pattern": room_id}
    await play.ask(
        bob, "PUT", f"/pushrules/global/override/{quote(room_id)}", {"actions": [], "conditions": [condition]}
    )
    new = await upgrade(play, alice, room_id, "12")
    if way == "join":
        await play.ask(bob, "POST", f"/join/{quote(new)}", {})
    else:
        await put(play, bob, new, "m.room.member", {"membership": "join"}, bob.user_id)
    tags = await play.ask(bob, "GET", f"{me}/rooms/{quote(new)}/tags")
    assert tags == {"tags": {"m.favourite": {"order": 0.5}}}
    direct = await play.ask(bob, "GET", f"{me}/account_data/m.direct")
    assert direct == {alice.user_id: [room_id, new], "@x:y": ["!z:y"], "odd": 1}
    rules = (await play.ask(bob, "GET", "/pushrules/"))["global"]
    assert [rule["rule_id"] for rule in rules["room"]] == [new, room_id]
    copied = next(rule for rule in rules["override"] if rule["rule_id"] == new)
    assert (copied["conditions"], copied["enabled"]) == ([{**condition, "pattern": new}], True)


@aio
async def test_a_room_that_only_says_so_gets_no_settings(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice, preset="public_chat")
    await play.change(bob, room_id, "join")
    await play.ask(bob, "PUT", f"/user/{quote(bob.user_id)}/rooms/{quote(room_id)}/tags/m.favourite", {})
    claims = await play.create(
        alice, preset="public_chat", creation_content={"predecessor": {"room_id": room_id, "event_id": "$x"}}
    )
    await play.change(bob, claims, "join")
    assert await play.ask(bob, "GET", f"/user/{quote(bob.user_id)}/rooms/{quote(claims)}/tags") == {"tags": {}}


@aio
async def test_a_space_keeps_its_rooms(play: Play) -> None:
    alice = await play.user("alice")
    space = await play.create(alice, room_version="11", creation_content={"type": "m.space"})
    child = await play.create(alice)
    await put(play, alice, space, "m.space.child", {"via": ["example.org"]}, child)
    await put(play, alice, space, "m.space.child", {}, "!gone:example.org")
    new = await upgrade(play, alice, space, "12")
    found: Any = await play.ask(alice, "GET", f"/rooms/{quote(new)}/state")
    children = [event for event in found if event["type"] == "m.space.child"]
    assert [(event["state_key"], event["content"]) for event in children] == [(child, {"via": ["example.org"]})]


# what is left when the new room is there ----------------------------------------------------


class Crash(BaseException):
    """The server is no more."""


async def garden(play: Play, node: str) -> tuple[User, User, str]:
    """A published room of alice's with an alias, and bob, who may replace it and has a tag there."""
    alice, bob = await play.user("alice"), await play.user("bob", node)
    room_id = await play.create(
        alice,
        room_version="11",
        preset="public_chat",
        visibility="public",
        room_alias_name="garden",
        power_level_content_override={"users": {alice.user_id: 100, bob.user_id: 100}},
    )
    await put(play, alice, room_id, "m.room.canonical_alias", {"alias": "#garden:example.org"})
    await play.change(bob, room_id, "join")
    await play.settle()
    await play.ask(bob, "PUT", f"/user/{quote(bob.user_id)}/rooms/{quote(room_id)}/tags/m.favourite", {"order": 0.5})
    return alice, bob, room_id


async def assert_replaced(play: Play, alice: User, bob: User, old: str, new: str) -> None:
    """All is done that belongs to replacing the room, and once."""
    await play.settle()
    assert (await content(play, alice, old, "m.room.tombstone"))["replacement_room"] == new
    assert (await play.ask(alice, "GET", f"/directory/room/{quote('#garden:example.org')}"))["room_id"] == new
    assert await content(play, alice, old, "m.room.canonical_alias") == {}
    assert (await content(play, alice, old, "m.room.power_levels"))["events_default"] == 50
    listed = (await play.ask(alice, "GET", "/publicRooms"))["chunk"]
    assert [entry["room_id"] for entry in listed] == [new]
    tags = await play.ask(bob, "GET", f"/user/{quote(bob.user_id)}/rooms/{quote(new)}/tags")
    assert tags == {"tags": {"m.favourite": {"order": 0.5}}}
    kinds = [event["type"] for event in await play.timeline(alice, old)]
    assert kinds.count("m.room.tombstone") == 1
    assert [await node.read(stored.waiting, UPGRADED, 10) for node in play.server.nodes] == [[], []]


STEPS = ("_say_so", "_move", "_close", "caught_up")


@pytest.mark.parametrize("node", ["tehran", "paris"])
@pytest.mark.parametrize("step", STEPS)
@aio
async def test_what_a_crash_cut_off_is_done_after_a_restart(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, step: str, node: str
) -> None:
    play = await cast()
    alice, bob, old = await garden(play, node)

    async def crashes(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(upgrades, step, crashes)
        with pytest.raises(Crash):
            await upgrades.upgrade(play.server, await bob.caller(), old, VERSIONS["12"])
    await play.end()
    again = await cast()
    (chore,) = await again.node(node).read(stored.waiting, UPGRADED, 10)
    new = orjson.loads(chore.body)["new"]
    await chores.finish_upgrades(again.server)
    alice, bob = (replace(user, deployment=again.deployment) for user in (alice, bob))
    await assert_replaced(again, alice, bob, old, new)
    await chores.finish_upgrades(again.server)
    assert await upgrade(again, bob, old, "12") == new


@pytest.mark.parametrize("step", STEPS)
@aio
async def test_a_step_that_fails_is_tried_again(play: Play, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    alice, bob, old = await garden(play, "paris")

    async def fails(*_: object) -> None:
        raise NodeUnavailable("tehran")

    with monkeypatch.context() as patched:
        patched.setattr(upgrades, step, fails)
        answer = await bob.asks("POST", CLIENT + path(old), {"new_version": "12"})
        assert answer.status == (503 if step == "_say_so" else 200)
        with pytest.raises(NodeUnavailable):
            await chores.finish_upgrades(play.server)
    (chore,) = await play.node("paris").read(stored.waiting, UPGRADED, 10)
    new = orjson.loads(chore.body)["new"]
    if step == "_say_so":
        assert await upgrade(play, bob, old, "12") == new, "a repeated request goes on with what is there"
    else:
        await chores.finish_upgrades(play.server)
    await assert_replaced(play, alice, bob, old, new)


@aio
async def test_who_may_replace_a_room_no_more_does_not_for_ever_try(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, old = await garden(play, "paris")

    async def crashes(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(upgrades, "_say_so", crashes)
        with pytest.raises(Crash):
            await upgrades.upgrade(play.server, await bob.caller(), old, VERSIONS["12"])
    await play.change(bob, old, "leave")
    await play.settle()
    await chores.finish_upgrades(play.server)
    assert await play.node("paris").read(stored.waiting, UPGRADED, 10) == []
    assert (await alice.asks("GET", f"{CLIENT}/rooms/{quote(old)}/state/m.room.tombstone/")).status == 404
