"""Reactions: each once, by whom it is from, for what it is about."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from tests.deployment import Answer, User
from tests.rooms.play import CLIENT, Play
from tests.support import aio


async def react(user: User, room_id: str, event_id: str, key: str, txn_id: str) -> Answer:
    relation: dict[str, Any] = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
    path = f"{CLIENT}/rooms/{quote(room_id)}/send/m.reaction/{txn_id}"
    return await user.asks("PUT", path, {"m.relates_to": relation})


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_the_same_reaction_counts_once(play: Play, node: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", node)
    room_id = await play.room_of(alice, bob)
    event_id, other = await play.send(alice, room_id, "roses"), await play.send(alice, room_id, "thorns")
    first = await react(bob, room_id, event_id, "🌹", "1")
    assert first.status == 200
    again = await react(bob, room_id, event_id, "🌹", "2")
    assert (again.status, again.errcode) == (400, "M_DUPLICATE_ANNOTATION")
    repeated = await react(bob, room_id, event_id, "🌹", "1")
    assert (repeated.status, repeated.json) == (200, first.json)
    assert (await react(bob, room_id, event_id, "👍", "3")).status == 200
    assert (await react(bob, room_id, other, "🌹", "4")).status == 200
    assert (await react(alice, room_id, event_id, "🌹", "5")).status == 200
    await play.settle()
    await play.ask(bob, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(first.json['event_id'])}/6", {})
    assert (await react(bob, room_id, event_id, "🌹", "7")).status == 200


@aio
async def test_of_two_at_once_one_counts(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.room_of(alice)
    event_id = await play.send(alice, room_id, "roses")
    answers = await asyncio.gather(*(react(alice, room_id, event_id, "🌹", str(number)) for number in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 400, 400]
    sent = [event for event in await play.timeline(alice, room_id) if event["type"] == "m.reaction"]
    assert len(sent) == 1
