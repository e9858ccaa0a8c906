"""Letters to who is not there, calls that were missed, and what a user can look up."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.push.lines import Followers
from homeserver.storage import accounts
from homeserver.storage.accounts import Threepid
from tests.accounts.post import Post, post
from tests.deployment import SETTINGS, User
from tests.push.stage import Put, Stage
from tests.rooms.play import Play
from tests.support import aio

__all__ = ["post"]

ADDRESS = "alice@mail.example"
LETTERS: dict[str, Any] = {
    "kind": "email",
    "app_id": "m.email",
    "pushkey": ADDRESS,
    "app_display_name": "Letters",
    "device_display_name": ADDRESS,
    "lang": "en",
    "data": {},
}
SET = "/_matrix/client/v3/pushers/set"


async def owning(user: User) -> User:
    """A user who has proved to own an e-mail address."""
    caller = await user.caller()
    await caller.node.write(accounts.add_threepid, caller.user_nid, Threepid("email", ADDRESS, 0, 0))
    return user


@aio
async def test_a_letter_says_how_much_and_nothing_else(put: Put, post: Post) -> None:
    stage = await put(settings=SETTINGS + post.settings)
    alice, bob = await owning(await stage.play.user("alice")), await stage.play.user("bob")
    room, clock, node = await stage.play.room_of(bob, alice), stage.play.deployment.clock, stage.play.node("tehran")
    assert (await alice.asks("POST", SET, LETTERS)).json == {}
    await stage.looked(node)
    await stage.play.send(bob, room, "one")
    last = await stage.play.send(bob, room, "two")
    await stage.looked(node)
    await clock.advance(599.0)
    await stage.quiet(node)
    assert post.letters == []
    await clock.advance(2.0)
    await stage.quiet(node)
    (letter,) = post.letters
    assert letter.recipients == [ADDRESS]
    assert "2 unread messages in 1 room" in letter.text
    assert "2 unread messages in 1 room" in str(letter.message["Subject"])
    assert all(word not in letter.text + str(letter.message) for word in ("bob", room, last))

    await stage.play.send(bob, room, "three")
    await stage.looked(node)
    await clock.advance(11 * 3600.0)
    await stage.quiet(node)
    assert len(post.letters) == 1
    await clock.advance(2 * 3600.0)
    await stage.quiet(node)
    assert len(post.letters) == 2

    await stage.read(alice, room, await stage.play.send(bob, room, "four"))
    await clock.advance(24 * 3600.0)
    await stage.quiet(node)
    assert len(post.letters) == 2


@aio
async def test_a_mail_server_that_refuses_is_asked_again(put: Put, post: Post) -> None:
    stage = await put(settings=SETTINGS + post.settings)
    alice, bob = await owning(await stage.play.user("alice")), await stage.play.user("bob")
    room, clock, node = await stage.play.room_of(bob, alice), stage.play.deployment.clock, stage.play.node("tehran")
    await alice.asks("POST", SET, LETTERS)
    await stage.looked(node)
    post.refusing = True
    await stage.play.send(bob, room, "one")
    await stage.looked(node)
    await clock.advance(601.0)
    await stage.quiet(node)
    (line,) = node.memory(Followers).lines()
    assert (line.failures, post.letters) == (1, [])
    post.refusing = False
    await clock.advance(3.0)
    await stage.quiet(node)
    assert len(post.letters) == 1


@pytest.mark.parametrize(
    "change", [{"pushkey": "bob@mail.example"}, {"app_id": "org.example"}, {"pushkey": "Alice@mail.example"}]
)
@aio
async def test_letters_that_are_not_written(put: Put, post: Post, change: dict[str, str]) -> None:
    stage = await put(settings=SETTINGS + post.settings)
    alice = await owning(await stage.play.user("alice"))
    assert (await alice.asks("POST", SET, {**LETTERS, **change})).errcode == "M_INVALID_PARAM"


@aio
async def test_no_letters_without_a_mail_server(stage: Stage) -> None:
    alice = await owning(await stage.play.user("alice"))
    answer = await alice.asks("POST", SET, LETTERS)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@aio
async def test_calls_that_were_missed_are_counted(put: Put) -> None:
    plain = "conformance_mode = true\n" + SETTINGS
    stage = await put(settings=plain)
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice)
    invite = {"call_id": "1", "party_id": "p", "version": "1", "lifetime": 60000, "offer": {"type": "offer", "sdp": ""}}
    await stage.play.ask(bob, "PUT", f"/rooms/{quote(room)}/send/m.call.invite/c1", invite)
    (told,) = await stage.gateway.hears(1)
    assert told["counts"] == {"unread": 1, "missed_calls": 1}
    assert told["devices"][0]["tweaks"] == {"sound": "ring"}
    assert told["content"] == invite
    answer = {"call_id": "1", "party_id": "q", "version": "1", "answer": {"type": "answer", "sdp": ""}}
    await stage.play.ask(alice, "PUT", f"/rooms/{quote(room)}/send/m.call.answer/c2", answer)
    await stage.looked(stage.play.node("tehran"))
    await stage.play.deployment.clock.advance(2.0)
    assert (await stage.gateway.hears(2))[1]["counts"] == {"unread": 0}
    message = {"msgtype": "m.text", "body": "later"}
    await stage.play.ask(bob, "PUT", f"/rooms/{quote(room)}/send/m.room.message/c3", message)
    assert (await stage.gateway.hears(3))[2]["counts"] == {"unread": 1}


# /notifications -----------------------------------------------------------------------------


async def pages(play: Play, user: User, **query: str) -> list[dict[str, Any]]:
    """All pages of notifications."""
    found: list[dict[str, Any]] = []
    start: dict[str, str] = {}
    while True:
        page = await play.ask(user, "GET", "/notifications", None, **query, **start)
        found += page["notifications"]
        if "next_token" not in page:
            return found
        start = {"from": page["next_token"]}


@aio
async def test_notifications_of_all_rooms_the_newest_first(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    rooms = [await play.room_of(bob, alice) for _ in range(3)]
    sent: list[tuple[str, str]] = []
    for number in range(12):
        room = rooms[number * 7 % 3]
        sent.append((room, await play.send(bob, room, str(number))))
    mine = await play.send(alice, rooms[0], "mine")
    await play.settle()
    await play.ask(alice, "POST", f"/rooms/{quote(sent[4][0])}/receipt/m.read/{quote(sent[4][1])}", {})
    for limit in ("1", "5", "50"):
        found = await pages(play, alice, limit=limit)
        assert [(each["room_id"], each["event"]["event_id"]) for each in found] == sent[::-1]
    assert mine not in [each["event"]["event_id"] for each in found]
    assert {each["event"]["event_id"] for each in found if each["read"]} == {
        event_id for room, event_id in sent[:5] if room == sent[4][0]
    }
    assert all(each["actions"] == ["notify", {"set_tweak": "sound", "value": "default"}] for each in found)
    assert all(each["ts"] == each["event"]["origin_server_ts"] for each in found)
    assert await pages(play, alice, only="highlight") == []
    assert [each["event"]["event_id"] for each in await pages(play, bob)] == [mine]


@aio
async def test_notifications_that_stand_out(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol")
    room = await play.room_of(bob, alice, carol)
    await play.send(bob, room, "one")
    rule = {"conditions": [{"kind": "event_match", "key": "type", "pattern": "m.room.topic"}]}
    actions = {"actions": ["notify", {"set_tweak": "highlight"}]}
    await play.ask(alice, "PUT", "/pushrules/global/override/topics", {**rule, **actions})
    topic = await play.ask(bob, "PUT", f"/rooms/{quote(room)}/state/m.room.topic", {"topic": "Tea"})
    (found,) = await pages(play, alice, only="highlight")
    assert found["event"]["event_id"] == topic["event_id"]
    assert (found["actions"], found["read"]) == (actions["actions"], False)
    assert len(await pages(play, alice)) == 2


@aio
async def test_nothing_from_before_one_came_or_after_one_left(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol")
    room = await play.room_of(bob, carol)
    await play.send(bob, room, "before")
    await play.change(bob, room, "invite", user_id=alice.user_id)
    await play.change(alice, room, "join")
    during = await play.send(bob, room, "during")
    assert [each["event"]["event_id"] for each in await pages(play, alice)] == [during]
    await play.change(alice, room, "leave")
    assert await pages(play, alice) == []


@pytest.mark.parametrize("query", [{"from": "x"}, {"limit": "0"}, {"limit": "x"}, {"only": "those"}])
@aio
async def test_questions_that_are_none(play: Play, query: dict[str, str]) -> None:
    alice = await play.user("alice")
    assert (await alice.asks("GET", "/_matrix/client/v3/notifications", None, **query)).errcode == "M_INVALID_PARAM"
