"""Events say what the reader was in the room when they happened: ``unsigned.membership``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from tests.deployment import User
from tests.rooms.play import Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]

Told = dict[str, str | None]
"""What is said of events, by their ids."""


def said(events: Iterable[dict[str, Any]]) -> Told:
    return {event["event_id"]: event["unsigned"].get("membership") for event in events}


async def room_of_three(play: Play, node: str) -> tuple[User, User, str, Told]:
    """A room in which bob comes, goes, and comes again; and what he was at each event since he was invited."""
    alice, bob = await play.user("alice"), await play.user("bob", node)
    room_id = await play.create(alice)
    expected: Told = {await play.send(alice, room_id, "before"): "leave"}
    for number, (user, verb, after) in enumerate(
        [(alice, "invite", "invite"), (bob, "join", "join"), (bob, "leave", "leave"), (alice, "invite", "invite")]
    ):
        await play.change(user, room_id, verb, **({"user_id": bob.user_id} if verb == "invite" else {}))
        await play.settle()
        expected[(await play.timeline(alice, room_id))[-1]["event_id"]] = after
        expected[await play.send(alice, room_id, f"while {number}")] = after
    await play.change(bob, room_id, "join")
    await play.settle()
    expected[(await play.timeline(alice, room_id))[-1]["event_id"]] = "join"
    expected[await play.send(bob, room_id, "last")] = "join"
    await play.settle()
    return alice, bob, room_id, expected


async def synced(play: Play, user: User, room_id: str, part: str = "join", **query: str) -> dict[str, Any]:
    wanted = '{"room":{"include_leave":true,"timeline":{"limit":50}}}'
    answer = await play.ask(user, "GET", "/sync", filter=wanted, **query)
    return {**answer["rooms"][part][room_id], "next_batch": answer["next_batch"]}


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_every_way_of_reading_says_it(play: Play, node: str) -> None:
    alice, bob, room_id, expected = await room_of_three(play, node)
    room = f"/rooms/{quote(room_id)}"
    known = said(await play.timeline(bob, room_id))
    assert {event_id: known[event_id] for event_id in expected} == expected
    assert set(known.values()) == {"leave", "invite", "join"}
    at_once = said((await synced(play, bob, room_id))["timeline"]["events"])
    assert at_once == {event_id: known[event_id] for event_id in at_once}
    assert {event_id for event_id, value in expected.items() if value == "join"} <= set(at_once)
    for event_id, value in expected.items():
        event = await play.ask(bob, "GET", f"{room}/event/{quote(event_id)}")
        assert said([event]) == {event_id: value}
    middle = list(expected)[5]
    around = await play.ask(bob, "GET", f"{room}/context/{quote(middle)}", limit="100")
    found = said([around["event"], *around["events_before"], *around["events_after"]])
    assert found == known
    states = said(around["state"])
    assert states == {event_id: known[event_id] for event_id in states}
    lazy = orjson.dumps({"lazy_load_members": True}).decode()
    page = await play.ask(bob, "GET", f"{room}/messages", dir="b", limit="3", filter=lazy)
    assert said(page["state"]) == {event_id: known[event_id] for event_id in said(page["state"])}
    hers = said(await play.timeline(alice, room_id))
    first, *others = hers.values()
    assert (first, set(others)) == ("leave", {"join"})


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_what_comes_live_is_said_of_too(play: Play, node: str) -> None:
    alice, bob, room_id, _ = await room_of_three(play, node)
    since = {user.user_id: (await synced(play, user, room_id))["next_batch"] for user in (alice, bob)}
    sent = [await play.send(user, room_id, "hello") for user in (alice, bob)]
    await play.settle()
    for user in (alice, bob):
        answer = await synced(play, user, room_id, since=since[user.user_id])
        assert said(answer["timeline"]["events"]) == dict.fromkeys(sent, "join")
        own = next(event for event in answer["timeline"]["events"] if event["sender"] == user.user_id)
        assert "transaction_id" in own["unsigned"]
        since[user.user_id] = answer["next_batch"]
    await play.change(alice, room_id, "kick", user_id=bob.user_id)
    await play.settle()
    for user, part, expected in ((alice, "join", "join"), (bob, "leave", "leave")):
        (event,) = (await synced(play, user, room_id, part, since=since[user.user_id]))["timeline"]["events"]
        assert event["unsigned"]["membership"] == expected


@aio
async def test_who_was_never_in_the_room(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol", "paris")
    room_id = await play.create(alice, invite=[bob.user_id, carol.user_id])
    since = (await play.ask(carol, "GET", "/sync"))["next_batch"]
    await play.change(carol, room_id, "leave")
    await play.settle()
    (event,) = (await synced(play, carol, room_id, "leave", since=since))["timeline"]["events"]
    assert event["unsigned"]["membership"] == "leave"
    await play.change(alice, room_id, "ban", user_id=bob.user_id)
    await play.settle()
    (event,) = (await synced(play, bob, room_id, "leave"))["timeline"]["events"]
    assert event["unsigned"]["membership"] == "ban"
