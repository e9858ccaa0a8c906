"""Sticky events: each member is given them once while they last, and nobody is after that."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.rooms import delayed, housekeeping, replicas
from tests.deployment import Answer, User
from tests.rooms.play import CLIENT, Cast, Play, cast, ciphertext, play, text_of
from tests.support import ON_SQLITE, aio
from tests.sync.sliding import Client, window

__all__ = ["cast", "play"]

DURATION = "org.matrix.msc4354.sticky_duration_ms"
TTL = "msc4354_sticky_duration_ttl_ms"
EXTENSION = "org.matrix.msc4354.sticky_events"
NEWEST_ONLY = '{"room":{"timeline":{"limit":1}}}'


async def asks_sticky(
    user: User, room_id: str, text: str, duration: object = 60_000, *, path: str = "send/m.room.encrypted"
) -> Answer:
    """Ask for an event to be sent that is sticky."""
    target = f"{CLIENT}/rooms/{quote(room_id)}/{path}/{quote(text)}"
    return await user.asks("PUT", target, ciphertext(text), **{DURATION: str(duration)})


async def stick(user: User, room_id: str, text: str, duration: int = 60_000) -> str:
    """Send a message that is sticky."""
    answer = await asks_sticky(user, room_id, text, duration)
    assert answer.status == 200, answer
    return str(answer.json["event_id"])


async def synced(play: Play, user: User, room_id: str, since: str | None = None) -> tuple[list[str], list[str], str]:
    """What `/sync` tells of a room: the texts of the timeline, those of what is sticky beside it, and the token."""
    query = {"filter": NEWEST_ONLY} | ({} if since is None else {"since": since})
    answer = await play.ask(user, "GET", "/sync", **query)
    room = answer.get("rooms", {}).get("join", {}).get(room_id, {})
    parts = [room.get(part, {}).get("events", []) for part in ("timeline", "msc4354_sticky")]
    told, sticky = ([text_of(event) for event in part if event["type"] == "m.room.encrypted"] for part in parts)
    return told, sticky, str(answer["next_batch"])


async def sticky_of(play: Play, user: User, room_id: str) -> list[dict[str, Any]]:
    """What is told to a client that begins beside the timeline of a room."""
    answer = await play.ask(user, "GET", "/sync", filter='{"room":{"timeline":{"limit":0}}}')
    return list(answer["rooms"]["join"][room_id].get("msc4354_sticky", {}).get("events", []))


@aio
async def test_each_is_told_once_whatever_the_limit_of_the_timeline(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    *_, start = await synced(play, bob, room_id)
    first = await stick(alice, room_id, "one")
    await play.send(alice, room_id, "plain")
    assert await synced(play, bob, room_id, start) == (
        ["plain"],
        ["one"],
        (now := (await synced(play, bob, room_id))[2]),
    )
    assert await synced(play, bob, room_id, now) == ([], [], now)
    await stick(alice, room_id, "two")
    assert (await synced(play, bob, room_id, now))[:2] == (["two"], []), "not twice"
    assert (await synced(play, bob, room_id))[:2] == (["two"], ["one"]), "a client that begins"
    assert (await synced(play, bob, room_id, start))[:2] == (["two"], ["one"])
    told = (await sticky_of(play, bob, room_id))[0]
    assert (told["event_id"], told["msc4354_sticky"], told["unsigned"][TTL]) == (first, {"duration_ms": 60_000}, 60_000)


@aio
async def test_nobody_is_told_of_one_that_has_expired_or_is_redacted(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    *_, start = await synced(play, bob, room_id)
    await stick(alice, room_id, "short", 1_000)
    taken_back = await stick(alice, room_id, "redacted")
    await stick(alice, room_id, "long")
    await play.send(alice, room_id, "plain")
    await play.deployment.clock.advance(0.999)
    assert [event["unsigned"][TTL] for event in await sticky_of(play, bob, room_id)] == [1, 59_001, 59_001]
    await play.deployment.clock.advance(0.001)
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(taken_back)}/r1", {})
    for since in (None, start):
        assert (await synced(play, bob, room_id, since))[1] == ["long"]
    [gone] = [event for event in await play.timeline(bob, room_id) if event["event_id"] == taken_back]
    assert "msc4354_sticky" not in gone
    await housekeeping.forget_transactions(play.server)
    assert (await synced(play, bob, room_id))[1] == ["long"]
    await play.deployment.clock.advance(60)
    await housekeeping.forget_transactions(play.server)
    assert await play.node("tehran").read(_count) == 0


async def _count(tx: Any) -> int:
    return int((await tx.one("SELECT COUNT(*) FROM sticky_events"))[0])


@aio
async def test_whoever_joins_later_is_told_on_any_node(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol", "paris")
    room_id = await play.create(alice, preset="public_chat")
    state = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/{state['type']}/", state["content"])
    await stick(alice, room_id, "here")
    for number in range(40):  # more than a replica is given at once
        await play.send(alice, room_id, str(number))
    for each in (bob, carol):
        *_, before = await synced(play, each, room_id)
        await play.change(each, room_id, "join")
        await play.settle()
        told, sticky, now = await synced(play, each, room_id, before)
        if each is carol:  # it comes with the history, which is copied behind what is newest
            assert sticky == []
            await replicas.copy_histories(play.server)
            told, sticky, now = await synced(play, each, room_id, now)
        assert (told, sticky) == ([], ["here"]), each
        assert (await synced(play, each, room_id, now))[1] == []
    assert [text_of(event) for event in await sticky_of(play, carol, room_id)] == ["here"]
    await stick(carol, room_id, "over there")
    await play.settle()
    assert (await synced(play, bob, room_id))[:2] == (["over there"], ["here"])
    await play.change(bob, room_id, "leave")
    answer = await play.ask(bob, "GET", "/sync", filter='{"room":{"include_leave":true}}')
    assert "msc4354_sticky" not in answer["rooms"]["leave"][room_id]


@aio
async def test_one_that_is_sent_later_is_sticky_from_then_on(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    target = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.encrypted/t1"
    headers = {"Authorization": f"Bearer {alice.token}"}
    target += f"?org.matrix.msc4140.delay=5000&{DURATION}=7000"
    body = orjson.dumps(ciphertext("late"))
    response = await play.deployment.site.call("PUT", target, headers=headers, body=body, address="127.0.0.1")
    assert response.status == 200, response
    [waits] = (await alice.asks("GET", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events")).json[
        "delayed_events"
    ]
    assert waits["msc4354_sticky"] == {"duration_ms": 7000}
    await play.deployment.clock.advance(5)
    await delayed.send_due(play.server, play.node("tehran"))
    await play.deployment.clock.advance(2)
    assert [(text_of(event), event["unsigned"][TTL]) for event in await sticky_of(play, alice, room_id)] == [
        ("late", 5000)
    ]


@ON_SQLITE
@aio
async def test_what_may_not_be_sent_may_not_be_sent_sticky(play: Play) -> None:
    alice, bob, mallory = await play.user("alice"), await play.user("bob"), await play.user("mallory")
    room_id = await play.room_of(alice, bob)
    for wrong in ("-1", "3600001", "x", "1.5"):
        assert (await asks_sticky(alice, room_id, "t", wrong)).status == 400, wrong
    clear = await asks_sticky(alice, room_id, "t", path="send/m.room.message")
    assert (clear.status, clear.json["errcode"]) == (403, (await _clear(alice, room_id)).json["errcode"])
    assert (await asks_sticky(mallory, room_id, "t")).status == 403
    assert await sticky_of(play, bob, room_id) == []
    state = await asks_sticky(alice, room_id, "call", path="state/org.matrix.msc3401.call.member")
    assert state.status == 200, state
    assert [event["event_id"] for event in await sticky_of(play, bob, room_id)] == [state.json["event_id"]]
    ignored: dict[str, Any] = {"ignored_users": {alice.user_id: {}}}
    await play.ask(bob, "PUT", f"/user/{quote(bob.user_id)}/account_data/m.ignored_user_list", ignored)
    assert await sticky_of(play, bob, room_id) == []
    versions = (await alice.asks("GET", "/_matrix/client/versions")).json
    assert versions["unstable_features"]["org.matrix.msc4354"] is True


async def _clear(user: User, room_id: str) -> Answer:
    path = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/clear"
    return await user.asks("PUT", path, ciphertext("clear"))


@ON_SQLITE
@aio
async def test_one_sender_does_not_crowd_out_another(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.storage.sticky_events.PER_SENDER", 2)
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    await stick(alice, room_id, "quiet")
    for number in range(4):
        await stick(bob, room_id, str(number))
    assert [text_of(event) for event in await sticky_of(play, alice, room_id)] == ["quiet", "2", "3"]


# sliding sync --------------------------------------------------------------------------------


class Watch(Client):
    """A client of sliding sync that asks for what is sticky, and goes on from where it was told."""

    since: str | None = None
    limit = 100

    async def told(self, wait_ms: int = 0, limit: int = 1, **changed: Any) -> dict[str, list[str]]:
        """What is sticky, texts by room; ``limit`` is that of the timelines."""
        wish = {"enabled": True, "limit": self.limit, **({} if self.since is None else {"since": self.since})}
        body = {"lists": {"all": window(limit=limit)}, "extensions": {EXTENSION: wish}, **changed}
        found = (await self.sync(wait_ms, **body))["extensions"][EXTENSION]
        self.since = found["next_batch"]
        return {room: [text_of(event) for event in of_room["events"]] for room, of_room in found["rooms"].items()}


@aio
async def test_sliding_sync_tells_each_once(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id, other = await play.room_of(alice, bob), await play.room_of(alice, bob)
    await stick(alice, room_id, "before")
    await play.send(alice, room_id, "plain")
    client = Watch(bob)
    assert await client.told() == {room_id: ["before"]}
    assert await client.told() == {}
    await stick(alice, room_id, "shown")
    assert await client.told() == {}, "the timeline has it"
    await stick(alice, room_id, "hidden")
    await play.send(alice, room_id, "plain")
    assert await client.told() == {room_id: ["hidden"]}
    client.limit = 2
    for number in range(3):
        await stick(alice, other, str(number))
    assert await client.told(limit=0) == {other: ["0", "1"]}
    assert await client.told(limit=0) == {other: ["2"]}
    assert await client.told(limit=0) == {}
    client.limit = 100
    again = Watch(bob)  # what a room is begun with is not told of another
    assert await again.told(limit=0, lists={"all": window(0, 0, limit=0)}) == {other: ["0", "1", "2"]}
    assert await again.told(limit=0) == {room_id: ["before", "shown", "hidden"]}
    assert await again.told(limit=0) == {}
    await play.deployment.clock.advance(60)
    assert await Watch(bob).told() == {}


@ON_SQLITE
@aio
async def test_sliding_sync_wakes_for_one_that_no_timeline_tells(play: Play, cast: Cast) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id, other = await play.room_of(alice, bob), await play.room_of(alice, bob)
    client = Watch(bob)
    await client.told()
    await play.send(alice, other, "newer")
    await client.told()
    await stick(alice, room_id, "call")
    found = await client.told(lists={}, room_subscriptions={other: {"timeline_limit": 1, "required_state": []}})
    assert found == {room_id: ["call"]}, "the room is out of sight, and known"
    assert (await client.told(lists={}, room_subscriptions={})) == {}
    for wrong in ({"enabled": True, "limit": 0}, {"enabled": True, "since": "x"}):
        answer = await bob.asks(
            "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", {"extensions": {EXTENSION: wrong}}
        )
        assert answer.status == 400, wrong
