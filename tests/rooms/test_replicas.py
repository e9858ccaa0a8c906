"""Replicas that come and go: what a node is given when its users do, and three nodes of which one is lost."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.errors import CommitUnknown
from homeserver.rooms import ordering, replicas
from homeserver.rooms.send import Draft
from homeserver.storage import events
from homeserver.storage.nodes import Node
from tests.deployment import FLOWING, flow
from tests.rooms.play import Cast, Play, ciphertext
from tests.rooms.test_outage import breakable, cut_off, reconnect
from tests.support import Databases, aio

THREE = (
    FLOWING.replace(
        "[[pins]]",
        """
[jurisdictions.KZ]
name = "Kazakhstan"
[nodes.almaty]
jurisdiction = "KZ"
database = "sqlite:almaty/node.db"
media = "file:almaty/media"
[[pins]]""",
        1,
    )
    + flow("KZ", "IR", "FR")
    + flow("IR", "KZ")
    + flow("FR", "KZ")
)


@aio
async def test_joining_after_having_declined_brings_the_whole_history(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice)
    for number in range(40):
        await play.send(alice, room_id, f"{number}")
    for answer in ("leave", "join"):
        await play.change(alice, room_id, "invite", user_id=bob.user_id)
        await play.settle()
        await play.change(bob, room_id, answer)
        await play.settle()
    await replicas.copy_histories(play.server)
    await play.assert_equal(room_id)
    assert await play.texts(bob, room_id) == [f"{number}" for number in range(40)]


@aio
async def test_who_comes_back_is_told_what_changed_without_them(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    since = (await play.ask(bob, "GET", "/sync"))["next_batch"]
    await play.change(bob, room_id, "leave")
    await play.settle()
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "Without Bob"})
    for number in range(40):
        await play.send(alice, room_id, f"{number}")
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    between = (await play.ask(bob, "GET", "/sync", since=since))["next_batch"]
    await play.change(bob, room_id, "join")
    await play.settle()
    for query in ({}, {"since": since}, {"since": between}):
        section = (await play.ask(bob, "GET", "/sync", **query))["rooms"]["join"][room_id]
        told = [*section["state"]["events"], *section["timeline"]["events"]]
        topics = [event["content"]["topic"] for event in told if event["type"] == "m.room.topic"]
        assert topics == ["Without Bob"], query


@aio
async def test_a_node_that_missed_a_third_ones_event_is_given_it(cast: Cast, engines: Databases) -> None:
    await engines.make_breakable("tehran")
    play = await cast(policy=THREE)
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol", "almaty")
    room_id = await play.create(alice, preset="public_chat")
    await play.change(bob, room_id, "join")
    await play.settle()
    await play.end()
    tehran, paris = play.node("tehran"), play.node("paris")
    with play.server.wakeups.listen([("outbox", "tehran")]) as listener:
        joining = asyncio.create_task(play.change(carol, room_id, "join"))
        await listener.wait()
    shipping = asyncio.create_task(replicas.ship(play.server, tehran, paris, replicas.ROOM_PARCELS))
    await replicas.caught_up(play.server, tehran, paris)
    shipping.cancel()
    await asyncio.wait([shipping])
    await play.deployment.clock.advance(replicas.CATCH_UP + 1)
    await joining
    await cut_off(play, engines, "tehran")  # Almaty has not heard of the room
    await play.send(bob, room_id, "alone")
    await play.begin()
    await reconnect(play, engines, "tehran")
    await play.deployment.clock.advance(5)
    await play.settle()
    await play.send(alice, room_id, "together")
    await play.settle()
    await play.settle()
    assert sorted(await play.texts(carol, room_id)) == ["alone", "together"]
    states = [await play.state_of(name, room_id) for name in ("tehran", "paris", "almaty")]
    assert states[0] == states[1] == states[2]
    await play.send(carol, room_id, "all of us")
    await play.settle()
    for user in (alice, bob, carol):
        assert sorted(await play.texts(user, room_id)) == ["all of us", "alone", "together"]


@aio
async def test_a_repeated_request_finds_what_its_own_node_ordered(cast: Cast, engines: Databases) -> None:
    play = await breakable(cast, engines)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await play.end()
    await cut_off(play, engines, "tehran")
    sent = await play.send(bob, room_id, "once", "t1")
    await reconnect(play, engines, "tehran")
    assert await play.send(bob, room_id, "once", "t1") == sent, "before Tehran has heard of it"
    await play.begin()
    await play.assert_equal(room_id, ordered=False)
    assert await play.texts(alice, room_id) == ["once"]


@aio
async def test_what_may_have_been_ordered_is_ordered_by_nobody_else(
    cast: Cast, engines: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = await breakable(cast, engines)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await play.end()
    order = ordering.order

    async def lost(server: Any, node: Node, room_id: str, draft: Draft) -> str:
        await order(server, node, room_id, draft)
        raise CommitUnknown(node.name)

    monkeypatch.setattr(ordering, "order", lost)
    path = f"/rooms/{quote(room_id)}/send/m.room.encrypted/t1"
    assert (await play.refused(bob, "PUT", path, ciphertext("once"))).status == 503
    monkeypatch.undo()
    await cut_off(play, engines, "tehran")
    assert (await play.refused(bob, "PUT", path, ciphertext("once"))).status == 503
    await play.send(bob, room_id, "something else")
    await reconnect(play, engines, "tehran")
    await play.send(bob, room_id, "once", "t1")
    await play.begin()
    await play.deployment.clock.advance(5)
    await play.assert_equal(room_id, ordered=False)
    assert sorted(await play.texts(alice, room_id)) == ["once", "something else"]


@aio
async def test_what_is_redacted_while_history_is_copied_is_redacted_in_the_copy(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, preset="public_chat")
    unwise = await play.send(alice, room_id, "unwise")
    for number in range(40):
        await play.send(alice, room_id, f"{number}")
    await play.change(bob, room_id, "join")
    await play.settle()
    tehran = play.node("tehran")
    read = tehran.read

    async def overtaken(fn: Any, *args: Any, **kwargs: Any) -> Any:
        found = await read(fn, *args, **kwargs)
        if fn is events.timeline_backwards:
            monkeypatch.undo()
            await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(unwise)}/r1", {})
            await play.settle()
        return found

    monkeypatch.setattr(tehran, "read", overtaken)
    await replicas.copy_histories(play.server)
    await replicas.copy_histories(play.server)
    assert (await play.texts(bob, room_id))[0] == "<redacted>"
    await play.assert_equal(room_id)
