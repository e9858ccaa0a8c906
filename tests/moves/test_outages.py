"""Nodes that are down: a move waits for them, says so, and goes on by itself; its user is served all the while."""

from __future__ import annotations

from tests.e2ee.play import Device
from tests.moves.play import Stage, Staging
from tests.support import Databases, aio


async def waits(play: Stage, device: Device, words: str) -> None:
    """Wait until the move of a user waits for something."""
    while words not in ((await play.status(device))["reason"] or ""):
        await play.server.clock.sleep(0.02)


@aio
async def test_the_target_is_down(stage: Staging, engines: Databases) -> None:
    await engines.make_breakable("paris")
    play = await stage()
    alice = await play.device("alice")
    room = await play.create(alice.user)
    await engines.take_away("paris")
    await play.node("paris").engine.probe()
    refusal = await play.refusal("residency-move", user="alice", to="paris")
    assert "paris is down" in refusal.message
    shown = await play.command("residency-move", user="alice", to="paris", dry_run=True)
    assert len(shown["obstacles"]) == 1
    await engines.bring_back("paris")
    await play.node("paris").engine.probe()
    await play.command("residency-move", user="alice", to="paris")
    await engines.take_away("paris")
    await play.node("paris").engine.probe()
    await waits(play, alice, "waits")
    await play.send(alice.user, room, "still here")
    assert (await alice.user.caller()).node.name == "tehran"
    await engines.bring_back("paris")
    await play.node("paris").engine.probe()
    assert (await play.ended(alice))["state"] == "done"
    assert await play.texts(alice.user, room) == ["still here"]


@aio
async def test_the_source_is_down(stage: Staging, engines: Databases) -> None:
    await engines.make_breakable("tehran")
    play = await stage()
    alice = await play.device("alice")
    await play.command("residency-move", user="alice", to="paris")
    await engines.take_away("tehran")
    await play.node("tehran").engine.probe()
    answer = await play.command("residency-move-status")
    assert answer["nodes_down"] == ["tehran"]
    await engines.bring_back("tehran")
    await play.node("tehran").engine.probe()
    assert (await play.ended(alice))["state"] == "done"
    assert (await alice.user.caller()).node.name == "paris"
    assert await play.rows_of("tehran", alice) == {}
