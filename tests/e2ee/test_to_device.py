"""Messages to devices: once each, in order, over the border, after a restart, at no cost while there are none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.accounts import deactivation
from homeserver.e2ee import mailboxes, publication
from homeserver.storage import devices, streams
from homeserver.storage import to_device as stored
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from tests.deployment import FLOWING, POLICY, Deploy
from tests.e2ee.play import Cast, Device, KeyPlay, events, message
from tests.rooms.test_outage import cut_off, reconnect
from tests.support import Databases, aio


async def breakable(cast: Cast, engines: Databases) -> KeyPlay:
    for name in ("tehran", "paris"):
        await engines.make_breakable(name)
    return await cast()


def contents(answer: dict[str, object]) -> list[object]:
    return [event["content"] for event in events(answer)]


async def stored_count(node: Node, device: Device) -> int:
    caller = await device.user.caller()
    return len(await node.read(stored.waiting, caller.device_nid, 0, 2**60, 10_000))


async def deleted(play: KeyPlay, node: str) -> None:
    """Wait until what devices have seen has been deleted."""
    task = play.node(node).memory(mailboxes.Mailboxes).task
    if task is not None:
        await task


@aio
async def test_a_message_arrives_once(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    since = (await bob.sync())["next_batch"]
    assert (await alice.send("t1", {bob.user_id: {bob.device_id: message("hi")}})).json == {}
    answer = await bob.sync(since)
    assert events(answer) == [{"sender": alice.user_id, "type": "m.room.encrypted", "content": message("hi")}]
    assert events(await bob.sync(since)) == events(answer)  # the answer was lost: it is given again
    assert events(await bob.sync(answer["next_batch"])) == []
    await deleted(play, "tehran")
    assert await stored_count(play.node("tehran"), bob) == 0
    assert events(await bob.sync()) == []


async def arriving(device: Device, since: str) -> list[object]:
    """The next messages to a device, waited for; the clock stands, so that only a wake-up ends the waiting."""
    while not events(answer := await device.sync(since, wait_ms=30_000)):
        since = answer["next_batch"]
    return contents(answer)


@aio
async def test_a_waiting_sync_is_woken(play: KeyPlay) -> None:
    alice, bob, carol = await play.device("alice"), await play.device("bob"), await play.device("carol", "paris")
    waiting = [asyncio.ensure_future(arriving(device, await now(device))) for device in (bob, carol)]
    for number in range(3):  # by then they wait
        await alice.sync()
        assert not any(each.done() for each in waiting), number
    await alice.send("t1", {bob.user_id: {bob.device_id: message("hi")}, carol.user_id: {"*": message("hi")}})
    assert await asyncio.gather(*waiting) == [[message("hi")], [message("hi")]]


async def now(device: Device) -> str:
    return str((await device.sync())["next_batch"])


@aio
async def test_a_repeated_request_does_nothing(play: KeyPlay) -> None:
    alice, bob, carol = await play.device("alice"), await play.device("bob"), await play.device("carol", "paris")
    body = {bob.user_id: {bob.device_id: message("x")}, carol.user_id: {carol.device_id: message("x")}}
    await asyncio.gather(*(alice.send("same", body) for _ in range(4)))
    await alice.send("same", body)
    await alice.send("other", body)
    await alice.send("same", body, "m.other_type")
    await play.settle()
    for device in (bob, carol):
        assert [event["type"] for event in events(await device.sync())] == [
            "m.room.encrypted",
            "m.room.encrypted",
            "m.other_type",
        ]


@aio
async def test_each_device_has_its_own_and_a_star_means_all(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    second = await bob.another()
    await alice.send("t1", {bob.user_id: {"*": message("all"), second.device_id: message("second")}})
    await alice.send("t2", {bob.user_id: {"NOSUCH": message("lost")}, "@nobody:example.org": {"*": message("lost")}})
    await play.settle()
    assert contents(await bob.sync()) == [message("all")]
    assert contents(await second.sync()) == [message("second")]


@aio
async def test_in_the_order_of_arrival_and_not_too_many_at_once(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    for number in range(130):
        await alice.send(f"t{number}", {bob.user_id: {bob.device_id: {"n": number}}})
    first = await bob.sync()
    second = await bob.sync(first["next_batch"])
    assert [event["content"]["n"] for event in events(first)] == list(range(100))
    assert [event["content"]["n"] for event in events(second)] == list(range(100, 130))
    assert events(await bob.sync(second["next_batch"])) == []


@aio
async def test_over_the_border_in_order_and_once_whoever_is_down(cast: Cast, engines: Databases) -> None:
    play = await breakable(cast, engines)
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await alice.send("t0", {bob.user_id: {bob.device_id: message("before")}})
    await play.settle()
    await cut_off(play, engines, "paris")
    for number in range(3):
        await alice.send(f"t{number + 1}", {bob.user_id: {bob.device_id: message(f"meanwhile {number}")}})
    await alice.send("t1", {bob.user_id: {bob.device_id: message("meanwhile 0")}})
    await reconnect(play, engines, "paris")
    await alice.send("t4", {bob.user_id: {bob.device_id: message("after")}})
    await play.settle()
    answer = await bob.sync()
    expected = ["before", "meanwhile 0", "meanwhile 1", "meanwhile 2", "after"]
    assert contents(answer) == [message(text) for text in expected]
    await play.end()
    await play.begin()
    await play.settle()
    assert events(await bob.sync(answer["next_batch"])) == []


@aio
async def test_keys_that_are_under_way_come_first(play: KeyPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    """What receives a message of a device that it does not know yet may drop it, as it cannot tell whose it is."""
    alice, bob = await play.device("alice", published=False), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    await play.settle()
    paris, arriving, go = play.node("paris"), asyncio.Event(), asyncio.Event()
    advance = paris.advance

    async def slow(fn: Any, *args: Any, **kw: Any) -> Any:
        if fn is publication._apply:
            arriving.set()
            await go.wait()
        return await advance(fn, *args, **kw)

    monkeypatch.setattr(paris, "advance", slow)
    since = (await bob.sync())["next_batch"]
    await alice.publish()
    await arriving.wait()
    sending = asyncio.create_task(alice.send("t1", {bob.user_id: {bob.device_id: message("is it you?")}}))
    for _ in range(3):  # by then it waits
        await alice.sync()
        assert events(await bob.sync(since)) == []
    go.set()
    assert (await sending).status == 200
    answer = await bob.sync(since)
    assert contents(answer) == [message("is it you?")]
    assert alice.user_id in answer["device_lists"]["changed"]


@aio
async def test_nothing_is_lost_by_a_restart(deploy: Deploy) -> None:
    first = await deploy(policy=FLOWING)
    alice, bob = Device(await first.user("alice")), Device(await first.user("bob"))
    body = {bob.user_id: {bob.device_id: message("kept")}}
    await alice.send("t1", body)
    seen = await bob.sync()
    again = await deploy(policy=FLOWING)
    alice.user.deployment = bob.user.deployment = again
    await alice.send("t1", body)
    assert events(await bob.sync()) == events(seen)
    assert events(await bob.sync(seen["next_batch"])) == []
    task = again.node("tehran").memory(mailboxes.Mailboxes).task
    assert task is not None
    await task
    assert events(await bob.sync()) == []


@aio
async def test_an_empty_mailbox_costs_nothing(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    caller = await bob.user.caller()
    node = caller.node
    await mailboxes.acknowledge(node, caller.device_nid, node.position)
    await alice.send("t1", {alice.user_id: {alice.device_id: message("other")}})
    trips = node.engine.trips
    await mailboxes.acknowledge(node, caller.device_nid, node.position)
    assert await mailboxes.waiting(node, caller.device_nid, 0, node.position, 100) == []
    assert node.engine.trips == trips
    await alice.send("t3", {alice.user_id: {alice.device_id: message("the node's position moves on")}})
    before = node.position
    await alice.send("t2", {bob.user_id: {bob.device_id: message("one")}})
    trips = node.engine.trips
    await mailboxes.acknowledge(node, caller.device_nid, before)  # what has come since has not been seen
    await deleted(play, "tehran")
    assert node.engine.trips == trips
    assert len(await mailboxes.waiting(node, caller.device_nid, before, node.position, 100)) == 1
    await mailboxes.acknowledge(node, caller.device_nid, node.position)
    assert await mailboxes.waiting(node, caller.device_nid, 0, node.position, 100) == []
    await deleted(play, "tehran")
    assert await stored_count(node, bob) == 0


@aio
async def test_a_deletion_that_fails_is_made_up_for(cast: Cast, engines: Databases) -> None:
    play = await breakable(cast, engines)
    alice, bob = await play.device("alice"), await play.device("bob")
    await bob.sync((await bob.sync())["next_batch"])
    await alice.send("t1", {bob.user_id: {bob.device_id: message("one")}})
    node, caller = play.node("tehran"), await bob.user.caller()
    await cut_off(play, engines, "tehran")
    await mailboxes.acknowledge(node, caller.device_nid, node.position)
    await deleted(play, "tehran")
    await reconnect(play, engines, "tehran")
    assert await stored_count(node, bob) == 1
    await mailboxes.acknowledge(node, caller.device_nid, node.position)
    await deleted(play, "tehran")
    assert await stored_count(node, bob) == 0


@aio
async def test_a_removed_device_takes_its_mailbox_along(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    second = await bob.another()
    await alice.send("t1", {bob.user_id: {"*": message("x")}})
    node = play.node("tehran")
    caller = await second.user.caller()
    await second.gets("POST", "/logout", {})
    assert await node.read(stored.waiting, caller.device_nid, 0, 2**60, 10) == []
    assert await stored_count(node, bob) == 1


@aio
async def test_the_policy_holds(cast: Cast) -> None:
    play = await cast(policy=POLICY)
    alice, bob, carol = await play.device("alice"), await play.device("bob", "paris"), await play.device("carol")
    answer = await alice.send("t1", {bob.user_id: {bob.device_id: message("x")}})
    assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")
    body = {bob.user_id: {bob.device_id: message("x")}, carol.user_id: {carol.device_id: message("y")}}
    assert (await alice.send("t2", body)).status == 200
    assert contents(await carol.sync()) == [message("y")]
    assert events(await bob.sync()) == []


@aio
async def test_a_hundred_messages_in_one_transaction(play: KeyPlay) -> None:
    alice = await play.device("alice")
    others = [await play.device(f"u{number}", published=False) for number in range(6)]
    engine = play.node("tehran").engine
    for txn_id, expected in (("t1", 2), ("t2", 1)):  # the devices are looked for once
        trips = engine.trips
        await alice.send(txn_id, {other.user_id: {other.device_id: message("x")} for other in others})
        assert engine.trips == trips + expected


async def homeless(node: Node) -> int:
    """How many messages wait for devices that are gone."""

    async def count(tx: Transaction) -> int:
        row = await tx.one("SELECT COUNT(*) FROM to_device WHERE device_nid NOT IN (SELECT device_nid FROM devices)")
        assert row is not None
        return int(row[0])

    return await node.read(count)


@aio
@pytest.mark.parametrize("home", ["tehran", "paris"])
async def test_devices_come_and_go_between_messages(play: KeyPlay, home: str) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", home)
    node = play.node(home)
    await alice.send("t1", {bob.user_id: {"*": message("first")}})
    second = await bob.another()
    await alice.send("t2", {bob.user_id: {"*": message("second")}})
    assert contents(await second.sync()) == [message("second")]
    await second.gets("POST", "/logout", {})
    await alice.send("t3", {bob.user_id: {"*": message("third"), second.device_id: message("to nobody")}})
    assert contents(await bob.sync()) == [message("first"), message("second"), message("third")]
    assert await homeless(node) == 0
    await deactivation.deactivate(play.server, bob.user_id)
    await alice.send("t4", {bob.user_id: {"*": message("x"), bob.device_id: message("x")}})
    assert await homeless(node) == 0


@aio
async def test_messages_for_a_user_who_is_yet_to_come(play: KeyPlay) -> None:
    alice = await play.device("alice")
    await alice.send("t1", {"@bob:example.org": {"*": message("lost")}})
    bob = await play.device("bob")
    await alice.send("t2", {"@bob:example.org": {"*": message("found")}})
    assert contents(await bob.sync()) == [message("found")]


@aio
async def test_devices_that_go_while_messages_come(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    for number in range(4):
        second = await bob.another()
        body = {bob.user_id: {"*": message("x"), second.device_id: message("y")}}
        await asyncio.gather(
            *(alice.send(f"t{number}.{copy}", body) for copy in range(3)),
            second.gets("POST", "/logout", {}),
            *(alice.send(f"u{number}.{copy}", body) for copy in range(3)),
        )
    assert await homeless(play.node("tehran")) == 0
    assert await stored_count(play.node("tehran"), bob) == 24


@aio
async def test_what_changed_while_the_database_was_lost(cast: Cast, engines: Databases) -> None:
    play = await breakable(cast, engines)
    alice, bob = await play.device("alice"), await play.device("bob")
    second = await bob.another()
    await alice.send("t1", {bob.user_id: {"*": message("x")}})
    node, caller = play.node("tehran"), await second.user.caller()

    async def unannounced(tx: Transaction) -> None:  # like a commit whose answer is lost
        device = await devices.find(tx, caller.user_nid, caller.device_id)
        assert device is not None
        await devices.delete(tx, caller.user_nid, [device])
        await streams.allocate(tx, 5)

    await node.write(unannounced)
    await cut_off(play, engines, "tehran")
    await reconnect(play, engines, "tehran")
    assert (await second.asks("GET", "/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
    assert (await alice.send("t2", {bob.user_id: {"*": message("y")}})).status == 200
    assert await homeless(node) == 0
    assert contents(await bob.sync()) == [message("x"), message("y")]


@aio
async def test_malformed_messages(play: KeyPlay) -> None:
    alice = await play.device("alice")
    for body, errcode in [
        ({}, "M_MISSING_PARAM"),
        ({"messages": []}, "M_BAD_JSON"),
        ({"messages": {"alice": {}}}, "M_INVALID_PARAM"),
        ({"messages": {alice.user_id: []}}, "M_BAD_JSON"),
        ({"messages": {alice.user_id: {"*": "x"}}}, "M_BAD_JSON"),
        ({"messages": {alice.user_id: {"*": {"x": "y" * 70_000}}}}, "M_TOO_LARGE"),
    ]:
        answer = await alice.asks("PUT", "/sendToDevice/m.room.encrypted/t", body)
        assert answer.errcode == errcode, body
    answer = await alice.asks("PUT", f"/sendToDevice/{'m' * 300}/t", {"messages": {}})
    assert answer.errcode == "M_INVALID_PARAM"
