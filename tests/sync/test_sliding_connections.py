"""Sliding sync: positions of connections, requests that are repeated, restarts, what is forgotten; and waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from homeserver.storage import sliding
from homeserver.sync.sliding import connections
from homeserver.sync.sliding.connections import Connections
from homeserver.sync.sliding.room_list import RoomLists
from tests.deployment import FLOWING, Deploy, Deployment, User
from tests.rooms.play import Play, text_of
from tests.support import aio
from tests.sync.sliding import EVERYTHING, LAZY, Client, ask, set_state, window


def again(client: Client, **changed: Any) -> Client:
    """The same client as it is now, to ask from where it stands in another way."""
    return replace(client, **changed)


async def rows(user: User) -> int:
    """How many rows the connections of a user's device have."""
    caller = await user.caller()
    found = 0
    for conn_id in ("", *(f"c{number}" for number in range(20))):
        found += len(await caller.node.read(sliding.positions, caller.device_nid, conn_id))
    return found


@aio
async def test_a_repeated_request_gets_the_same_answer(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    client = Client(alice, {"lists": {"all": window(limit=1, state=[LAZY])}})
    await client.sync()
    await play.send(alice, room_id, "hello")
    before = again(client)
    first = await client.sync()
    assert first["rooms"][room_id]["required_state"]
    repeated = await before.sync()
    assert repeated["rooms"] == first["rooms"]
    assert await client.rooms() == {}, "the answer that came first is as good"
    assert await before.rooms() == {}


@aio
async def test_a_cancelled_request_may_be_sent_again_with_another_body(play: Play) -> None:
    alice = await play.user("alice")
    old, new = await play.create(alice), await play.create(alice)
    client = Client(alice, {"lists": {"all": window(0, 0)}})
    await client.sync()
    lost = again(client)
    assert list(await lost.rooms(lists={"all": window(0, 1)})) == [old], "an answer that does not arrive"
    waiting = await again(client).waits()
    waiting.cancel()
    await asyncio.wait([waiting])
    more = {"lists": {"all": window(0, 1, limit=20)}}
    rooms = await client.rooms(**more)
    assert rooms[old]["initial"] is True, "as if that answer had never been"
    assert rooms[new]["unstable_expanded_timeline"] is True
    assert await client.rooms(**more) == {}


@aio
async def test_a_position_is_good_for_one_connection_of_one_device(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    await play.room_of(alice, bob)
    client = Client(alice, conn_id="c1")
    await client.sync()
    other = (await play.deployment.login(alice)).json
    device = replace(alice, device_id=other["device_id"], token=other["access_token"])
    for user, conn_id in ((bob, "c1"), (device, "c1"), (alice, "c2"), (alice, "")):
        answer = await ask(user, client.pos, conn_id=conn_id)
        assert (answer.status, answer.errcode) == (400, "M_UNKNOWN_POS")
    number = str(client.pos).partition("/")[0]
    for pos in ("", "rubbish", "1/s1_1", f"1{client.pos}", f"{number}/s99999999_1"):
        answer = await ask(alice, pos, conn_id="c1")
        assert (answer.status, answer.errcode) == (400, "M_UNKNOWN_POS"), pos
    assert await client.rooms() == {}


@aio
async def test_to_begin_anew_ends_what_was(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    client = Client(alice)
    await client.sync()
    fresh = again(client, pos=None)
    assert (await fresh.room(room_id))["initial"] is True
    assert (await ask(alice, client.pos, conn_id=client.conn_id)).errcode == "M_UNKNOWN_POS"
    assert await fresh.rooms() == {}


@aio
async def test_no_connection_name_is_the_empty_one(play: Play) -> None:
    alice = await play.user("alice")
    first = (await ask(alice, lists={"all": window()})).json
    assert (await ask(alice, first["pos"], lists={"all": window()}, conn_id="")).status == 200


@aio
async def test_connections_survive_a_restart(deploy: Deploy) -> None:
    first = Play(await deploy(policy=FLOWING))
    alice, bob = await first.user("alice"), await first.user("bob")
    quiet, busy = await first.room_of(alice, bob), await first.room_of(alice, bob)
    await first.send(bob, busy, "hello")
    client = Client(alice, {"lists": {"all": window(limit=1, state=[LAZY])}})
    await client.sync()
    for number in range(40):  # so that the whole is written more than once
        await first.send(alice if number % 2 else bob, quiet if number % 3 else busy, str(number))
        await client.sync(lists={"all": window(0, 0, limit=1, state=[LAZY])})
    await first.send(bob, quiet, "missed")
    await first.send(bob, busy, "seen")
    await client.sync(lists={"all": window(0, 0, limit=1, state=[LAZY])})
    await first.send(bob, busy, "new")
    second = await deploy(policy=FLOWING)
    restarted = again(client, user=User(second, alice.user_id, alice.device_id, alice.token))
    expected, found = await client.rooms(), await restarted.rooms()
    assert _shown(found) == _shown(expected)
    assert found.keys() == {quiet, busy}
    assert "initial" not in found[quiet]
    assert "required_state" not in found[busy], "the client has the member event of its sender"
    assert await restarted.rooms() == {}


def _shown(rooms: dict[str, Any]) -> dict[str, Any]:
    return {
        room_id: ([text_of(event) for event in entry["timeline"]], entry["limited"], entry.get("num_live"))
        for room_id, entry in rooms.items()
    }


@aio
async def test_what_a_connection_is_not_to_know_any_more_is_gone_from_the_disk(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id, other = await play.room_of(bob, alice), await play.create(alice)
    client = Client(alice)
    await client.sync()
    await play.change(alice, room_id, "leave")
    assert list(await client.rooms()) == [room_id]
    play.node("tehran").memory(Connections).clear()
    answer = await client.sync()
    assert (answer["lists"]["all"]["count"], answer["rooms"]) == (1, {})
    await play.send(alice, other, "hello")
    assert "initial" not in await client.room(other)


@aio
async def test_what_changes_nothing_is_not_written(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    client = Client(alice, {"lists": {"all": window(state=[LAZY])}}, conn_id="")
    await client.sync()
    number = str(client.pos).partition("/")[0]
    assert await rows(alice) == 1
    for text in ("one", "two"):
        await play.send(bob, room_id, text)
        assert (await client.room(room_id))["num_live"] == 1
        assert str(client.pos).partition("/")[0] == number
    assert await rows(alice) == 1


@aio
async def test_old_positions_are_deleted(play: Play) -> None:
    alice = await play.user("alice")
    one, two = await play.create(alice), await play.create(alice)
    client = Client(alice, {"lists": {"all": window(0, 0)}}, conn_id="")
    await client.sync()
    for number in range(60):
        await play.send(alice, (one, two)[number % 2], str(number))
        await client.sync()
    assert await rows(alice) <= connections.CHAIN + connections.BRANCHES


@aio
async def test_a_device_has_so_many_connections(play: Play) -> None:
    alice = await play.user("alice")
    clients = [Client(alice, conn_id=f"c{number}") for number in range(connections.CONNECTIONS + 1)]
    for client in clients:
        await play.deployment.clock.advance(1)
        await client.sync()
    play.node("tehran").memory(Connections).clear()
    answers = [(await ask(alice, client.pos, conn_id=client.conn_id)).status for client in clients]
    assert answers == [400, *[200] * connections.CONNECTIONS]


@aio
async def test_what_is_not_used_is_forgotten(play: Play) -> None:
    alice = await play.user("alice")
    used, unused = Client(alice, {"lists": {}}, conn_id="c1"), Client(alice, {"lists": {}}, conn_id="c2")
    await used.sync()
    await unused.sync()
    for _ in range(8):
        await play.deployment.clock.advance(24 * 3600)
        await used.sync()
    assert (await ask(alice, unused.pos, conn_id="c2")).errcode == "M_UNKNOWN_POS"
    play.node("tehran").memory(Connections).clear()
    await connections.drop_unused(play.server)
    assert await rows(alice) == 1
    assert (await ask(alice, unused.pos, conn_id="c2")).errcode == "M_UNKNOWN_POS"
    await used.sync()


@aio
async def test_a_device_that_goes_takes_its_connections_along(play: Play) -> None:
    alice = await play.user("alice")
    await Client(alice, conn_id="c1").sync()
    caller = await alice.caller()
    await play.ask(alice, "POST", "/logout", {})
    assert await caller.node.read(sliding.positions, caller.device_nid, "c1") == []


# -- waiting


@aio
async def test_an_event_ends_the_waiting(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    client = Client(alice)
    await client.sync()
    waiting = await client.waits()
    await play.send(bob, room_id, "hello")
    entry = (await waiting)["rooms"][room_id]
    assert [text_of(event) for event in entry["timeline"]] == ["hello"]


@aio
async def test_the_waiting_ends_in_time_with_a_good_position(play: Play) -> None:
    alice = await play.user("alice")
    await play.create(alice)
    client = Client(alice)
    await client.sync()
    waiting = await client.waits()
    await play.deployment.clock.advance(31)
    assert (await waiting)["rooms"] == {}
    assert await client.rooms() == {}


@aio
async def test_what_is_out_of_range_does_not_end_the_waiting(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    one, two = await play.room_of(alice, bob), await play.room_of(alice, bob)
    client = Client(alice, {"lists": {"one": window(0, 0, is_dm=True)}, "room_subscriptions": {two: {}}})
    await client.sync()
    waiting = await client.waits()
    await play.send(bob, one, "hello")
    await asyncio.sleep(0)
    assert not waiting.done()
    await set_state(play, alice, two, "m.room.topic", {"topic": "hello"})
    assert list((await waiting)["rooms"]) == [two]


@aio
async def test_a_connection_without_lists_waits_for_messages(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    only = {"extensions": {"to_device": {"enabled": True}, "e2ee": {"enabled": True}}}
    client = Client(alice, only)
    first = await client.sync()
    assert (first["lists"], first["rooms"], set(first["extensions"])) == ({}, {}, {"to_device", "e2ee"})
    waiting = await client.waits()
    message = {"messages": {alice.user_id: {"*": {"hello": 1}}}}
    await play.ask(bob, "PUT", "/sendToDevice/m.test/1", message)
    (event,) = (await waiting)["extensions"]["to_device"]["events"]
    assert (event["type"], event["sender"], event["content"]) == ("m.test", bob.user_id, {"hello": 1})


@aio
async def test_the_first_answer_is_at_once_and_has_every_extension(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    answer = await Client(alice, {"extensions": EVERYTHING, "txn_id": "t"}).sync(wait_ms=30_000)
    assert set(answer["extensions"]) == set(EVERYTHING)
    assert answer["txn_id"] == "t"


# -- what happens while an answer is made


@aio
async def test_what_happens_while_the_list_is_read_is_not_lost(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, and a room that the user comes into, after the database has been asked and before it has answered."""
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id, late = await play.room_of(alice, bob), await play.create(bob, preset="public_chat")
    client = Client(alice)
    await client.sync()
    node = play.node("tehran")
    read, happens = node.read, asyncio.Event()

    async def slow(fn: Any, *args: Any, **kw: Any) -> Any:
        found = await read(fn, *args, **kw)
        if fn is sliding.listed and not happens.is_set():
            happens.set()
            await play.send(bob, room_id, "meanwhile")
            await play.change(alice, late, "join")
        return found

    node.memory(RoomLists).clear()
    monkeypatch.setattr(node, "read", slow)
    seen = await client.rooms()
    seen.update(await client.rooms())
    assert happens.is_set()
    assert [text_of(event) for event in seen[room_id]["timeline"]] == ["meanwhile"]
    assert seen[late]["initial"] is True
