"""Presence: what others see when, what nobody is woken for, and what a restart keeps."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.context import Caller
from homeserver.rooms import chores, presence, ticks
from homeserver.rooms.presence import GONE, IDLE, OFFLINE, ONLINE, UNAVAILABLE, Presences
from homeserver.storage import presence as stored
from homeserver.storage import rooms as stored_rooms
from homeserver.sync.filters import EventFilter
from tests.deployment import FLOWING, SETTINGS, User
from tests.rooms.play import Cast, Play, told
from tests.support import aio

NO_PRESENCE = FLOWING.replace('classes = ["*"]', 'classes = ["events", "keys"]')


class Watcher:
    """One who asks again and again who has changed."""

    def __init__(self, play: Play, user: User) -> None:
        self.play = play
        self.user = user
        self.seen: int | None = None

    async def news(self) -> dict[str, Any]:
        caller = await self.user.caller()
        await finish_telling(self.play)
        mine = await caller.node.read(stored_rooms.memberships_of, caller.user_nid)
        tick = ticks.now(caller.node)
        found = await presence.events(self.play.server, caller, EventFilter(), mine, self.seen or 0, self.seen is None)
        self.seen = tick
        return {event["sender"]: event["content"] for event in told(found)}


async def finish_telling(play: Play) -> None:
    for node in play.server.nodes:
        for followed in list(node.memory(Presences).followed.values()):
            if followed.task is not None:
                await followed.task


async def poll(play: Play, user: User, state: str = ONLINE) -> Caller:
    caller = await user.caller()
    await presence.seen(play.server, caller, state)
    return caller


def path(user: User) -> str:
    return f"/presence/{quote(user.user_id)}/status"


async def pass_time(play: Play, seconds: float) -> None:
    await play.deployment.clock.advance(seconds)
    await finish_telling(play)


@aio
async def test_who_polls_is_online_until_they_stop(play: Play) -> None:
    alice, bob, eve = await play.user("alice"), await play.user("bob", "paris"), await play.user("eve")
    await play.room_of(alice, bob)
    mine, theirs, strangers = Watcher(play, alice), Watcher(play, bob), Watcher(play, eve)
    for watcher in (mine, theirs, strangers):
        assert await watcher.news() == {}
    await poll(play, alice)
    shown = {"presence": ONLINE, "currently_active": True, "last_active_ago": 0}
    assert await mine.news() == {alice.user_id: shown}
    assert await theirs.news() == {alice.user_id: shown}
    assert await strangers.news() == {}
    assert await theirs.news() == {}
    await pass_time(play, GONE + 1)
    assert (await theirs.news())[alice.user_id]["presence"] == OFFLINE
    assert not play.node("tehran").memory(Presences).followed
    assert await Watcher(play, bob).news() == {}, "who comes anew is not told who is offline"


@aio
async def test_who_waits_for_an_answer_is_there(play: Play) -> None:
    alice = await play.user("alice")
    watcher = Watcher(play, alice)
    caller = await poll(play, alice)
    with play.server.wakeups.listen([("tehran", caller.user_nid)]):
        assert await watcher.news() != {}
        await pass_time(play, 4 * GONE)
        assert await watcher.news() == {}
    await pass_time(play, 2 * GONE)
    assert (await watcher.news())[alice.user_id]["presence"] == OFFLINE


@aio
async def test_who_does_nothing_is_idle_and_comes_back_by_doing_something(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    watcher = Watcher(play, bob)
    for _ in range(int(IDLE // 30) + 2):
        caller = await poll(play, alice)
        await pass_time(play, 30)
    found = (await watcher.news())[alice.user_id]
    assert (found["presence"], found["currently_active"]) == (UNAVAILABLE, False)
    assert found["last_active_ago"] >= IDLE * 1000
    await poll(play, alice)
    assert await watcher.news() == {}, "polling is no activity"
    typing = f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}"
    await play.ask(alice, "PUT", typing, {"typing": False})
    assert await watcher.news() == {}, "nor is having stopped to type"
    await play.ask(alice, "PUT", typing, {"typing": True})
    assert (await watcher.news())[alice.user_id]["presence"] == ONLINE
    presence.active(play.server, caller)
    assert await watcher.news() == {}


@aio
async def test_going_on_polling_costs_and_wakes_nothing(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    await play.room_of(alice, bob)
    await poll(play, alice)
    await poll(play, bob)
    await finish_telling(play)
    node = play.node("tehran")
    caller, other = await alice.caller(), await bob.caller()
    mine = await node.read(stored_rooms.memberships_of, caller.user_nid)
    tick, trips = ticks.now(node), node.engine.trips
    with play.server.wakeups.listen([("tehran", caller.user_nid), ("tehran", other.user_nid)]) as listener:
        for _ in range(5):
            await presence.seen(play.server, caller, ONLINE)
            await presence.seen(play.server, other, ONLINE)
            await play.deployment.clock.advance(20)
            found = await presence.events(play.server, caller, EventFilter(), mine, tick, False)
            assert found == []
        assert await listener.wait(0) == set()
    assert node.engine.trips == trips


@aio
async def test_devices_are_seen_together(play: Play) -> None:
    alice = await play.user("alice")
    login = (await play.deployment.login(alice)).json
    phone = User(play.deployment, alice.user_id, login["device_id"], login["access_token"])
    watcher = Watcher(play, alice)
    await poll(play, alice, UNAVAILABLE)
    assert (await watcher.news())[alice.user_id]["presence"] == UNAVAILABLE
    await poll(play, phone, ONLINE)
    assert (await watcher.news())[alice.user_id]["presence"] == ONLINE
    await play.deployment.clock.advance(GONE - 5)
    await poll(play, alice, UNAVAILABLE)
    await pass_time(play, 10)
    assert (await watcher.news())[alice.user_id]["presence"] == UNAVAILABLE


@aio
async def test_who_polls_as_offline_is_not_seen(play: Play) -> None:
    alice = await play.user("alice")
    caller = await poll(play, alice, OFFLINE)
    presence.active(play.server, caller)
    assert await Watcher(play, alice).news() == {}
    assert (await play.ask(alice, "GET", path(alice)))["presence"] == OFFLINE


@aio
async def test_a_status_is_told_and_kept(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.room_of(alice, bob)
    watcher = Watcher(play, bob)
    assert await watcher.news() == {}
    body = {"presence": ONLINE, "status_msg": "in the garden"}
    assert await play.ask(alice, "PUT", path(alice), body) == {}
    assert (await watcher.news())[alice.user_id]["status_msg"] == "in the garden"
    assert (await play.ask(bob, "GET", path(alice)))["status_msg"] == "in the garden"
    await play.ask(alice, "PUT", path(alice), body)
    assert await watcher.news() == {}
    await pass_time(play, 3 * GONE)
    found = (await watcher.news())[alice.user_id]
    assert (found["presence"], found["status_msg"]) == (OFFLINE, "in the garden")
    play.node("tehran").memory(Presences).shown.clear()  # as after a restart
    found = await play.ask(bob, "GET", path(alice))
    assert (found["presence"], found["status_msg"]) == (OFFLINE, "in the garden")
    await poll(play, alice)
    assert (await watcher.news())[alice.user_id]["status_msg"] == "in the garden"


@aio
async def test_a_user_is_written_down_once_a_minute(play: Play) -> None:
    alice = await play.user("alice")
    caller = await alice.caller()
    kept = []
    for number in range(20):
        await play.ask(alice, "PUT", path(alice), {"presence": ONLINE, "status_msg": f"{number}"})
        await pass_time(play, 6)
        row = await caller.node.read(stored.find, caller.user_nid)
        assert row is not None
        kept.append(row.status_msg)
    assert 2 <= len(set(kept)) <= 3
    await pass_time(play, 120)
    row = await caller.node.read(stored.find, caller.user_nid)
    assert row is not None
    assert (row.presence, row.status_msg) == (OFFLINE, "19")


@aio
async def test_presence_stays_where_no_flow_is_named(cast: Cast) -> None:
    play = await cast(policy=NO_PRESENCE)
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    await play.room_of(alice, bob, carol)
    await poll(play, alice)
    assert alice.user_id in await Watcher(play, carol).news()
    assert await Watcher(play, bob).news() == {}
    refused = await play.refused(bob, "GET", path(alice))
    assert (refused.status, refused.json["org.domicile.reason"]) == (403, "flow_denied")


@aio
async def test_whose_presence_cannot_be_asked_for(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    assert (await play.refused(bob, "GET", path(alice))).errcode == "M_FORBIDDEN"
    assert (await play.refused(bob, "GET", "/presence/%40nobody%3Aexample.org/status")).errcode == "M_NOT_FOUND"
    assert (await play.ask(alice, "GET", path(alice)))["presence"] == OFFLINE


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"presence": "busy"}, "M_INVALID_PARAM"),
        ({"presence": 1}, "M_BAD_JSON"),
        ({"presence": ONLINE, "status_msg": 1}, "M_BAD_JSON"),
        ({"presence": ONLINE, "status_msg": "x" * 1001}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_a_status_that_is_none(play: Play, body: dict[str, Any], errcode: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    assert (await play.refused(alice, "PUT", path(alice), body)).errcode == errcode
    refused = await play.refused(bob, "PUT", path(alice), {"presence": ONLINE})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


@aio
async def test_a_deployment_without_presence(cast: Cast) -> None:
    play = await cast(settings=SETTINGS + "[users]\npresence = false\n")
    alice = await play.user("alice")
    caller = await poll(play, alice)
    presence.active(play.server, caller)
    await play.ask(alice, "PUT", path(alice), {"presence": ONLINE})
    assert await Watcher(play, alice).news() == {}
    assert not caller.node.memory(Presences).followed


# -- those who come later


async def waiting(play: Play, user: User, since: str | None = None) -> tuple[str, dict[str, str]]:
    """What `/sync` says now of who is there; and the next token."""
    query = {"set_presence": OFFLINE, **({} if since is None else {"since": since})}
    answer = await play.ask(user, "GET", "/sync", **query)
    events = answer.get("presence", {}).get("events", [])
    return answer["next_batch"], {event["sender"]: event["content"]["presence"] for event in events}


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_who_comes_later_is_told_who_is_there_and_shown_to_them(play: Play, node: str) -> None:
    alice, dan, bob = await play.user("alice"), await play.user("dan"), await play.user("bob", node)
    room_id = await play.room_of(alice, dan)
    for user in (alice, bob):
        await poll(play, user)
    await finish_telling(play)
    tokens = {}
    for user in (alice, dan, bob):
        tokens[user.user_id], _ = await waiting(play, user)
    for user in (alice, dan, bob):
        tokens[user.user_id], found = await waiting(play, user, tokens[user.user_id])
        assert found == {}
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    for user in (alice, dan):
        tokens[user.user_id], found = await waiting(play, user, tokens[user.user_id])
        assert found == {}, "an invitation is no acquaintance"
    await play.change(bob, room_id, "join")
    await play.settle()
    for user, expected in ((bob, alice), (alice, bob), (dan, bob)):
        tokens[user.user_id], found = await waiting(play, user, tokens[user.user_id])
        assert found == {expected.user_id: ONLINE}, user.user_id
        while found:  # what was copied to the node may be told once more
            tokens[user.user_id], found = await waiting(play, user, tokens[user.user_id])
            assert set(found) <= {expected.user_id}
    await play.ask(bob, "PUT", f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Robert"})
    await chores.spread_profiles(play.server)
    await play.settle()
    for user in (alice, dan):
        _, found = await waiting(play, user, tokens[user.user_id])
        assert found == {}, "a new name is no news of who is there"


@aio
async def test_who_comes_later_is_told_nothing_that_may_not_flow(cast: Cast) -> None:
    play = await cast(policy=NO_PRESENCE)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    for user in (alice, bob):
        await poll(play, user)
    await finish_telling(play)
    tokens = [(await waiting(play, user))[0] for user in (alice, bob)]
    await play.room_of(alice, bob)
    for user, token in zip((alice, bob), tokens, strict=True):
        assert set((await waiting(play, user, token))[1]) <= {user.user_id}
    assert bob.user_id not in play.node("tehran").memory(Presences).shown
