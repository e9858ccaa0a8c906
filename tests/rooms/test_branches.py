"""Resolving the branches of a room: in few trips, however long its chains are."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from urllib.parse import quote

import pytest
from immutables import Map

from homeserver.protocol import resolution
from homeserver.rooms import branches, state
from homeserver.rooms.branches import State, TooMuch
from homeserver.rooms.state import Entry
from homeserver.storage import auth_links
from tests.rooms.play import Play
from tests.support import aio


def forgetting(whole: State) -> State:
    """A state of which nothing but the ids is in memory."""
    return Map({key: Entry(entry.event_id, entry.nid, entry.membership) for key, entry in whole.items()})


@aio
async def test_a_long_chain_of_power_levels_is_a_handful_of_trips(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    node = play.node("tehran")
    member = ("m.room.member", bob.user_id)
    joined = (await state.get(node, room_id)).now.state[member]
    path = f"/rooms/{quote(room_id)}/state/m.room.power_levels"
    levels = await play.ask(alice, "GET", path)
    for number in range(120):
        levels["events"]["org.example.n"] = number
        await play.ask(alice, "PUT", path, levels)
    await play.change(bob, room_id, "leave")
    room = await play.replica("tehran", room_id)
    now = room.now.state
    trips = node.engine.trips
    resolved = await branches.resolve(node, room, [forgetting(now), forgetting(now.set(member, joined))])
    assert node.engine.trips - trips < 30
    assert resolved[member].event_id == now[member].event_id
    assert {key: entry.event_id for key, entry in resolved.items()} == {
        key: entry.event_id for key, entry in now.items()
    }


@pytest.mark.parametrize("bound", ["MOST_ROUNDS", "MOST_LOOKED_AT"])
@aio
async def test_a_room_that_is_asked_for_event_by_event_is_given_up(
    play: Play, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    node = play.node("tehran")
    member = ("m.room.member", bob.user_id)
    joined = (await state.get(node, room_id)).now.state[member]
    path = f"/rooms/{quote(room_id)}/state/m.room.power_levels"
    levels = await play.ask(alice, "GET", path)
    for number in range(30):
        levels["events"]["org.example.n"] = number
        await play.ask(alice, "PUT", path, levels)
    await play.change(bob, room_id, "leave")
    room = await play.replica("tehran", room_id)
    now, resolve, near = room.now.state, resolution.resolve, auth_links.near
    rounds = 0

    def counted(*args: Any, **kw: Any) -> Any:
        nonlocal rounds
        rounds += 1
        return resolve(*args, **kw)

    async def only_that(tx: Any, event_ids: Any, most: int, room_nid: int) -> Any:
        return await near(tx, event_ids, 0, room_nid)

    monkeypatch.setattr(resolution, "resolve", counted)
    monkeypatch.setattr(auth_links, "near", only_that)
    both = [forgetting(now), forgetting(now.set(member, joined))]
    await branches.resolve(node, room, both)
    assert rounds > 25, "the room is as bad as that"
    rounds = 0
    monkeypatch.setattr(branches, bound, 10)
    with pytest.raises(TooMuch):
        await branches.resolve(node, room, [forgetting(one) for one in both])
    assert rounds <= 10


@aio
async def test_others_are_served_while_much_is_resolved(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    node = play.node("tehran")
    member = ("m.room.member", bob.user_id)
    joined = (await state.get(node, room_id)).now.state[member]
    await play.change(bob, room_id, "leave")
    room = await play.replica("tehran", room_id)
    now = room.now.state
    monkeypatch.setattr(branches, "LONG", 0)
    resolve, served = resolution.resolve, threading.Event()

    def slow(*args: Any, **kw: Any) -> Any:
        assert served.wait(10), "nobody else was served"
        return resolve(*args, **kw)

    monkeypatch.setattr(resolution, "resolve", slow)
    asyncio.get_running_loop().call_later(0.01, served.set)
    resolved = await branches.resolve(node, room, [forgetting(now), forgetting(now.set(member, joined))])
    assert resolved[member].event_id == now[member].event_id
