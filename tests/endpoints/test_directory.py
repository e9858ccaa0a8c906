"""Room aliases, and the directory of published rooms."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import POLICY, SETTINGS, Answer, User
from tests.rooms.play import CLIENT, Cast, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]

ALIAS = "#garden:example.org"


def at(alias: str) -> str:
    return f"{CLIENT}/directory/room/{quote(alias)}"


async def point(user: User, room_id: str, alias: str = ALIAS) -> Answer:
    return await user.asks("PUT", at(alias), {"room_id": room_id})


async def aliases_of(user: User, room_id: str) -> Answer:
    return await user.asks("GET", f"{CLIENT}/rooms/{quote(room_id)}/aliases")


# -- aliases


@aio
async def test_an_alias_leads_to_its_room_until_it_is_removed(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice)
    assert (await aliases_of(alice, room_id)).json == {"aliases": []}
    assert (await point(alice, room_id)).json == {}
    assert (await aliases_of(alice, room_id)).json == {"aliases": [ALIAS]}
    for asking in (alice, bob):
        found = await asking.asks("GET", at(ALIAS))
        assert found.json == {"room_id": room_id, "servers": ["example.org"]}
    nobody = await play.deployment.asked("GET", at(ALIAS))
    assert nobody.json["org.domicile.flow"]["to"] == "unknown"  # no token is needed, but a flow to wherever they are
    assert (await alice.asks("DELETE", at(ALIAS))).json == {}
    gone = await bob.asks("GET", at(ALIAS))
    assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")
    assert (await aliases_of(alice, room_id)).json == {"aliases": []}
    again = await alice.asks("DELETE", at(ALIAS))
    assert (again.status, again.errcode) == (404, "M_NOT_FOUND")


@aio
async def test_an_alias_leads_to_one_room_wherever_it_was_made(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id, other = await play.create(alice), await play.create(bob)
    await point(alice, room_id)
    for user, wanted in ((alice, room_id), (bob, other)):
        taken = await point(user, wanted)
        assert (taken.status, taken.errcode) == (409, "M_UNKNOWN")
    assert (await bob.asks("GET", at(ALIAS))).json["room_id"] == room_id
    await alice.asks("DELETE", at(ALIAS))
    assert (await point(bob, other)).status == 200
    assert (await alice.asks("GET", at(ALIAS))).json["room_id"] == other


@pytest.mark.parametrize(
    ("alias", "asked"),
    [
        ("garden:example.org", "M_INVALID_PARAM"),
        ("#garden", "M_INVALID_PARAM"),
        ("!x:example.org", "M_INVALID_PARAM"),
        ("#:example.org", "M_NOT_FOUND"),
        ("#a b:example.org", "M_NOT_FOUND"),
    ],
)
@aio
async def test_what_is_no_alias(play: Play, alias: str, asked: str) -> None:
    alice = await play.user("alice")
    refused = await point(alice, await play.create(alice), alias)
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    assert (await alice.asks("GET", at(alias))).errcode == asked


@aio
async def test_who_may_make_and_remove_an_alias(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob)
    stranger = await point(carol, room_id)
    assert (stranger.status, stranger.errcode) == (403, "M_FORBIDDEN")
    assert (await aliases_of(carol, room_id)).errcode == "M_FORBIDDEN"
    assert (await point(alice, "!nowhere:example.org", "#other:example.org")).errcode == "M_NOT_FOUND"
    assert (await alice.asks("PUT", at("#other:example.org"), {})).errcode == "M_MISSING_PARAM"
    assert (await point(bob, room_id, "#bobs:example.org")).status == 200
    assert (await point(alice, room_id)).status == 200
    assert (await bob.asks("DELETE", at(ALIAS))).errcode == "M_FORBIDDEN"  # neither theirs nor do they have the power
    assert (await alice.asks("DELETE", at("#bobs:example.org"))).status == 200
    admin = await play.deployment.user("operator", admin=True)
    assert (await admin.asks("DELETE", at(ALIAS))).status == 200


@aio
async def test_everybody_sees_the_aliases_of_what_everybody_may_read(play: Play) -> None:
    alice, carol = await play.user("alice"), await play.user("carol")
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    room_id = await play.create(alice, initial_state=[visibility], room_alias_name="garden")
    assert (await aliases_of(carol, room_id)).json == {"aliases": [ALIAS]}


@aio
async def test_an_alias_is_not_told_where_its_room_may_not_go(cast: Cast) -> None:
    play = await cast(policy=POLICY)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.create(alice, room_alias_name="garden")
    refused = await bob.asks("GET", at(ALIAS))
    assert (refused.status, refused.errcode, refused.json["org.domicile.reason"]) == (403, "M_FORBIDDEN", "flow_denied")


# -- the directory

LISTED = f"{CLIENT}/publicRooms"


def listing_of(room_id: str) -> str:
    return f"{CLIENT}/directory/list/room/{quote(room_id)}"


async def names(user: User, **body: Any) -> list[str]:
    found = (await user.asks("POST", LISTED, body)).json
    assert found["total_room_count_estimate"] >= len(found["chunk"])
    return [entry["name"] for entry in found["chunk"]]


@aio
async def test_publishing_a_room_and_taking_it_back(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, name="Garden")
    assert (await play.deployment.asked("GET", listing_of(room_id))).json == {"visibility": "private"}
    assert (await alice.asks("GET", LISTED)).json["chunk"] == []
    for body in ({}, {"visibility": "public"}):  # which is what it means to say nothing
        assert (await alice.asks("PUT", listing_of(room_id), body)).json == {}
        assert (await alice.asks("GET", listing_of(room_id))).json == {"visibility": "public"}
        assert await names(alice) == ["Garden"]
    await alice.asks("PUT", listing_of(room_id), {"visibility": "private"})
    assert (await alice.asks("GET", listing_of(room_id))).json == {"visibility": "private"}
    assert await names(alice) == []


@aio
async def test_who_may_publish_a_room(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    refused = await bob.asks("PUT", listing_of(room_id), {"visibility": "public"})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert (await alice.asks("PUT", listing_of(room_id), {"visibility": "secret"})).errcode == "M_INVALID_PARAM"
    for method in ("GET", "PUT"):
        unknown = await alice.asks(method, listing_of("!nowhere:example.org"), {})
        assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("who", ["nobody", "admins"])
@aio
async def test_the_settings_say_who_may_publish(cast: Cast, who: str) -> None:
    play = await cast(settings=SETTINGS + f'[rooms]\npublish = "{who}"\n')
    alice, admin = await play.user("alice"), await play.deployment.user("operator", admin=True)
    for user, allowed in ((alice, False), (admin, who == "admins")):
        room_id = await play.create(user)
        status = 200 if allowed else 403
        assert (await user.asks("PUT", listing_of(room_id), {"visibility": "public"})).status == status
        assert (await user.asks("PUT", listing_of(room_id), {"visibility": "private"})).status == 200
        assert (await user.asks("POST", CLIENT + "/createRoom", {"visibility": "public"})).status == status


@aio
async def test_what_the_directory_says_of_a_room(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    guests = {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}
    avatar = {"type": "m.room.avatar", "content": {"url": "mxc://example.org/rose"}}
    room_id = await play.create(
        alice,
        visibility="public",
        name="Garden",
        topic="Roses",
        room_alias_name="garden",
        creation_content={"type": "m.space"},
        initial_state=[guests, avatar],
    )
    await play.change(bob, room_id, "join")
    await play.settle()
    for asking in (alice, bob):
        (entry,) = (await asking.asks("GET", LISTED)).json["chunk"]
        assert {name: value for name, value in entry.items() if name not in ("room_version", "encryption")} == {
            "room_id": room_id,
            "name": "Garden",
            "topic": "Roses",
            "canonical_alias": ALIAS,
            "avatar_url": "mxc://example.org/rose",
            "num_joined_members": 2,
            "world_readable": False,
            "guest_can_join": True,
            "join_rule": "public",
            "room_type": "m.space",
        }
    plain = await play.create(alice, visibility="public")
    (entry,) = (await alice.asks("POST", LISTED, {"filter": {"room_types": [None]}})).json["chunk"]
    assert entry["room_id"] == plain
    assert not {"name", "topic", "canonical_alias", "avatar_url", "room_type"} & entry.keys()


@aio
async def test_searching_the_directory(play: Play) -> None:
    alice = await play.user("alice")
    await play.create(alice, visibility="public", name="Garden", topic="Roses", room_alias_name="plants")
    await play.create(alice, visibility="public", name="Attic", creation_content={"type": "m.space"})
    await play.create(alice, visibility="private", name="Garden shed")
    for term in ("gard", "ROSE", "plants"):
        assert await names(alice, filter={"generic_search_term": term}) == ["Garden"]
    assert await names(alice, filter={"generic_search_term": "cellar"}) == []
    assert await names(alice, filter={"room_types": ["m.space"]}) == ["Attic"]
    assert await names(alice, filter={"room_types": [None]}) == ["Garden"]
    assert sorted(await names(alice, filter={"room_types": [None, "m.space"]})) == ["Attic", "Garden"]
    assert sorted(await names(alice, include_all_networks=True)) == ["Attic", "Garden"]
    assert await names(alice, third_party_instance_id="irc") == []


@aio
async def test_the_pages_of_the_directory(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    for name in ("one", "two", "three"):
        await play.create(alice, visibility="public", name=name)
    largest = await play.create(alice, visibility="public", name="largest")
    await play.change(bob, largest, "join")
    seen, since = [], ""
    for number in range(2):
        query = {"limit": "2", **({"since": since} if since else {})}
        page = (await alice.asks("GET", LISTED, **query)).json
        assert page["total_room_count_estimate"] == 4
        assert ("prev_batch" in page, "next_batch" in page) == (number == 1, number == 0)
        seen.append([entry["name"] for entry in page["chunk"]])
        since = page.get("next_batch", "")
    assert seen[0][0] == "largest"
    assert sorted(seen[0] + seen[1]) == ["largest", "one", "three", "two"]
    back = (await alice.asks("POST", LISTED, {"limit": 2, "since": page["prev_batch"]})).json
    assert [entry["name"] for entry in back["chunk"]] == seen[0]


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"limit": "many"}, "M_BAD_JSON"),
        ({"limit": -1}, "M_INVALID_PARAM"),
        ({"since": "yesterday"}, "M_INVALID_PARAM"),
        ({"filter": "garden"}, "M_BAD_JSON"),
        ({"filter": {"room_types": "m.space"}}, "M_BAD_JSON"),
        ({"filter": {"room_types": [5]}}, "M_BAD_JSON"),
        ({"include_all_networks": "yes"}, "M_BAD_JSON"),
        ({"include_all_networks": True, "third_party_instance_id": "irc"}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_questions_to_the_directory_that_are_none(play: Play, body: dict[str, Any], errcode: str) -> None:
    alice = await play.user("alice")
    refused = await alice.asks("POST", LISTED, body)
    assert (refused.status, refused.errcode) == (400, errcode)
    assert (await play.deployment.asked("POST", LISTED, {})).errcode == "M_MISSING_TOKEN"


@aio
async def test_the_directory_shows_what_may_be_told_there(cast: Cast) -> None:
    play = await cast(policy=POLICY)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.create(alice, visibility="public", name="Garden")
    assert await names(alice) == ["Garden"]
    assert await names(bob) == []
    assert (await play.deployment.asked("GET", LISTED)).json["chunk"] == []
