"""Following threads: by hand, automatically, and no more."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.accounts import deactivation
from homeserver.storage import thread_subscriptions as stored
from tests.deployment import Answer, User
from tests.rooms.play import Play, cast, play
from tests.support import aio
from tests.sync.sliding import Client, ask

__all__ = ["cast", "play"]

CHANGES = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"


async def asks(user: User, method: str, room_id: str, root: str, body: object = None) -> Answer:
    """Ask about, follow, or stop following a thread."""
    path = f"/_matrix/client/unstable/io.element.msc4306/rooms/{quote(room_id)}/thread/{quote(root)}/subscription"
    return await user.asks(method, path, body)


async def follow(user: User, room_id: str, root: str, cause: str | None = None) -> Answer:
    """Follow a thread."""
    return await asks(user, "PUT", room_id, root, {} if cause is None else {"automatic": cause})


async def follows(user: User, room_id: str, root: str) -> bool | None:
    """Whether they follow it automatically; None: not at all."""
    answer = await asks(user, "GET", room_id, root)
    if answer.status == 404:
        assert answer.errcode == "M_NOT_FOUND"
        return None
    assert answer.status == 200
    return bool(answer.json["automatic"])


async def reply(play: Play, user: User, room_id: str, root: str) -> str:
    """Send something into a thread."""
    return await play.send(user, room_id, "reply", relates_to={"rel_type": "m.thread", "event_id": root})


@aio
async def test_by_hand_outranks_automatic(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    root = await play.send(alice, room_id, "root")
    cause = await reply(play, alice, room_id, root)
    await play.settle()
    assert await follows(bob, room_id, root) is None
    assert (await follow(bob, room_id, root, cause)).json == {}
    assert await follows(bob, room_id, root) is True
    assert (await follow(bob, room_id, root)).status == 200
    assert await follows(bob, room_id, root) is False
    assert (await follow(bob, room_id, root, cause)).status == 200
    assert await follows(bob, room_id, root) is False
    assert await follows(alice, room_id, root) is None


@aio
async def test_who_stopped_is_not_made_to_follow_by_the_past(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    root = await play.send(alice, room_id, "root")
    before = await reply(play, alice, room_id, root)
    assert (await follow(alice, room_id, root, before)).status == 200
    for _ in range(2):
        assert (await asks(alice, "DELETE", room_id, root)).json == {}
    assert await follows(alice, room_id, root) is None
    refused = await follow(alice, room_id, root, before)
    assert (refused.status, refused.errcode) == (409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
    after = await reply(play, alice, room_id, root)
    assert (await follow(alice, room_id, root, after)).status == 200
    assert await follows(alice, room_id, root) is True
    await asks(alice, "DELETE", room_id, root)
    between = await reply(play, alice, room_id, root)
    await asks(alice, "DELETE", room_id, root)
    assert (await follow(alice, room_id, root, between)).status == 409, "they have said it again since"
    assert (await follow(alice, room_id, root)).status == 200
    assert await follows(alice, room_id, root) is False


@aio
async def test_what_is_refused(play: Play) -> None:
    alice, eve = await play.user("alice"), await play.user("eve")
    room_id = await play.create(alice)
    root, other = await play.send(alice, room_id, "root"), await play.send(alice, room_id, "other")
    elsewhere = await reply(play, alice, room_id, other)
    for cause in (root, other, elsewhere):
        refused = await follow(alice, room_id, root, cause)
        assert (refused.status, refused.errcode) == (400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
    assert (await follow(alice, room_id, root, "$none")).status == 404
    for method, body in (("PUT", {}), ("DELETE", None)):
        assert (await asks(alice, method, room_id, "$none", body)).status == 404
    for method, body in (("PUT", {}), ("DELETE", None), ("GET", None)):
        assert (await asks(eve, method, room_id, root, body)).status == 403
    wrong: tuple[object, ...] = ({"automatic": 1}, {"automatic": True}, [])
    for bad in wrong:
        assert (await asks(alice, "PUT", room_id, root, bad)).status == 400
    assert await follows(alice, room_id, root) is None
    for query in ({"dir": "f"}, {"from": "x"}, {"to": "-1"}, {"limit": "0"}):
        assert (await alice.asks("GET", CHANGES, **query)).status == 400


@aio
async def test_pages_of_what_was_said(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id, second = await play.create(alice), await play.create(alice)
    roots = [await play.send(alice, room, str(number)) for number, room in enumerate([room_id] * 3 + [second])]
    for root in roots[:3]:
        await follow(alice, room_id, root)
    await follow(alice, second, roots[3], await reply(play, alice, second, roots[3]))
    await asks(alice, "DELETE", room_id, roots[0])
    seen: list[tuple[str, str]] = []
    stamps: list[int] = []
    query: dict[str, str] = {"dir": "b", "limit": "2"}
    while True:
        page = (await alice.asks("GET", CHANGES, **query)).json
        part: list[tuple[int, str, str]] = []
        for kind in ("subscribed", "unsubscribed"):
            for room, threads in page[kind].items():
                part += [(said["bump_stamp"], kind, root) for root, said in threads.items()]
                assert all(room == (second if root == roots[3] else room_id) for root in threads)
        seen += [(kind, root) for _, kind, root in sorted(part, reverse=True)]
        stamps += sorted((stamp for stamp, _, _ in part), reverse=True)
        if "end" not in page:
            break
        query["from"] = page["end"]
    assert seen == [("unsubscribed", roots[0]), *(("subscribed", roots[number]) for number in (3, 2, 1))]
    assert stamps == sorted(stamps, reverse=True)
    since: dict[str, Any] = (await alice.asks("GET", CHANGES, to=str(stamps[1]))).json
    assert since == {"subscribed": {}, "unsubscribed": {room_id: {roots[0]: {"bump_stamp": stamps[0]}}}}
    assert (await alice.asks("GET", CHANGES)).json["subscribed"][second] == {
        roots[3]: {"bump_stamp": stamps[1], "automatic": True}
    }
    assert (await bob.asks("GET", CHANGES)).json == {"subscribed": {}, "unsubscribed": {}}


@aio
async def test_it_goes_with_the_account(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await follow(alice, room_id, await play.send(alice, room_id, "root"))
    caller = await alice.caller()
    assert len(await caller.node.read(stored.changes, caller.user_nid, 0, 2**62, 10)) == 1
    await deactivation.deactivate(play.server, alice.user_id)
    assert await caller.node.read(stored.changes, caller.user_nid, 0, 2**62, 10) == []


# what follows from it ------------------------------------------------------------------------


async def unread(user: User, room_id: str) -> int:
    """The unread notifications of a room."""
    sync = (await user.asks("GET", "/_matrix/client/v3/sync")).json
    return int(sync["rooms"]["join"][room_id]["unread_notifications"]["notification_count"])


@aio
async def test_who_follows_threads_is_notified_of_those(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol", "paris")
    room_id = await play.room_of(alice, bob, carol)
    first, second = await play.send(alice, room_id, "first"), await play.send(alice, room_id, "second")
    await reply(play, bob, room_id, first)
    assert await unread(alice, room_id) == 1, "who follows nothing is notified of every thread"
    await follow(alice, room_id, first)
    rules = (await alice.asks("GET", "/_matrix/client/v3/pushrules/global/")).json["postcontent"]
    assert [rule["enabled"] for rule in rules] == [True, True]
    await reply(play, bob, room_id, second)
    assert await unread(alice, room_id) == 1
    await reply(play, bob, room_id, first)
    assert await unread(alice, room_id) == 2
    await asks(alice, "DELETE", room_id, first)
    await reply(play, bob, room_id, first)
    assert await unread(alice, room_id) == 2
    await follow(alice, room_id, second)
    await reply(play, bob, room_id, second)
    await play.send(bob, room_id, "main")
    assert await unread(alice, room_id) == 4
    found = await play.ask(alice, "GET", "/notifications")
    assert found["notifications"][1]["actions"] == ["notify", {"set_tweak": "sound", "value": "default"}]
    await play.settle()
    assert await unread(carol, room_id) == 8, "nobody else is concerned"


@aio
async def test_the_rules_are_there_to_be_changed_and_not_to_be_added_to(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    kind = "/_matrix/client/v3/pushrules/global/postcontent"
    rule = f"{kind}/.io.element.msc4306.rule.unsubscribed_thread"
    assert (await alice.asks("GET", f"{rule}/enabled")).json == {"enabled": False}
    assert (await alice.asks("PUT", f"{kind}/mine", {"actions": ["notify"]})).status == 400
    assert (await alice.asks("DELETE", rule)).status == 400
    assert (await alice.asks("PUT", f"{rule}/enabled", {"enabled": False})).status == 200
    await follow(alice, room_id, await play.send(alice, room_id, "root"))
    assert (await alice.asks("GET", f"{rule}/enabled")).json == {"enabled": False}, "said by hand"


# sliding sync --------------------------------------------------------------------------------

EXTENSION = "io.element.msc4308.thread_subscriptions"


async def told(client: Client, **changed: Any) -> Any:
    """What an answer says of threads; None: nothing."""
    return (await client.sync(**changed))["extensions"].get(EXTENSION)


@pytest.mark.parametrize("stable", [False, True])
@aio
async def test_sliding_sync_tells_of_them(play: Play, stable: bool) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    roots = [await play.send(alice, room_id, str(number)) for number in range(4)]
    client = Client(alice, {"extensions": {EXTENSION: {"enabled": True, "limit": 2}}}, stable=stable)
    assert await told(client) is None
    for root in roots[:3]:
        await follow(alice, room_id, root)
    before = client.pos
    found = await told(client)
    assert set(found["subscribed"][room_id]) == set(roots[1:3])
    assert (found["unsubscribed"], found["subscribed"][room_id][roots[1]]["automatic"]) == ({}, False)
    rest = (await alice.asks("GET", CHANGES, **{"from": found["prev_batch"], "to": str(before)})).json
    assert list(rest["subscribed"][room_id]) == [roots[0]]
    assert await told(client) is None
    waiting = await client.waits()
    await asks(alice, "DELETE", room_id, roots[1])
    found = (await waiting)["extensions"][EXTENSION]
    assert list(found) == ["subscribed", "unsubscribed"]
    assert list(found["unsubscribed"][room_id]) == [roots[1]]
    waiting = await client.waits()
    await follow(bob, room_id, roots[0])
    await follow(alice, room_id, roots[3])
    assert list((await waiting)["extensions"][EXTENSION]["subscribed"][room_id]) == [roots[3]]
    assert await told(Client(alice, {}, stable=stable)) is None, "nobody asked"
    for wrong in ({"enabled": True, "limit": 0}, {"enabled": 1}, {"enabled": True, "limit": "2"}):
        assert (await ask(alice, extensions={EXTENSION: wrong})).status == 400
