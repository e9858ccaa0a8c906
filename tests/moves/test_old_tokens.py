"""What a client was given before its user moved, it may still use: nothing is missing then, and nothing comes twice."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.storage.engine import Transaction
from tests.deployment import User
from tests.e2ee.play import Device, events, message
from tests.moves.play import Stage, Staging
from tests.rooms.play import text_of
from tests.support import aio


def heard(answer: dict[str, Any], room: str) -> list[str]:
    """The messages of a room in an answer of `/sync`."""
    timeline = answer.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {"events": []})
    return [text_of(event) for event in timeline["events"] if event["type"] == "m.room.encrypted"]


def letters(answer: dict[str, Any]) -> list[str]:
    """The messages to the device."""
    return [event["content"]["ciphertext"] for event in events(answer)]


def letter(text: str) -> str:
    """As such a message comes."""
    return str(message(text)["ciphertext"])


async def run_ahead(play: Stage, node: str, user: User, room: str) -> None:
    """Let the positions of a node be higher than those of the other."""
    for number in range(40):
        await play.send(user, room, f"{node} {number}")


async def spoken(play: Stage, ahead: str) -> tuple[Device, Device, str]:
    """Two who have spoken, on tehran and paris; of which ``ahead`` has counted further."""
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    own = await play.device("carol", ahead)
    await run_ahead(play, ahead, own.user, await play.create(own.user))
    room = await play.room_of(alice.user, bob.user)
    await play.send(bob.user, room, "one")
    await play.settle()
    return alice, bob, room


@pytest.mark.parametrize("ahead", ["tehran", "paris"])
@aio
async def test_a_token_goes_on_where_it_was(stage: Staging, ahead: str) -> None:
    play = await stage()
    alice, bob, room = await spoken(play, ahead)
    await bob.send("1", {alice.user_id: {alice.device_id: message("l1")}})
    first = await alice.sync()
    assert heard(first, room) == ["one"]
    await play.send(bob.user, room, "two")
    await play.send(alice.user, room, "three")
    await bob.send("2", {alice.user_id: {alice.device_id: message("l2")}})
    await play.settle()
    second = await alice.sync(first["next_batch"])
    assert heard(second, room) == ["two", "three"]
    assert letters(second) == [letter("l2")]
    await play.send(bob.user, room, "four")
    await bob.send("3", {alice.user_id: {alice.device_id: message("l3")}})
    await play.settle()
    await play.move(alice)
    await play.send(bob.user, room, "five")
    await bob.send("4", {alice.user_id: {alice.device_id: message("l4")}})
    for _ in range(2):  # the first answer may have been lost
        third = await alice.sync(second["next_batch"])
        assert heard(third, room) == ["four", "five"]
        assert letters(third) == [letter("l3"), letter("l4")]
        assert not third["rooms"]["join"][room]["timeline"]["limited"]
        assert bob.user_id in third["device_lists"]["changed"]
    fourth = await alice.sync(third["next_batch"])
    assert heard(fourth, room) == letters(fourth) == []
    assert "device_lists" not in fourth


@aio
async def test_an_older_token_of_two(stage: Staging) -> None:
    """A second device has not been there for a while: it is told all that the first one has been told."""
    play = await stage()
    alice, bob, room = await spoken(play, "tehran")
    other = await alice.another()
    away = (await other.sync())["next_batch"]
    near = (await alice.sync())["next_batch"]
    for text in ("two", "three", "four"):
        await play.send(bob.user, room, text)
        await play.settle()
        near = (await alice.sync(near))["next_batch"]
    await play.move(alice)
    await play.send(bob.user, room, "five")
    await play.settle()
    assert heard(await alice.sync(near), room) == ["five"]
    assert heard(await other.sync(away), room) == ["two", "three", "four", "five"]


async def _forget_places(tx: Transaction) -> None:
    await tx.run("DELETE FROM places_elsewhere")


@aio
async def test_a_token_that_is_too_old_gets_a_gap(stage: Staging) -> None:
    play = await stage()
    alice, bob, room = await spoken(play, "tehran")
    old = (await alice.sync())["next_batch"]
    await play.send(bob.user, room, "two")
    await play.settle()
    await play.move(alice)
    await play.node("paris").write(_forget_places)
    answer = await alice.sync(old)
    joined = answer["rooms"]["join"][room]
    assert joined["timeline"]["limited"]
    assert heard(answer, room)[-1] == "two"
    told = {event["type"] for event in [*joined["state"]["events"], *joined["timeline"]["events"]]}
    assert {"m.room.create", "m.room.member", "m.room.power_levels"} <= told


@pytest.mark.parametrize("ahead", ["tehran", "paris"])
@aio
async def test_pages_go_on_where_they_were(stage: Staging, ahead: str) -> None:
    play = await stage()
    alice, bob, room = await spoken(play, ahead)
    for number in range(6):
        await play.send(bob.user, room, f"m{number}")
    await play.settle()
    path = f"/rooms/{room}/messages"
    page = await play.ask(alice.user, "GET", path, dir="b", limit="3")
    assert [text_of(event) for event in page["chunk"]] == ["m5", "m4", "m3"]
    await play.move(alice)
    more = await play.ask(alice.user, "GET", path, dir="b", limit="3", **{"from": page["end"]})
    assert [text_of(event) for event in more["chunk"]] == ["m2", "m1", "m0"]
    assert "e1" in more["end"]
    again = await play.ask(alice.user, "GET", path, dir="f", limit="3", **{"from": more["end"]})
    assert [text_of(event) for event in again["chunk"]] == ["m0", "m1", "m2"]
    on = await play.ask(alice.user, "GET", path, dir="f", limit="9", **{"from": page["end"]})
    assert [text_of(event) for event in on["chunk"]] == ["m3", "m4", "m5"]


@aio
async def test_sliding_sync_begins_anew_and_letters_do_not(stage: Staging) -> None:
    play = await stage()
    alice, bob, room = await spoken(play, "paris")
    path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
    wish: dict[str, Any] = {
        "lists": {"all": {"ranges": [[0, 9]], "required_state": [], "timeline_limit": 5}},
        "extensions": {"to_device": {"enabled": True}},
    }
    await bob.send("1", {alice.user_id: {alice.device_id: message("l1")}})
    first = await alice.user.asks("POST", path, wish)
    inbox = first.json["extensions"]["to_device"]
    assert [event["content"]["ciphertext"] for event in inbox["events"]] == [letter("l1")]
    await bob.send("2", {alice.user_id: {alice.device_id: message("l2")}})
    await play.move(alice)
    wish["extensions"]["to_device"]["since"] = inbox["next_batch"]
    refused = await alice.user.asks("POST", path, wish, pos=first.json["pos"])
    assert refused.errcode == "M_UNKNOWN_POS"
    answer = await alice.user.asks("POST", path, wish)
    assert room in answer.json["rooms"]
    got = answer.json["extensions"]["to_device"]["events"]
    assert [event["content"]["ciphertext"] for event in got] == [letter("l2")]


@aio
async def test_there_and_back(stage: Staging) -> None:
    """A token of a node that the user has come back to is none of the present."""
    play = await stage()
    alice, bob, room = await spoken(play, "tehran")
    since = (await alice.sync())["next_batch"]
    told = ["one"]
    for number, target in enumerate(("paris", "tehran", "paris")):
        await play.send(bob.user, room, f"m{number}")
        await play.settle()
        await play.move(alice, target)
        answer = await alice.sync(since)
        told += heard(answer, room)
        since = answer["next_batch"]
    assert told == ["one", "m0", "m1", "m2"]
