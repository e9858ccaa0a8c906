"""What comes from other servers is told as well; and a node that was out of reach tells what it has missed."""

from __future__ import annotations

import pytest

from homeserver.rooms import onlookers
from homeserver.rooms.onlookers import Onlookers
from tests.network import Network, network
from tests.push.stage import Put, Stage
from tests.support import Databases, aio

__all__ = ["network"]


@aio
async def test_what_comes_from_another_server(network: Network, put: Put) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    stage = await put(b)
    alice, bob = await a.user("alice"), await b.user("bob")
    await stage.set(bob)
    room = await a.create(alice, invite=[bob.user_id])
    (asked,) = await stage.gateway.hears(1)
    assert (asked["room_id"], asked["sender"], asked["content"]) == (room, alice.user_id, {"membership": "invite"})
    await b.change(bob, room, "join")
    await network.settle()
    sent = await a.send(alice, room, "hello")
    (*_, told) = await stage.gateway.hears(2)
    assert (told["event_id"], told["counts"]) == (sent, {"unread": 1})


@aio
async def test_a_node_that_was_away_tells_what_came_before(put: Put, engines: Databases) -> None:
    await engines.make_breakable("tehran")
    stage = await put()
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", "paris")
    room, node = await stage.play.room_of(bob, alice), stage.play.node("tehran")
    await stage.set(alice)
    first = await stage.play.send(bob, room, "one")
    await stage.gateway.hears(1)
    await stage.quiet(node)
    await engines.take_away("tehran")
    assert not (await node.engine.probe()).up
    second = await stage.play.send(bob, room, "two")
    await engines.bring_back("tehran")
    assert (await node.engine.probe()).up
    await stage.play.deployment.clock.advance(10)
    await stage.play.settle()
    await stage.gateway.hears(2)
    await stage.quiet(node)
    assert stage.gateway.events == [first, second]


@aio
async def test_more_at_once_than_can_be_looked_at(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room, node = await stage.play.room_of(bob, alice), stage.play.node("tehran")
    await stage.set(alice)
    await stage.quiet(node)
    monkeypatch.setattr(onlookers, "MOST_WAITING", 2)
    stage.gateway.status = 503
    waiting = node.memory(Onlookers)
    sent = [await stage.play.send(bob, room, "0")]
    await stage.quiet(node)
    await stage.end()  # nobody looks
    waiting.wanted = True
    sent += [await stage.play.send(bob, room, str(number)) for number in range(1, 6)]
    assert len(waiting.arrived) <= 2
    assert waiting.doubted
    stage.gateway.status = 200
    stage.begin()
    await stage.looked(node)
    await stage.play.deployment.clock.advance(10)
    await stage.gateway.hears(6)
    assert stage.gateway.events == sent
