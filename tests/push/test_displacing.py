"""An app's key that comes to another account, on whatever node: the account that had it is told no more by it."""

from __future__ import annotations

import pytest

from homeserver.push import displacing
from homeserver.storage import chores
from tests.push.stage import Put, Stage
from tests.support import Databases, aio


async def asked(stage: Stage, node: str) -> int:
    """How many chores wait on a node."""
    return len(await stage.play.node(node).read(chores.waiting, displacing.KIND, 100))


@pytest.mark.parametrize("home", ["tehran", "paris"])
@aio
async def test_a_key_belongs_to_who_set_it_last(stage: Stage, home: str) -> None:
    clock = stage.play.deployment.clock
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", home)
    await stage.set(alice, "one")
    await stage.set(alice, "two")
    await clock.advance(1)
    await stage.set(bob, "one")
    assert (await stage.pushers(alice), await stage.pushers(bob)) == (["two"], ["one"])
    await clock.advance(1)
    await stage.set(alice, "one")
    assert (await stage.pushers(alice), await stage.pushers(bob)) == (["one", "two"], [])
    assert await asked(stage, "tehran") == await asked(stage, home) == 0
    room = await stage.play.room_of(alice, bob)
    event_id = await stage.play.send(alice, room, "for bob alone")
    await stage.play.settle()
    await stage.quiet(stage.play.node(home))
    assert event_id not in stage.gateway.events


@aio
async def test_it_may_be_shared(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", "paris")
    await stage.set(alice, "one")
    await stage.play.deployment.clock.advance(1)
    shared = {**stage.gateway.pusher("one"), "append": True}
    assert (await bob.asks("POST", "/_matrix/client/v3/pushers/set", shared)).status == 200
    assert (await stage.pushers(alice), await stage.pushers(bob)) == (["one"], ["one"])


@aio
async def test_a_node_that_was_down_loses_it_later_unless_it_was_set_there_since(put: Put, engines: Databases) -> None:
    await engines.make_breakable("paris")
    stage = await put(begin=False)
    clock, paris = stage.play.deployment.clock, stage.play.node("paris")
    alice, noemie = await stage.play.user("alice"), await stage.play.user("noemie", "paris")
    for pushkey in ("one", "two"):
        assert (await stage.sets(noemie, pushkey)).status == 200
    await clock.advance(1)
    await engines.take_away("paris")
    assert not (await paris.engine.probe()).up
    for pushkey in ("one", "two"):
        assert (await stage.sets(alice, pushkey)).status == 200
    await displacing.displace_all(stage.server)
    assert await asked(stage, "tehran") == 2
    await engines.bring_back("paris")
    assert (await paris.engine.probe()).up
    await clock.advance(1)
    assert await stage.pushers(noemie) == ["one", "two"]
    assert (await stage.sets(noemie, "two")).status == 200  # it comes back before anything was done
    await displacing.displace_all(stage.server)
    assert (await stage.pushers(noemie), await stage.pushers(alice)) == (["two"], ["one"])
    assert await asked(stage, "tehran") == await asked(stage, "paris") == 0
