"""Sliding sync: messages to devices, keys, account data, receipts and typing beside the rooms."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.deployment import User
from tests.rooms.play import Play
from tests.support import aio
from tests.sync.sliding import Client, ask, set_data, set_state, window


def with_extension(user: User, name: str, **config: Any) -> Client:
    return Client(user, {"lists": {"all": window()}, "extensions": {name: {"enabled": True, **config}}})


async def told(client: Client, name: str, **changed: Any) -> Any:
    """What an answer says in an extension."""
    answer = await client.sync(**changed)
    assert set(answer["extensions"]) <= {name}
    return answer["extensions"][name]


async def read(play: Play, user: User, room_id: str, event_id: str, kind: str = "m.read", **body: Any) -> None:
    await play.ask(user, "POST", f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id)}", body)
    await play.settle()


async def types(play: Play, user: User, room_id: str, typing: bool = True) -> None:
    path = f"/rooms/{quote(room_id)}/typing/{quote(user.user_id)}"
    await play.ask(user, "PUT", path, {"typing": typing, "timeout": 30_000})


# -- messages to devices


@aio
async def test_messages_stay_until_they_are_confirmed(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")

    async def message(number: int) -> None:
        await play.ask(
            bob, "PUT", f"/sendToDevice/m.test/{number}", {"messages": {alice.user_id: {"*": {"n": number}}}}
        )

    async def got(since: str | None = None, pos: str | None = None, **config: Any) -> tuple[list[int], str]:
        asked = {"enabled": True, **config, **({} if since is None else {"since": since})}
        answer = (await ask(alice, pos, extensions={"to_device": asked})).json["extensions"]["to_device"]
        return [event["content"]["n"] for event in answer["events"]], answer["next_batch"]

    for number in range(3):
        await message(number)
    await play.settle()
    numbers, since = await got()
    assert numbers == [0, 1, 2]
    assert (await got())[0] == [0, 1, 2], "a new connection loses nothing"
    assert (await got(limit=2))[0] == [0, 1]
    assert (await got((await got(limit=2))[1]))[0] == [2]
    assert await got(since) == ([], since)
    await message(3)
    await play.settle()
    numbers, later = await got(since)
    assert numbers == [3]
    assert await got(since) == ([3], later), "the same again"
    assert await got("99999999") == ([], "99999999")
    assert (await got())[0] == [3], "what was confirmed is gone"
    assert (await got(later))[0] == []
    assert (await got())[0] == []


# -- keys


@aio
async def test_counts_of_keys_and_changed_devices(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.room_of(alice, bob)
    client = with_extension(alice, "e2ee")
    first = await told(client, "e2ee")
    assert first == {"device_one_time_keys_count": {"signed_curve25519": 0}, "device_unused_fallback_key_types": []}
    assert (await told(client, "e2ee"))["device_lists"] == {"changed": [], "left": []}
    keys = {"algorithms": [], "device_id": bob.device_id, "keys": {}, "signatures": {}, "user_id": bob.user_id}
    await play.ask(bob, "POST", "/keys/upload", {"device_keys": keys})
    waiting = await client.waits()
    assert (await waiting)["extensions"]["e2ee"]["device_lists"] == {"changed": [bob.user_id], "left": []}


# -- account data


@aio
async def test_account_data_first_all_and_then_what_changed(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await set_data(play, alice, "org.example.a", {"n": 1})
    await set_data(play, alice, "org.example.r", {"n": 1}, room_id)
    client = with_extension(alice, "account_data")
    first = await told(client, "account_data")
    assert {entry["type"] for entry in first["global"]} == {"org.example.a", "m.push_rules"}
    assert first["rooms"] == {room_id: [{"type": "org.example.r", "content": {"n": 1}}]}
    assert await told(client, "account_data") == {"global": [], "rooms": {}}
    waiting = await client.waits()
    await play.ask(alice, "PUT", f"/user/{quote(alice.user_id)}/rooms/{quote(room_id)}/tags/u.x", {"order": 0.5})
    changed = (await waiting)["extensions"]["account_data"]
    tag = {"type": "m.tag", "content": {"tags": {"u.x": {"order": 0.5}}}}
    assert changed == {"global": [], "rooms": {room_id: [tag]}}
    await set_data(play, alice, "org.example.a", {"n": 2})
    await play.ask(alice, "PUT", "/pushrules/global/room/" + quote(room_id), {"actions": []})
    changed = await told(client, "account_data")
    assert {entry["type"] for entry in changed["global"]} == {"org.example.a", "m.push_rules"}


@aio
async def test_account_data_of_rooms_that_are_out_of_sight_comes_later(play: Play) -> None:
    alice = await play.user("alice")
    quiet, busy = await play.create(alice), await play.create(alice)
    client = with_extension(alice, "account_data")
    await client.sync()
    await set_data(play, alice, "org.example.r", {"n": 1}, quiet)
    only_first = {"lists": {"all": window(0, 0)}}
    assert (await told(client, "account_data", **only_first))["rooms"] == {}
    await set_data(play, alice, "org.example.s", {"n": 1}, quiet)
    assert (await told(client, "account_data", **only_first))["rooms"] == {}
    await play.send(alice, busy, "hello")
    assert (await told(client, "account_data", **only_first))["rooms"] == {}
    found = (await told(client, "account_data"))["rooms"]
    assert {room_id: {entry["type"] for entry in entries} for room_id, entries in found.items()} == {
        quiet: {"org.example.r", "org.example.s"}
    }
    assert (await told(client, "account_data"))["rooms"] == {}


@aio
async def test_what_is_asked_for_again_is_told_whole(play: Play) -> None:
    alice = await play.user("alice")
    client = with_extension(alice, "account_data")
    await client.sync()
    await set_data(play, alice, "org.example.a", {"n": 1})
    await client.sync(extensions={})
    found = await told(client, "account_data")
    assert "org.example.a" in {entry["type"] for entry in found["global"]}
    assert await told(client, "account_data") == {"global": [], "rooms": {}}


@aio
async def test_extensions_are_about_the_rooms_that_they_name(play: Play) -> None:
    alice = await play.user("alice")
    one, two, three = [await play.create(alice) for _ in range(3)]
    for room_id in (one, two, three):
        await set_data(play, alice, "org.example.r", {}, room_id)
    body = {
        "lists": {"first": window(0, 0), "second": window(1, 1)},
        "room_subscriptions": {one: {"timeline_limit": 1, "required_state": []}},
    }

    async def rooms(**config: Any) -> set[str]:
        client = Client(alice, {**body, "extensions": {"account_data": {"enabled": True, **config}}})
        return set((await told(client, "account_data"))["rooms"])

    assert await rooms() == {one, two, three}
    assert await rooms(lists=["*"], rooms=["*"]) == {one, two, three}
    assert await rooms(lists=["second"], rooms=[]) == {two}
    assert await rooms(lists=[], rooms=[one]) == {one}
    assert await rooms(lists=["first", "nothing"], rooms=[two]) == {three}
    assert await rooms(lists=[], rooms=[]) == set()


# -- receipts


@aio
async def test_receipts_first_of_what_is_shown_and_then_what_comes(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob, carol)
    old = await play.send(alice, room_id, "old")
    new = await play.send(alice, room_id, "new")
    await play.settle()
    await read(play, alice, room_id, old)
    await read(play, carol, room_id, old)
    await read(play, bob, room_id, new)
    client = with_extension(alice, "receipts")
    found = (await told(client, "receipts", lists={"all": window(limit=1)}))["rooms"][room_id]
    readers = {event_id: set(kinds["m.read"]) for event_id, kinds in found["content"].items()}
    assert (found["type"], readers) == ("m.receipt", {old: {alice.user_id}, new: {bob.user_id}})
    await client.sync()  # more of the timeline
    assert (await told(client, "receipts"))["rooms"] == {}
    waiting = await client.waits()
    await read(play, carol, room_id, new, thread_id="main")
    content = (await waiting)["extensions"]["receipts"]["rooms"][room_id]["content"]
    assert content[new]["m.read"][carol.user_id]["thread_id"] == "main"
    assert (await told(client, "receipts"))["rooms"] == {}


@aio
async def test_private_receipts_are_told_to_their_owner_only(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    mine, theirs = with_extension(bob, "receipts"), with_extension(alice, "receipts")
    await mine.sync()
    await theirs.sync()
    await read(play, bob, room_id, event_id, "m.read.private")
    content = (await told(mine, "receipts"))["rooms"][room_id]["content"]
    assert set(content[event_id]["m.read.private"]) == {bob.user_id}
    assert (await told(theirs, "receipts"))["rooms"] == {}
    fresh = (await told(with_extension(bob, "receipts"), "receipts"))["rooms"][room_id]["content"]
    assert set(fresh[event_id]) == {"m.read.private"}


@aio
async def test_receipts_of_rooms_that_are_out_of_sight_come_later(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    quiet, busy = await play.room_of(alice, bob), await play.room_of(alice, bob)
    event_id = await play.send(alice, quiet, "hello")
    await play.send(alice, busy, "hello")
    client = with_extension(alice, "receipts")
    await client.sync()
    await read(play, bob, quiet, event_id)
    await read(play, alice, quiet, event_id, "m.read.private")
    only_first = {"lists": {"all": window(0, 0)}}
    for _ in range(2):
        assert (await told(client, "receipts", **only_first))["rooms"] == {}
    content = (await told(client, "receipts"))["rooms"][quiet]["content"]
    assert content[event_id].keys() == {"m.read", "m.read.private"}
    assert (await told(client, "receipts"))["rooms"] == {}


# -- typing


@aio
async def test_who_is_typing(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id, other = await play.room_of(alice, bob), await play.room_of(alice, bob)
    await types(play, bob, room_id)
    client = with_extension(alice, "typing")
    event = {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}
    assert (await told(client, "typing"))["rooms"] == {room_id: event}
    assert (await told(client, "typing"))["rooms"] == {}
    waiting = await client.waits()
    await types(play, bob, room_id, typing=False)
    ended = {"type": "m.typing", "content": {"user_ids": []}}
    assert (await waiting)["extensions"]["typing"]["rooms"] == {room_id: ended}
    await types(play, bob, other)
    assert (await told(client, "typing"))["rooms"] == {other: event}


@aio
async def test_who_typed_in_a_room_that_went_out_of_sight(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    quiet, busy = await play.room_of(alice, bob), await play.room_of(alice, bob)
    client = with_extension(alice, "typing")
    only_first = {"lists": {"all": window(0, 0)}}
    await types(play, bob, quiet)
    typing = {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}
    assert (await told(client, "typing"))["rooms"] == {quiet: typing}
    await types(play, bob, quiet, typing=False)
    for _ in range(2):
        await play.send(bob, busy, "hello")
        assert (await told(client, "typing", **only_first))["rooms"] == {}
    assert (await told(client, "typing"))["rooms"] == {quiet: {"type": "m.typing", "content": {"user_ids": []}}}
    assert (await told(client, "typing", **only_first))["rooms"] == {}
    await types(play, bob, quiet)
    assert (await told(client, "typing", **only_first))["rooms"] == {}
    assert (await told(client, "typing"))["rooms"] == {quiet: typing}
    assert (await told(client, "typing"))["rooms"] == {}


@aio
async def test_nothing_is_said_of_a_room_that_the_user_left(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    everything = {"receipts": {"enabled": True}, "typing": {"enabled": True}}
    client = Client(bob, {"lists": {"all": window()}, "extensions": everything})
    await client.sync()
    await play.change(alice, room_id, "kick", user_id=bob.user_id)
    await read(play, alice, room_id, event_id)
    await types(play, alice, room_id)
    await set_state(play, alice, room_id, "m.room.topic", {"topic": "secret"})
    extensions = (await client.sync())["extensions"]
    assert (extensions["receipts"]["rooms"], extensions["typing"]["rooms"]) == ({}, {})
