"""The names and topics of rooms are searched, as far as somebody may see them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import User
from tests.rooms.play import CLIENT, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]


async def search(play: Play, user: User, term: str, token: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"search_categories": {"room_events": {"search_term": term, **more}}}
    query = {} if token is None else {"next_batch": token}
    found: dict[str, Any] = (await play.ask(user, "POST", "/search", body, **query))["search_categories"]["room_events"]
    return found


def texts(found: dict[str, Any]) -> list[str]:
    contents = [each["result"]["content"] for each in found["results"]]
    return [content.get("name") or content["topic"] for content in contents]


async def tell(play: Play, user: User, room_id: str, kind: str, **content: Any) -> str:
    path = f"/rooms/{quote(room_id)}/state/{kind}"
    return str((await play.ask(user, "PUT", path, content))["event_id"])


@aio
async def test_words_of_names_and_topics(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await tell(play, alice, room_id, "m.room.name", name="Martian gardens")
    await tell(play, alice, room_id, "m.room.topic", topic="What grows in gardens on Mars, and what does not")
    await play.settle()
    for user in (alice, bob):
        assert texts(await search(play, user, "GARDENS martian")) == ["Martian gardens"]
        assert len(texts(await search(play, user, "garden"))) == 2
        assert texts(await search(play, user, "gardens", keys=["content.topic"]))[0].startswith("What grows")
        assert (await search(play, user, "gardens", keys=["content.body"]))["results"] == []
        for term in ("", "  ?! ", "ardens", "martian nothing"):
            found = await search(play, user, term)
            assert (found["results"], found["count"], found["highlights"]) == ([], 0, []), term
        found = await search(play, user, "mar gardens")
        assert found["highlights"] == ["gardens", "mar"]
        (best, other) = found["results"]
        assert best["rank"] > other["rank"] > 0
        assert best["result"]["room_id"] == room_id


@aio
async def test_the_plain_text_of_a_topic_in_many_forms(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.room_of(alice)
    rich = {"m.text": [{"body": "<b>bold</b>", "mimetype": "text/html"}, {"body": "plainly"}, 5, {"body": 7}]}
    await tell(play, alice, room_id, "m.room.topic", **{"topic": "short", "m.topic": rich})
    assert (await search(play, alice, "plainly"))["count"] == 1
    assert (await search(play, alice, "bold"))["count"] == 0


@aio
async def test_only_what_was_seen(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol")
    room_id = await play.room_of(alice, bob)
    await tell(play, alice, room_id, "m.room.name", name="Before")
    await play.change(bob, room_id, "leave")
    await tell(play, alice, room_id, "m.room.name", name="Before and after")
    assert texts(await search(play, bob, "before")) == ["Before"]
    assert (await search(play, alice, "before"))["count"] == 2
    assert (await search(play, carol, "before"))["count"] == 0
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/forget", {})
    assert (await search(play, bob, "before"))["count"] == 0


@aio
async def test_orders_pages_and_filters(play: Play) -> None:
    alice = await play.user("alice")
    rooms = [await play.room_of(alice) for _ in range(2)]
    for number, name in enumerate(("tea", "tea time", "teapot", "more tea", "the tea room")):
        await tell(play, alice, rooms[number % 2], "m.room.name", name=name)
    recent = await search(play, alice, "tea", order_by="recent")
    assert texts(recent) == ["the tea room", "more tea", "teapot", "tea time", "tea"]
    ranks = [each["rank"] for each in recent["results"]]
    assert max(ranks) == ranks[-1] > min(ranks) > 0
    ranked = texts(await search(play, alice, "tea"))
    assert ranked == ["tea", "more tea", "teapot", "tea time", "the tea room"]
    seen: list[str] = []
    token = None
    for expected in (2, 2, 1):
        found = await search(play, alice, "tea", token, filter={"limit": 2})
        assert (len(found["results"]), found["count"]) == (expected, 5)
        seen += texts(found)
        token = found.get("next_batch")
    assert (seen, token) == (ranked, None)
    found = await search(play, alice, "tea", filter={"rooms": [rooms[1]]})
    assert sorted(texts(found)) == ["more tea", "tea time"]
    assert (await search(play, alice, "tea", filter={"not_types": ["m.room.name"]}))["count"] == 0
    assert (await search(play, alice, "tea", filter={"senders": ["@bob:example.org"]}))["count"] == 0


@aio
async def test_groups_go_on_by_themselves(play: Play) -> None:
    alice = await play.user("alice")
    rooms = [await play.room_of(alice) for _ in range(2)]
    for number in range(6):
        await tell(play, alice, rooms[number % 2], "m.room.name", name=f"tea {number}")
    wish: dict[str, Any] = {
        "order_by": "recent",
        "filter": {"limit": 2},
        "groupings": {"group_by": [{"key": "room_id"}, {"key": "sender"}]},
    }
    found = await search(play, alice, "tea", **wish)
    groups = found["groups"]["room_id"]
    assert {room_id: len(group["results"]) for room_id, group in groups.items()} == dict.fromkeys(rooms, 1)
    assert [groups[room_id]["order"] for room_id in (rooms[1], rooms[0])] == [0, 1]
    assert list(found["groups"]["sender"]) == [alice.user_id]
    onwards = await search(play, alice, "tea", groups[rooms[0]]["next_batch"], **wish)
    assert texts(onwards) == ["tea 2", "tea 0"]
    assert "next_batch" not in onwards
    assert "next_batch" not in onwards["groups"]["room_id"][rooms[0]]


@aio
async def test_what_stands_around_a_result(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    await play.ask(bob, "PUT", f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bobby"})
    room_id = await play.room_of(alice, bob)
    before = [await play.send(bob, room_id, f"before {number}") for number in range(3)]
    await tell(play, alice, room_id, "m.room.name", name="Here")
    after = [await play.send(bob, room_id, f"after {number}") for number in range(3)]
    wish: dict[str, Any] = {
        "event_context": {"before_limit": 2, "after_limit": 1, "include_profile": True},
        "include_state": True,
    }
    found = await search(play, alice, "here", **wish)
    context = found["results"][0]["context"]
    assert [event["event_id"] for event in context["events_before"]] == [before[2], before[1]]
    assert [event["event_id"] for event in context["events_after"]] == [after[0]]
    assert context["profile_info"][bob.user_id] == {"displayname": "Bobby"}
    assert set(context["profile_info"]) == {alice.user_id, bob.user_id}
    history = await play.ask(
        alice, "GET", f"/rooms/{quote(room_id)}/messages", **{"dir": "b", "from": context["start"], "limit": "1"}
    )
    assert history["chunk"][0]["event_id"] == before[0]
    kinds = {event["type"] for event in found["state"][room_id]}
    assert {"m.room.create", "m.room.name", "m.room.member"} <= kinds


@pytest.mark.parametrize(
    ("body", "query", "errcode"),
    [
        ({}, {}, "M_MISSING_PARAM"),
        ({"search_categories": []}, {}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": {}}}, {}, "M_MISSING_PARAM"),
        ({"search_categories": {"room_events": {"search_term": 1}}}, {}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": {"search_term": "a", "keys": ["x"]}}}, {}, "M_INVALID_PARAM"),
        ({"search_categories": {"room_events": {"search_term": "a", "filter": {"limit": "x"}}}}, {}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": {"search_term": "a", "order_by": "size"}}}, {}, "M_INVALID_PARAM"),
        (
            {"search_categories": {"room_events": {"search_term": "a", "event_context": {"before_limit": -1}}}},
            {},
            "M_INVALID_PARAM",
        ),
        ({"search_categories": {"room_events": {"search_term": "a"}}}, {"next_batch": "bm8="}, "M_INVALID_PARAM"),
        ({"search_categories": {"room_events": {"search_term": "a"}}}, {"next_batch": "ü"}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_what_cannot_be_asked(play: Play, body: object, query: dict[str, str], errcode: str) -> None:
    alice = await play.user("alice")
    answer = await alice.asks("POST", CLIENT + "/search", body, **query)
    assert (answer.status, answer.errcode) == (400, errcode)


@aio
async def test_a_search_for_nothing(play: Play) -> None:
    alice = await play.user("alice")
    assert await play.ask(alice, "POST", "/search", {"search_categories": {}}) == {"search_categories": {}}
