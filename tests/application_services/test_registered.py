"""Services come, change and go while the server runs; nothing is lost to those who stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from config.load import load_application_services, settings_from_text
from homeserver.application_services.ping import heard_key
from homeserver.application_services.sending import registered, sender
from homeserver.context import Server
from homeserver.storage.engine import Transaction
from tests.application_services.bridge import Bridge
from tests.application_services.stage import NODE, SetUp, Stage
from tests.deployment import SETTINGS
from tests.rooms.play import CLIENT
from tests.support import Databases, aio


@asynccontextmanager
async def following(stage: Stage) -> AsyncIterator[None]:
    """What sends to services runs as in a server."""
    task = asyncio.create_task(registered.follow(stage.server))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def register(server: Server, directory: Path, *bridges: Bridge, place: str = NODE, **more: object) -> None:
    """Have these services registered, and no others, as their files say."""
    text = SETTINGS
    for bridge in bridges:
        if bridge.port == 0:
            bridge.open()
        text += bridge.write(directory, **more) + place
    services = load_application_services(settings_from_text(text), server.policy.now)
    await registered.put_in_force(server, services)


async def known(server: Server, node: str) -> list[str]:
    """The services of which a node remembers how far they are."""

    async def read(tx: Transaction) -> list[str]:
        return [row[0] for row in await tx.all("SELECT service FROM application_services ORDER BY service")]

    return await server.nodes[node].read(read)


@aio
async def test_a_new_service_is_told_from_now_on_and_the_other_is_not_disturbed(set_up: SetUp, tmp_path: Path) -> None:
    stage = await set_up(sending=False)
    first, second = stage.bridge, Bridge("second", "token-of-the-second")
    stage.bridges.append(second)
    alice = await stage.play.user("alice")
    joe = await stage.ghost("joe")
    async with following(stage):
        old = await stage.room(alice, joe)
        await first.has(await stage.play.send(alice, old, "before"))
        held = stage.server.nodes.directory.memory(sender.Senders).held["bridge"]
        await register(stage.server, tmp_path, first, second)
        made = await stage.register("_second_jane", second)
        assert made.status == 200, made
        jane = stage.ghost_of("_second_jane", bridge=second)
        new = await stage.room(alice, jane)
        sent = await stage.play.send(alice, new, "for the second")
        await second.has(sent)
        last = await stage.play.send(alice, old, "for the first")
        await first.has(last)
        assert {event["room_id"] for event in second.events()} == {new}
        assert {event["room_id"] for event in first.events()} == {old}
        assert stage.server.nodes.directory.memory(sender.Senders).held["bridge"] is held
        assert (await stage.register("_second_intruder")).errcode == "M_EXCLUSIVE"


@aio
async def test_who_is_gone_is_told_nothing_and_may_do_nothing(set_up: SetUp, tmp_path: Path) -> None:
    stage = await set_up(sending=False)
    gone, stays = stage.bridge, Bridge("second", "token-of-the-second")
    stage.bridges.append(stays)
    await register(stage.server, tmp_path, gone, stays)
    alice, joe = await stage.play.user("alice"), await stage.ghost("joe")
    assert (await stage.register("_second_jane", stays)).status == 200
    jane = stage.ghost_of("_second_jane", bridge=stays)
    async with following(stage):
        room_id = await stage.room(alice, joe, jane)
        first = await stage.play.send(alice, room_id, "for both")
        await gone.has(first)
        await stays.has(first)
        stays.outcomes.extend([503] * 1000)
        waiting = [await stage.play.send(alice, room_id, f"waits {number}") for number in range(3)]
        await gone.has(waiting[-1])
        gone.outcomes.extend([503] * 1000)
        waiting.append(await stage.play.send(alice, room_id, "is never told to who is gone"))
        begun = len(gone.attempts)
        await gone.until(lambda: len(gone.attempts) > begun)
        service = stage.server.services.all[0]
        await register(stage.server, tmp_path, stays)
        gone.outcomes.clear()
        after = await stage.play.send(alice, room_id, "for one")
        assert (await joe.asks("GET", f"{CLIENT}/account/whoami")).status == 401
        stays.outcomes.clear()
        await stays.has(after)
        assert [each for each in stays.event_ids() if each in [first, *waiting, after]] == [first, *waiting, after]
        stage.server.wakeups.wake(heard_key(service))  # whoever still sent to it would do so now
        await stays.has(await stage.play.send(alice, room_id, "once more"))
        assert waiting[-1] not in gone.event_ids()
        assert "bridge" not in stage.server.nodes.directory.memory(sender.Senders).held
        await register(stage.server, tmp_path)
        await sender.introduce(stage.server)
        assert await known(stage.server, "tehran") == []


@aio
async def test_what_waits_goes_where_the_service_is_now(set_up: SetUp, tmp_path: Path) -> None:
    stage = await set_up(sending=False)
    alice, joe = await stage.play.user("alice"), await stage.ghost("joe")
    async with following(stage):
        room_id = await stage.room(alice, joe)
        await stage.bridge.has(await stage.play.send(alice, room_id, "here"))
        stage.bridge.outcomes.extend([503] * 1000)
        sent = [await stage.play.send(alice, room_id, f"away {number}") for number in range(3)]
        moved = Bridge("bridge", "another-token")
        stage.bridges.append(moved)
        await register(stage.server, tmp_path, moved)
        await moved.has(sent[-1])
        assert [each for each in moved.event_ids() if each in sent] == sent
        assert not set(sent) & set(stage.bridge.event_ids())
        assert (await joe.asks("GET", f"{CLIENT}/account/whoami")).status == 401  # by the token of before
        assert (await stage.ghost_of("_bridge_joe", bridge=moved).asks("GET", f"{CLIENT}/account/whoami")).status == 200


@aio
async def test_rooms_that_there_are_come_into_a_new_namespace(set_up: SetUp, tmp_path: Path) -> None:
    stage = await set_up(sending=False)
    alice = await stage.play.user("alice")
    room_id = (await alice.asks("POST", f"{CLIENT}/createRoom", {"room_alias_name": "_tea_room"})).json["room_id"]
    await stage.play.send(alice, room_id, "before")
    tea = Bridge("tea", "token-of-tea")
    stage.bridges.append(tea)
    async with following(stage):
        await register(stage.server, tmp_path, stage.bridge, tea)
        sent = await stage.play.send(alice, room_id, "after")
        await tea.has(sent)
        assert tea.event_ids() == [sent]


@aio
async def test_users_that_there_are_come_into_a_new_namespace(set_up: SetUp, tmp_path: Path) -> None:
    stage = await set_up(sending=False)
    alice, bob = await stage.play.user("alice"), await stage.play.user("_late_bob")
    room_id = await stage.room(alice, bob)
    await stage.play.send(alice, room_id, "before")
    late = Bridge("late", "token-of-late")
    stage.bridges.append(late)
    async with following(stage):
        await register(stage.server, tmp_path, stage.bridge, late)
        sent = await stage.play.send(alice, room_id, "after")
        await late.has(sent)
        assert late.event_ids() == [sent]


@aio
async def test_a_service_whose_node_is_down_begins_when_it_is_up(
    set_up: SetUp, tmp_path: Path, engines: Databases
) -> None:
    await engines.make_breakable("paris")
    stage = await set_up(sending=False)
    paris = stage.play.node("paris")
    alice = await stage.play.user("alice", "paris")
    await engines.take_away("paris")
    assert not (await paris.engine.probe()).up
    second = Bridge("second", "token-of-the-second")
    stage.bridges.append(second)
    async with following(stage):
        await register(stage.server, tmp_path, second, place='node = "paris"\n')
        await engines.bring_back("paris")
        assert (await paris.engine.probe()).up
        await sender.introduce(stage.server)
        await stage.server.nodes.directory.memory(sender.Senders).held["second"].ready.wait()
        assert await known(stage.server, "paris") == ["second"]
        jane = stage.ghost_of("_second_jane", bridge=second)
        assert (await stage.register("_second_jane", second)).status == 200
        room_id = await stage.room(alice, jane)
        await second.has(await stage.play.send(alice, room_id, "hello"))
