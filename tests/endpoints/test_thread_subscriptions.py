"""Following threads: by hand, automatically, and no more."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.accounts import deactivation
from homeserver.storage import thread_subscriptions as stored
from tests.deployment import Answer, User
from tests.rooms.play import Play, cast, play
from tests.support import aio

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
