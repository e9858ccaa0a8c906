"""Rooms and sessions in memory are weighed in bytes, and give way to each other when there are too many."""

from __future__ import annotations

from homeserver import metrics
from homeserver.accounts import callers
from homeserver.rooms import state
from homeserver.rooms.state import Rooms
from tests.rooms.play import Play
from tests.support import aio


def actual(room: state.Room) -> int:
    """What the events of a room's entries weigh, counted one by one."""
    return sum(state.bytes_of(entry.event) for entry in room.now.state.values())


@aio
async def test_a_room_weighs_what_it_holds(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    memory = play.node("tehran").memory(Rooms)
    room = memory.get(room_id)
    assert room is not None
    assert room.loaded == actual(room) > 0
    before = room.weight()
    for number in range(20):
        await play.ask(alice, "PUT", f"/rooms/{room_id}/state/org.example.note", {"note": "x" * 1000, "number": number})
    assert room.loaded == actual(room), "what was replaced does not count"
    assert before + 2_000 < room.weight() < before + 60_000
    assert memory.held.weight == room.weight(), "weighed with every commit"
    fresh = await play.replica("tehran", room_id)
    assert fresh.loaded == actual(fresh)
    await state.require(play.node("tehran"), fresh, list(fresh.now.state))
    assert fresh.loaded == actual(fresh) > 0
    assert memory.held.weight == fresh.weight()


@aio
async def test_rooms_beyond_the_bound_are_forgotten_and_come_back(play: Play) -> None:
    alice = await play.user("alice")
    memory = play.node("tehran").memory(Rooms)
    memory.held.capacity = 100_000
    rooms = [await play.create(alice, topic=f"topic {number}") for number in range(15)]
    assert memory.held.weight <= 100_000
    assert 0 < len(memory.held) < len(rooms)
    for number, room_id in enumerate(rooms):
        found = await play.ask(alice, "GET", f"/rooms/{room_id}/state/m.room.topic")
        assert found["topic"] == f"topic {number}"
    assert memory.held.weight <= 100_000


@aio
async def test_sessions_are_weighed_by_their_tokens(play: Play) -> None:
    alice = await play.user("alice")
    remembered = play.node("tehran").memory(callers.Remembered)
    await play.ask(alice, "GET", "/account/whoami")
    one = remembered._users.weight
    again = await play.deployment.login(alice)
    for token in (alice.token, again.json["access_token"]):
        await play.deployment.asked("GET", "/_matrix/client/v3/account/whoami", token=token)
    assert remembered._users.weight == one + callers.SESSION_BYTES


@aio
async def test_the_metrics_show_them(play: Play) -> None:
    metrics.show(play.server)
    alice = await play.user("alice")
    room_id = await play.create(alice)
    await play.ask(alice, "GET", f"/rooms/{room_id}/state")
    await play.ask(alice, "GET", "/account/whoami")
    shown = (await play.server.telemetry.answer()).decode()
    for cache in ("rooms", "sessions"):
        of_it = {
            line.partition("{")[0]: float(line.rpartition(" ")[2])
            for line in shown.splitlines()
            if f'cache="{cache}"' in line and 'node="tehran"' in line
        }
        assert of_it["domicile_cache_entries"] == 1
        assert 1000 < of_it["domicile_cache_bytes"] < of_it["domicile_cache_bytes_max"]
        assert of_it["domicile_cache_hits_total"] > 0
        assert "domicile_cache_misses_total" in of_it
