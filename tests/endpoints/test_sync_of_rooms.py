"""What `/sync` says of rooms: state that a filter hides, ignored users, counts by thread, the format of servers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from homeserver.push import unread
from homeserver.sync import classic, filters
from tests.deployment import User
from tests.rooms.play import Play, cast, play, text_of
from tests.support import aio

__all__ = ["cast", "play"]

HIDING: dict[str, Any] = {"room": {"timeline": {"types": ["m.room.encrypted"]}}}


async def sync(play: Play, user: User, since: str | None = None, **definition: Any) -> dict[str, Any]:
    query = {} if since is None else {"since": since}
    if definition:
        query["filter"] = orjson.dumps(definition).decode()
    return await play.ask(user, "GET", "/sync", **query)


def joined(answer: dict[str, Any], room_id: str) -> dict[str, Any]:
    return dict(answer["rooms"]["join"][room_id])


def topics(section: dict[str, Any], part: str = "state") -> list[str]:
    return [event["content"]["topic"] for event in section[part]["events"] if event["type"] == "m.room.topic"]


async def set_topic(play: Play, user: User, room_id: str, topic: str) -> None:
    await play.ask(user, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic", {"topic": topic})
    await play.settle()


# -- the state beside the timeline


@aio
async def test_the_state_is_that_before_the_timeline(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, topic="Roses")
    for number in range(15):
        await play.send(alice, room_id, str(number))
    await set_topic(play, alice, room_id, "Tulips")
    section = joined(await sync(play, alice), room_id)
    assert (topics(section), topics(section, "timeline")) == (["Roses"], ["Tulips"])
    assert len(section["timeline"]["events"]) == 10
    await play.send(alice, room_id, "one more")
    later = joined(await sync(play, alice, room={"timeline": {"limit": 1}}), room_id)
    assert (topics(later), topics(later, "timeline")) == (["Tulips"], [])


@aio
async def test_state_that_the_filter_keeps_out_of_the_timeline_is_beside_it(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    for user in (alice, bob):
        since = (await sync(play, user, **HIDING))["next_batch"]
        await set_topic(play, alice, room_id, f"for {user.user_id}")
        changed = await sync(play, user, since, **HIDING)
        section = joined(changed, room_id)
        assert (topics(section), section["timeline"]["events"]) == ([f"for {user.user_id}"], [])
        await set_topic(play, alice, room_id, "Tulips")
        await play.send(alice, room_id, "hello")
        await set_topic(play, alice, room_id, "Lilies")
        await play.settle()
        section = joined(await sync(play, user, changed["next_batch"], **HIDING), room_id)
        assert topics(section) == ["Lilies"], "the client sees no other change of it"
        assert [text_of(event) for event in section["timeline"]["events"]] == ["hello"]
        first = joined(await sync(play, user, **HIDING), room_id)
        assert topics(first) == ["Lilies"]


@aio
async def test_state_that_the_timeline_shows_is_not_beside_it(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    since = (await sync(play, alice))["next_batch"]
    await set_topic(play, alice, room_id, "Roses")
    await play.send(alice, room_id, "hello")
    passing: dict[str, Any] = {"room": {"timeline": {"not_types": ["m.room.name"]}}}
    section = joined(await sync(play, alice, since, **passing), room_id)
    assert (topics(section), topics(section, "timeline")) == ([], ["Roses"])


# -- ignored users


async def ignore(play: Play, user: User, *others: User) -> None:
    listed: dict[str, Any] = {"ignored_users": {other.user_id: {} for other in others}}
    await play.ask(user, "PUT", f"/user/{quote(user.user_id)}/account_data/m.ignored_user_list", listed)


@aio
async def test_what_ignored_users_send_is_not_shown_but_for_state(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.create(bob, invite=[alice.user_id, carol.user_id])
    await play.settle()
    for user in (alice, carol):
        await play.change(user, room_id, "join")
    await play.settle()
    since = (await sync(play, alice))["next_batch"]
    await ignore(play, alice, bob)
    hidden = await play.send(bob, room_id, "from bob")
    await play.send(carol, room_id, "from carol")
    await set_topic(play, bob, room_id, "of bob")
    section = joined(await sync(play, alice, since), room_id)
    events = section["timeline"]["events"]
    assert [text_of(event) for event in events if event["type"] == "m.room.encrypted"] == ["from carol"]
    assert topics(section, "timeline") == ["of bob"]
    assert section["unread_notifications"]["notification_count"] == 1
    assert await play.texts(alice, room_id) == ["from carol"]
    assert await play.texts(carol, room_id) == ["from bob", "from carol"]
    assert (await play.refused(alice, "GET", f"/rooms/{quote(room_id)}/event/{quote(hidden)}")).status == 404
    await ignore(play, alice)
    assert await play.texts(alice, room_id) == ["from bob", "from carol"]


@aio
async def test_invitations_of_ignored_users_are_not_shown(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    await ignore(play, alice, bob)
    await play.create(bob, invite=[alice.user_id])
    wanted = await play.create(carol, invite=[alice.user_id])
    await play.settle()
    assert list((await sync(play, alice))["rooms"]["invite"]) == [wanted]
    await ignore(play, alice)
    assert len((await sync(play, alice))["rooms"]["invite"]) == 2


@aio
async def test_a_list_of_ignored_users_that_is_none_ignores_nobody(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    await play.send(bob, room_id, "hello")
    for content in ({}, {"ignored_users": [bob.user_id]}, {"ignored_users": None}):
        await play.ask(alice, "PUT", f"/user/{quote(alice.user_id)}/account_data/m.ignored_user_list", content)
        assert await play.texts(alice, room_id) == ["hello"]


# -- counts by thread

THREADS: dict[str, Any] = {"room": {"timeline": {"unread_thread_notifications": True}}}
Counts = tuple[int, dict[str, int]]


async def counts(play: Play, user: User, room_id: str) -> tuple[int, Counts]:
    """The unread notifications of the whole room; and those of the main timeline and of each thread."""
    whole = joined(await sync(play, user), room_id)
    assert "unread_thread_notifications" not in whole
    parted = joined(await sync(play, user, **THREADS), room_id)
    threads = {root: found["notification_count"] for root, found in parted["unread_thread_notifications"].items()}
    main = parted["unread_notifications"]["notification_count"]
    return whole["unread_notifications"]["notification_count"], (main, threads)


async def mark(play: Play, user: User, room_id: str, event_id: str, thread_id: str | None = None) -> None:
    body = {} if thread_id is None else {"thread_id": thread_id}
    await play.ask(user, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", body)


def within(root: str) -> dict[str, Any]:
    return {"rel_type": "m.thread", "event_id": root}


@aio
async def test_each_thread_is_counted_and_read_for_itself(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    one, two = [await play.send(alice, room_id, text) for text in ("one", "two")]
    in_one = [await play.send(alice, room_id, text, relates_to=within(one)) for text in "abc"]
    in_two = await play.send(alice, room_id, "d", relates_to=within(two))
    await play.send(alice, room_id, "about d", relates_to={"rel_type": "org.example.about", "event_id": in_two})
    await play.send(alice, room_id, "about one", relates_to={"rel_type": "org.example.about", "event_id": one})
    await play.settle()
    assert await counts(play, bob, room_id) == (8, (3, {one: 3, two: 2}))
    await mark(play, bob, room_id, in_one[1], one)
    assert await counts(play, bob, room_id) == (6, (3, {one: 1, two: 2}))
    await mark(play, bob, room_id, two, "main")
    assert await counts(play, bob, room_id) == (4, (1, {one: 1, two: 2}))
    await mark(play, bob, room_id, in_two)
    assert await counts(play, bob, room_id) == (2, (1, {two: 1})), "unthreaded: all up to there"
    await play.send(bob, room_id, "I have seen it")
    await play.settle()
    assert await counts(play, bob, room_id) == (0, (0, {}))


@aio
async def test_a_count_that_was_kept_is_corrected_in_the_thread_that_was_read(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    root = await play.send(alice, room_id, "root")
    texts = [await play.send(alice, room_id, str(number), relates_to=within(root)) for number in range(110)]
    expected = (111, (1, {root: 110}))
    assert await counts(play, bob, room_id) == expected
    memory = play.node("tehran").memory(unread.Counts)

    async def first_read() -> list[int]:
        """From where events are read of what is not in memory any more."""
        memory.clear()
        found = await counts(play, bob, room_id)
        assert found == expected
        return [kept.counted_to for kept in memory.kept.find(list(memory.kept._held)).values()]

    await first_read()
    await mark(play, bob, room_id, texts[99], root)
    expected = (11, (1, {root: 10}))
    await first_read()
    await mark(play, bob, room_id, root, "main")
    expected = (10, (0, {root: 10}))
    await first_read()
    await mark(play, bob, room_id, texts[-1])
    expected = (0, (0, {}))
    await first_read()


# -- the format of servers


@aio
async def test_events_in_the_format_of_servers(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    event_id = await play.send(alice, room_id, "hello")
    caller = await alice.caller()
    chosen = await filters.of_sync(caller, '{"event_format": "federation", "room": {"timeline": {"limit": 1}}}')
    answer = orjson.loads(b"".join(await classic.sync(play.server, caller, classic.Wish(None, chosen))))
    section = joined(answer, room_id)
    (event,) = section["timeline"]["events"]
    assert (event["room_id"], event["type"], event["sender"]) == (room_id, "m.room.encrypted", alice.user_id)
    assert event["signatures"][play.server.name]
    assert {"auth_events", "prev_events", "hashes", "depth"} <= event.keys()
    assert "event_id" not in event, "it follows from the rest"
    assert {"m.room.create", "m.room.member"} <= {event["type"] for event in section["state"]["events"]}
    assert all("signatures" in event for event in section["state"]["events"])
    plain = joined(await sync(play, alice), room_id)
    assert event_id in {each["event_id"] for each in plain["timeline"]["events"]}
