"""Users are found by name or id among those whom the caller may know of."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms import finding
from tests.deployment import User
from tests.rooms.play import CLIENT, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]


async def search(play: Play, user: User, term: str, **more: int) -> dict[str, Any]:
    return await play.ask(user, "POST", "/user_directory/search", {"search_term": term, **more})


async def ids(play: Play, user: User, term: str) -> list[str]:
    return [each["user_id"] for each in (await search(play, user, term))["results"]]


async def call(play: Play, user: User, name: str) -> None:
    await play.ask(user, "PUT", f"/profile/{quote(user.user_id)}/displayname", {"displayname": name})


@aio
async def test_those_who_share_a_room_are_found(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.user("bobby")  # shares none
    await call(play, bob, "Roberta Ångström")
    room_id = await play.room_of(alice, bob)
    await play.settle()
    for term in ("BOB", "@bob:ex", "roberta", "ångst", "ROBERTA Å", "ert", "example.org"):
        assert await ids(play, alice, term) == [bob.user_id], term
    assert (await search(play, alice, "bob"))["results"] == [
        {"user_id": bob.user_id, "display_name": "Roberta Ångström"}
    ]
    for term in ("", "   ", "rob_rta", "rob%", "!", "bobby", "alice", "x" * 300):
        assert await ids(play, alice, term) == [], term
    await play.change(bob, room_id, "leave")
    await play.settle()
    assert await ids(play, alice, "bob") == []


@aio
async def test_the_newest_name_counts_and_a_redacted_one_does_not(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    await call(play, bob, "Old")
    room_id = await play.room_of(alice, bob)
    member = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    await play.ask(bob, "PUT", member, {"membership": "join", "displayname": "New"})
    assert (await ids(play, alice, "old"), await ids(play, alice, "new")) == ([], [bob.user_id])
    event_id = (await play.ask(alice, "GET", member, format="event"))["event_id"]
    await play.ask(bob, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/r1", {})
    await play.settle()
    assert await ids(play, alice, "new") == []
    assert await ids(play, alice, "bob") == [bob.user_id]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("m.room.join_rules", {"join_rule": "public"}),
        ("m.room.history_visibility", {"history_visibility": "world_readable"}),
    ],
)
@aio
async def test_those_in_open_rooms_are_found_as_long_as_these_are_open(
    play: Play, kind: str, content: dict[str, str]
) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(bob)
    assert await ids(play, alice, "bob") == []
    path = f"/rooms/{quote(room_id)}/state/{kind}"
    closed = await play.ask(bob, "GET", path)
    await play.ask(bob, "PUT", path, content)
    assert await ids(play, alice, "bob") == [bob.user_id]
    await play.ask(bob, "PUT", path, closed)
    assert await ids(play, alice, "bob") == []


@aio
async def test_who_fits_best_comes_first(play: Play) -> None:
    alice = await play.user("alice")
    others = [await play.user(name) for name in ("anna", "joanna", "carl", "dora", "annabel")]
    await call(play, others[2], "Maria Anna")
    await call(play, others[3], "Anna")
    await play.room_of(alice, *others)
    await play.settle()
    expected = [others[index].user_id for index in (3, 0, 4, 2, 1)]
    assert await ids(play, alice, "anna") == expected
    answer = await search(play, alice, "anna", limit=2)
    assert [each["user_id"] for each in answer["results"]] == expected[:2]
    assert (answer["limited"], (await search(play, alice, "anna"))["limited"]) == (True, False)
    assert (await search(play, alice, "anna", limit=0))["results"] == []


@aio
async def test_one_user_in_many_rooms_is_found_once_and_ignored_ones_never(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    for _ in range(3):
        await play.room_of(alice, bob)
    assert await ids(play, alice, "bob") == [bob.user_id]
    path = f"/user/{quote(alice.user_id)}/account_data/m.ignored_user_list"
    await play.ask(alice, "PUT", path, {"ignored_users": {bob.user_id: {}}})
    assert await ids(play, alice, "bob") == []


@aio
async def test_a_search_is_bounded(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await play.user("alice")
    others = [await play.user(f"bob{number}") for number in range(4)]
    await play.room_of(alice, *others)
    monkeypatch.setattr(finding, "LOOKED_AT", 3)
    answer = await search(play, alice, "bob")
    assert (len(answer["results"]), answer["limited"]) == (3, True)
    monkeypatch.setattr(finding, "MOST", 2)
    assert len((await search(play, alice, "bob", limit=100))["results"]) == 2


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"search_term": 5}, "M_BAD_JSON"),
        ({"search_term": "a", "limit": "many"}, "M_BAD_JSON"),
        ({"search_term": "a", "limit": -1}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_what_cannot_be_asked(play: Play, body: dict[str, Any], errcode: str) -> None:
    alice = await play.user("alice")
    assert (await alice.asks("POST", CLIENT + "/user_directory/search", body)).errcode == errcode
