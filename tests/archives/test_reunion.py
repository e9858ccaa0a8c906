"""What a node that was put back from an archive is told by the others, and what it is not told."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.rooms import reunion
from tests.archives.play import House
from tests.deployment import User
from tests.support import aio


async def rooms_of(house: House, user: User) -> dict[str, Any]:
    answer: dict[str, Any] = (await house.play.ask(user, "GET", "/sync"))["rooms"]
    return answer


@aio
async def test_the_others_tell_what_it_has_forgotten(house: House) -> None:
    play = house.play
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    here, there = await play.room_of(alice, bob), await play.room_of(bob, alice)
    left = await play.room_of(bob, alice)
    refused = await play.create(bob, invite=[alice.user_id])
    for room in (here, there):
        await play.send(alice, room, "before")
    await play.settle()
    await house.back_up()

    for room in (here, there):
        await play.send(alice, room, "from tehran")
        await play.send(bob, room, "from paris")
    await play.ask(alice, "PUT", f"/rooms/{here}/state/m.room.topic", {"topic": "tea"})
    await play.send(alice, here, "after the topic", "a transaction")
    new_here, new_there = await play.room_of(alice, bob), await play.room_of(bob, alice)
    await play.send(bob, new_here, "new")
    await play.send(bob, new_there, "new")
    open_invitation = await play.create(bob, invite=[alice.user_id], name="Come in")
    await play.change(alice, refused, "leave")
    await play.change(alice, left, "leave")
    secret = await play.send(bob, left, "not for tehran")
    await play.settle()
    before = {room: await play.event_ids("paris", room) for room in (here, there, new_here, new_there)}

    await house.lose_and_restore()
    play, alice, bob = house.play, house.still(alice), house.still(bob)
    for room, events in before.items():
        await play.assert_equal(room, ordered=False)
        assert await play.event_ids("paris", room) == events, "who had it all is told nothing twice"
        assert (await play.texts(alice, room)) == (await play.texts(bob, room))
    assert (await play.texts(alice, here))[-1] == "after the topic"
    assert (await play.ask(alice, "GET", f"/rooms/{here}/state/m.room.topic"))["topic"] == "tea"
    seen = await rooms_of(house, alice)
    assert set(seen["join"]) == {here, there, new_here, new_there}
    assert set(seen["invite"]) == {open_invitation}
    names = [each["content"].get("name") for each in seen["invite"][open_invitation]["invite_state"]["events"]]
    assert "Come in" in names
    assert set(await play.event_ids("paris", left)) - set(await play.event_ids("tehran", left)) == {secret}

    again = await play.send(alice, here, "after the topic", "a transaction")
    assert again == before[here][-1], "a request that is repeated finds its event"
    for room in before:
        await play.send(bob, room, "and on")
        await play.send(alice, room, "it goes")
        await play.settle()
        await play.assert_equal(room, ordered=False)
        assert (await play.texts(alice, room))[-2:] == ["and on", "it goes"]


@aio
async def test_it_is_told_later_by_a_node_that_is_down_and_by_nobody_twice(house: House) -> None:
    play = house.play
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room, other = await play.room_of(alice, bob), await play.room_of(bob, alice)
    await house.back_up()
    await play.send(bob, room, "while nobody looked")
    await play.send(bob, other, "while nobody looked")
    await play.settle()
    told: list[int] = []
    tell = reunion._tell

    async def cut_off(*args: Any) -> int:
        told.append(await tell(*args))
        if len(told) == 1:
            raise ConnectionError
        return told[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reunion, "_tell", cut_off)
        with pytest.raises(ConnectionError):
            await house.lose_and_restore()
    play, alice, bob = house.play, house.still(alice), house.still(bob)
    assert told == [1, 1], "what keeps one room from being told keeps no other"
    await play.send(alice, room, "and on")
    await house.do_chores()
    await play.assert_equal(room, ordered=False)
    assert await play.texts(alice, room) == ["while nobody looked", "and on"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reunion, "_meet", None)
        await house.do_chores()  # nothing is left to be told
