"""A node that is cut off and comes back: its room goes on elsewhere, the branches are merged, nothing is lost."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from homeserver.residency.moves.rehoming import all_follow
from homeserver.rooms.transactions import Seen
from homeserver.storage.directory import Kind
from tests.rooms.play import Cast, Play, ciphertext
from tests.support import Databases, aio


async def cut_off(play: Play, engines: Databases, name: str) -> None:
    await engines.take_away(name)
    health = await play.node(name).engine.probe()
    assert not health.up


async def reconnect(play: Play, engines: Databases, name: str) -> None:
    await engines.bring_back(name)
    health = await play.node(name).engine.probe()
    assert health.up
    await play.deployment.clock.advance(10)


async def breakable(cast: Cast, engines: Databases) -> Play:
    for name in ("tehran", "paris"):
        await engines.make_breakable(name)
    return await cast()


@aio
async def test_a_member_elsewhere_is_cut_off(cast: Cast, engines: Databases) -> None:
    play = await breakable(cast, engines)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await cut_off(play, engines, "paris")
    for number in range(5):
        await play.send(alice, room_id, f"{number}")
    refused = await play.refused(bob, "PUT", f"/rooms/{quote(room_id)}/send/m.room.encrypted/t", ciphertext("?"))
    assert (refused.status, refused.json["org.domicile.reason"]) == (503, "node_unavailable")
    await reconnect(play, engines, "paris")
    await play.assert_equal(room_id)
    assert await play.texts(bob, room_id) == ["0", "1", "2", "3", "4"]
    await play.send(bob, room_id, "back")
    await play.assert_equal(room_id)


@aio
async def test_the_home_node_is_cut_off(cast: Cast, engines: Databases) -> None:
    play = await breakable(cast, engines)
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.room_of(alice, bob, dora)
    await play.send(alice, room_id, "before")
    await play.settle()
    await play.end()
    await play.send(alice, room_id, "unheard")  # it waits in the outbox of a node that is lost now
    await cut_off(play, engines, "tehran")
    await play.send(bob, room_id, "alone")
    await play.send(dora, room_id, "with you", "d1")
    assert await play.texts(dora, room_id) == ["before", "alone", "with you"]
    await reconnect(play, engines, "tehran")
    await play.begin()
    await play.deployment.clock.advance(5)
    await play.assert_equal(room_id, ordered=False)
    assert sorted(await play.texts(alice, room_id)) == sorted(await play.texts(bob, room_id))
    assert sorted(await play.texts(bob, room_id)) == ["alone", "before", "unheard", "with you"]
    assert len((await play.replica("tehran", room_id)).now.tips) == 2
    repeated = await play.send(dora, room_id, "with you", "d1")
    assert repeated in await play.event_ids("paris", room_id)
    await play.send(bob, room_id, "together")
    await play.assert_equal(room_id, ordered=False)
    assert len((await play.replica("tehran", room_id)).now.tips) == 1
    assert sorted(await play.texts(alice, room_id)) == ["alone", "before", "together", "unheard", "with you"]


@pytest.mark.parametrize("ban", [False, True])
@aio
async def test_both_sides_of_a_fork_change_the_state(cast: Cast, engines: Databases, ban: bool) -> None:
    play = await breakable(cast, engines)
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    levels = {"users": {bob.user_id: 60}}
    invite = [bob.user_id, dora.user_id]
    room_id = await play.create(alice, invite=invite, power_level_content_override=levels)
    for user in (bob, dora):
        await play.change(user, room_id, "join")
    await play.settle()
    topic = f"/rooms/{quote(room_id)}/state/m.room.topic/"
    await play.end()
    await play.ask(alice, "PUT", topic, {"topic": "Tehran's"})
    if ban:
        await play.ask(alice, "POST", f"/rooms/{quote(room_id)}/ban", {"user_id": dora.user_id})
    await cut_off(play, engines, "tehran")
    await play.ask(bob, "PUT", topic, {"topic": "Paris's"})
    await play.ask(bob, "PUT", f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "Paris"})
    await play.send(dora, room_id, "am I here?")
    await reconnect(play, engines, "tehran")
    await play.begin()
    await play.deployment.clock.advance(5)
    await play.settle()
    await play.send(bob, room_id, "merged")
    await play.settle()
    assert await play.state_of("tehran", room_id) == await play.state_of("paris", room_id)
    for name in ("tehran", "paris"):
        room = await play.replica(name, room_id)
        assert room.now.membership(dora.user_id) == ("ban" if ban else "join")
        assert room.now.nodes == {"tehran": 1, "paris": 1 if ban else 2}
        assert len(room.now.tips) == 1
    assert (
        sorted(await play.texts(alice, room_id)) == sorted(await play.texts(bob, room_id)) == ["am I here?", "merged"]
    )
    names = [await play.ask(user, "GET", f"/rooms/{quote(room_id)}/state/m.room.name/") for user in (alice, bob)]
    assert names == [{"name": "Paris"}] * 2


@aio
async def test_joining_while_the_home_node_is_away(cast: Cast, engines: Databases) -> None:
    play = await breakable(cast, engines)
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.create(alice, preset="public_chat")
    await play.change(bob, room_id, "join")
    await play.settle()
    await cut_off(play, engines, "tehran")
    await play.change(dora, room_id, "join")
    await play.send(dora, room_id, "hello")
    await reconnect(play, engines, "tehran")
    await play.assert_equal(room_id, ordered=False)
    assert await play.texts(alice, room_id) == ["hello"]
    assert (await play.replica("tehran", room_id)).now.nodes == {"tehran": 1, "paris": 2}


@pytest.mark.parametrize("forgotten", [False, True])
@aio
async def test_a_request_is_repeated_when_another_node_orders_the_room(
    cast: Cast, engines: Databases, forgotten: bool
) -> None:
    """What the one before had ordered has not arrived yet; also after a restart, and when it cannot be asked."""
    play = await breakable(cast, engines)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await play.end()
    first = await play.send(bob, room_id, "once", "t")
    paris = play.node("paris")
    await all_follow(play.server, room_id, paris, ["tehran", "paris"])
    await play.server.nodes.directory.reroute_all([(Kind.ROOM, room_id)], "paris")
    assert first not in await play.event_ids("paris", room_id)
    if forgotten:
        for name in ("tehran", "paris"):
            vars(play.node(name).memory(Seen)).update(vars(Seen()))
    assert await play.send(bob, room_id, "once", "t") == first
    await cut_off(play, engines, "tehran")
    refused = await play.refused(bob, "PUT", f"/rooms/{quote(room_id)}/send/m.room.encrypted/t", ciphertext("?"))
    assert (refused.status, refused.json["org.domicile.reason"]) == (503, "node_unavailable")
    await play.send(bob, room_id, "new", "u")
    await reconnect(play, engines, "tehran")
    await play.begin()
    await play.settle()
    assert sorted(await play.texts(alice, room_id)) == sorted(await play.texts(bob, room_id)) == ["new", "once"]
    assert await play.send(bob, room_id, "once", "t") == first
