"""Word of other servers' device lists that a node could not take is not lost: its copies are asked for anew, also when
the server is killed before that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from federation import edus
from homeserver.e2ee import remote_lists, shown_keys
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms.presence import Presences
from homeserver.rooms.typing_notices import Typing
from homeserver.storage import missed_lists, remote_device_lists
from tests.e2ee.play import Device, Identity
from tests.federation.test_user_keys import copies, device_of, gap, held, move, share, towns
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio


def word_of(device: Device, stream_id: int, *previous: int) -> dict[str, Any]:
    """The EDU by which a server tells of a device."""
    content = {
        "user_id": device.user_id,
        "device_id": device.device_id,
        "stream_id": stream_id,
        "prev_id": list(previous),
        "keys": device.device_keys(),
    }
    return {"edu_type": "m.device_list_update", "content": content}


async def restart(play: Play, while_down: Callable[[], Any] | None = None, room_id: str = "") -> None:
    """Kill the process, and start another: only what is in the databases is left."""
    await play.end()
    if while_down is not None:
        await while_down()
    for node in play.server.nodes:
        timers = [followed.timer for followed in node.memory(Presences).followed.values()]
        timers += [typists.timer for typists in node.memory(Typing).rooms.find([room_id]).values()]
        for timer in timers:
            if timer is not None:
                timer.cancel()
        node._memories.clear()
        node._started = False
        node.lapses = 0
    play.server.nodes.directory._memories.clear()
    await play.begin()


async def mark(play: Play, node: str = "tehran") -> int | None:
    """What is noted of a node."""
    return await play.server.nodes.directory.engine.read(missed_lists.mark_of, node)


async def missing_one(network: Network) -> tuple[Play, Device, Device, Device, str]:
    """alice shares a room with bob, of whose second device her node, being down, has not been told; her sync token."""
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node, second = here.node("tehran"), await bob.another()
    await share(here, alice.user, bob)
    version = await held(here, bob)
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id}
    since = (await alice.sync())["next_batch"]
    await second.publish()
    await node.engine.close()
    await edus.take(here.server, "there.test", [word_of(second, version + 1, version)])
    return here, alice, bob, second, since


@pytest.mark.parametrize("killed", [False, True])
@aio
async def test_a_change_that_a_node_missed_is_found_out_and_told(network: Network, killed: bool) -> None:
    here, alice, bob, second, since = await missing_one(network)
    node = here.node("tehran")
    assert await mark(here) is not None
    if killed:
        await restart(here, node.engine.open)
    else:
        await node.engine.open()
    assert "device_lists" not in await alice.sync(since)
    await remote_lists.refresh_stale(here.server)
    assert (await alice.sync(since))["device_lists"]["changed"] == [bob.user_id]
    asked = len(network.exchanges)
    answer = await alice.query(bob)
    assert set(answer["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}
    assert len(network.exchanges) == asked, "from the new copy"
    assert await mark(here) is None
    assert [stale for _, stale in (await copies(node)).values()] == [False]


@aio
async def test_a_copy_that_may_be_old_is_shown_to_nobody_after_a_crash(network: Network) -> None:
    here, alice, bob, second, since = await missing_one(network)
    await restart(here, here.node("tehran").engine.open)
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}
    assert (await alice.sync(since))["device_lists"]["changed"] == [bob.user_id], "others have to know it too"


@aio
async def test_a_restart_alone_makes_no_copy_old(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    await share(here, alice.user, bob)
    await held(here, bob)
    asked = len(network.exchanges)
    await restart(here)
    await remote_lists.refresh_stale(here.server)
    await here.node("tehran").engine.close()
    await here.node("tehran").engine.open()
    assert set((await alice.query(bob))["device_keys"]) == {bob.user_id}
    assert len(network.exchanges) == asked


@aio
async def test_only_those_whose_keys_are_others_are_told_of(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    carol, dave = await device_of(there, "carol"), await device_of(there, "dave")
    node = here.node("tehran")
    room_id = await share(here, alice.user, bob)
    for device in (carol, dave):
        await move(node, room_id, device.user_id)
    await alice.query(bob, carol, dave)
    since = (await alice.sync())["next_batch"]
    await shown_keys.miss(here.server, node)
    await (await bob.another()).publish()
    await dave.gets("POST", "/keys/device_signing/upload", Identity(dave.user_id).upload())
    await remote_lists.refresh_stale(here.server)
    assert sorted((await alice.sync(since))["device_lists"]["changed"]) == [bob.user_id, dave.user_id]
    assert {stale for _, stale in (await copies(node)).values()} == {False}
    assert len(await copies(node)) == 3


@aio
async def test_a_list_that_a_crash_left_stale_is_asked_for(network: Network) -> None:
    here, alice, bob, second, version = await gap(network)
    node = here.node("tehran")
    await restart(here)
    network.mend("here.test", "there.test")
    assert await copies(node) == {bob.user_id: (version, True)}
    await remote_lists.refresh_stale(here.server)
    asked = len(network.exchanges)
    shown = await alice.query(bob)
    assert set(shown["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}
    assert len(network.exchanges) == asked


@aio
async def test_news_of_what_was_asked_for_and_kept_a_moment_before(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node = here.node("tehran")
    await share(here, alice.user, bob)
    version = await held(here, bob)
    ask, kept, ends = remote_lists._ask_list, asyncio.Event(), asyncio.Event()

    async def ending_late(*args: Any) -> bool:
        known = await ask(*args)
        kept.set()
        await ends.wait()
        return known

    async def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(node, "advance", advance)
        remote_lists.begin_refresh(here.server, node, bob.user_id)
        await kept.wait()
        return await advance(*args)

    advance = node.advance
    monkeypatch.setattr(remote_lists, "_ask_list", ending_late)
    monkeypatch.setattr(node, "advance", overtaken)
    await remote_lists.mark_stale(here.server, node, bob.user_id)
    assert await copies(node) == {bob.user_id: (version, True)}
    ends.set()
    await network.settle()
    await network.clock.advance(remote_lists.PAUSE)
    await network.settle()
    assert await copies(node) == {bob.user_id: (version, False)}


@aio
async def test_a_server_that_is_silent_is_asked_for_one_list(network: Network) -> None:
    here, there = await towns(network)
    alice, node = await device_of(here, "alice"), here.node("tehran")
    devices = [await device_of(there, f"user{number}") for number in range(5)]
    room_id = await share(here, alice.user, devices[0])
    for device in devices[1:]:
        await move(node, room_id, device.user_id)
    await alice.query(*devices)
    await node.write(remote_device_lists.mark_all_stale)
    network.lose_answers("here.test", "there.test")
    before = len(network.exchanges)
    await remote_lists.refresh_stale(here.server)
    assert len(network.exchanges) == before + 1
    network.mend("here.test", "there.test")
    await remote_lists.refresh_stale(here.server)
    assert {stale for _, stale in (await copies(node)).values()} == {False}


@aio
async def test_what_can_neither_be_taken_nor_noted_comes_again(network: Network) -> None:
    here, there = await towns(network)
    bob = await device_of(there, "bob")
    directory = here.server.nodes.directory.engine
    await here.node("tehran").engine.close()
    await directory.close()
    with pytest.raises(NodeUnavailable):
        await edus.take(here.server, "there.test", [word_of(bob, 7)])
    await directory.open()
    await edus.take(here.server, "there.test", [word_of(bob, 7)])
    assert await mark(here) is not None
    assert await mark(here, "paris") is None


@aio
async def test_what_is_missed_while_a_node_catches_up_is_not_forgotten(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node = here.node("tehran")
    await share(here, alice.user, bob)
    await held(here, bob)
    await shown_keys.miss(here.server, node)
    write, marked = node.write, 0

    async def missing_more(*args: Any) -> None:
        nonlocal marked
        marked += 1
        await write(*args)
        if marked == 1:
            await shown_keys.miss(here.server, node)

    monkeypatch.setattr(node, "write", missing_more)
    await shown_keys.catch_up(here.server, node)
    assert await mark(here) is not None
    await shown_keys.catch_up(here.server, node)
    await shown_keys.catch_up(here.server, node)
    assert await mark(here) is None
    assert marked == 2
