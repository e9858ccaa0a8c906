"""A user is moved while they are logged in: whatever was theirs is theirs on the other node, and nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.residency.moves import erasing, rooms_ahead
from homeserver.rooms import state
from homeserver.storage import client_transactions
from homeserver.storage import moves as stored
from homeserver.storage.engine import Transaction
from tests.deployment import POLICY
from tests.e2ee.play import Device, events, message
from tests.moves.play import Staging, closed_window
from tests.support import ON_SQLITE, aio


@aio
async def test_an_account_goes_as_a_whole(stage: Staging) -> None:
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    room = await play.room_of(alice.user, bob.user)
    await play.send(alice.user, room, "before")
    await bob.send("t1", {alice.user_id: {alice.device_id: message("waiting")}})
    await play.ask(alice.user, "PUT", f"/user/{alice.user_id}/account_data/org.example", {"a": "b"})
    await play.ask(alice.user, "PUT", f"/user/{alice.user_id}/rooms/{room}/account_data/org.example", {"c": "d"})
    await play.ask(alice.user, "PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    before = await play.rows_of("tehran", alice)
    await play.move(alice)
    assert await play.rows_of("tehran", alice) == {}
    after = await play.rows_of("paris", alice)
    for table in ("accounts", "devices", "access_tokens", "account_data", "device_keys", "one_time_keys", "to_device"):
        assert after[table] == before[table], table
    assert (await alice.user.caller()).node.name == "paris"
    answer = await alice.sync()
    assert [each["content"]["ciphertext"] for each in events(answer)] == [message("waiting")["ciphertext"]]
    assert {"type": "org.example", "content": {"a": "b"}} in answer["account_data"]["events"]
    joined = answer["rooms"]["join"][room]
    assert {"type": "org.example", "content": {"c": "d"}} in joined["account_data"]["events"]
    assert "before" in await play.texts(alice.user, room)
    await play.send(alice.user, room, "after")
    await play.settle()
    assert (await play.texts(bob.user, room))[-2:] == ["before", "after"]
    claimed = await bob.claim(alice)
    assert len(claimed["one_time_keys"][alice.user_id][alice.device_id]) == 1


@ON_SQLITE
@aio
async def test_who_is_switched_while_somebody_looks_is_not_said_to_have_come(
    stage: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = await stage()
    alice = await play.device("alice")
    await play.move(alice)
    begun, looked, switched, seen = (asyncio.Event() for _ in range(4))
    bring, finish, arrivals = rooms_ahead.bring, erasing.finish, stored.arrivals

    async def once_looked(*args: Any) -> None:
        begun.set()
        await looked.wait()
        await bring(*args)

    async def once_seen(*args: Any) -> None:
        switched.set()
        await seen.wait()
        await finish(*args)

    async def until_switched(tx: Transaction) -> list[stored.Arrival]:
        found = await arrivals(tx)
        looked.set()
        await switched.wait()
        return found

    monkeypatch.setattr(rooms_ahead, "bring", once_looked)
    monkeypatch.setattr(erasing, "finish", once_seen)
    await play.command("residency-move", user=alice.user_id, to="tehran")
    await begun.wait()  # whoever takes up moves looks for arrivals as well
    with monkeypatch.context() as patch:
        patch.setattr(stored, "arrivals", until_switched)
        assert (await play.status(alice))["state"] != "done"
    assert (await play.status(alice))["state"] == "erasing"
    seen.set()
    assert (await play.ended(alice))["to"] == "tehran"


@aio
async def test_who_stays_hears_and_is_heard_all_the_while(stage: Staging) -> None:
    """A conversation goes on while one of the two is moved, and moved back."""
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob")
    room = await play.room_of(alice.user, bob.user)
    said: list[str] = []
    letters: list[str] = []
    moving = True

    async def talk(device: Device, other: Device, name: str) -> None:
        number = 0
        while moving:
            number += 1
            text = f"{name} {number}"
            await play.send(device.user, room, text)
            said.append(text)
            assert (await device.send(text, {other.user_id: {"*": message(text)}})).status == 200
            if other is alice:
                letters.append(message(text)["ciphertext"])

    talking = [asyncio.ensure_future(talk(*each)) for each in ((alice, bob, "a"), (bob, alice, "b"))]
    for target in ("paris", "tehran", "paris"):
        await play.move(alice, target)
    moving = False
    await asyncio.gather(*talking)
    await play.settle()
    for user in (alice.user, bob.user):
        heard = await play.texts(user, room)
        assert sorted(heard) == sorted(said)
    got: list[str] = []
    since = None
    while more := events(answer := await alice.sync(since)):
        got += [each["content"]["ciphertext"] for each in more]
        since = answer["next_batch"]
    assert got == letters
    await play.assert_equal(room)
    for node in ("tehran", "paris"):
        assert dict((await play.replica(node, room)).now.nodes) == {"tehran": 1, "paris": 1}


@ON_SQLITE
@aio
async def test_a_device_that_has_left_meanwhile_is_not_noted_for_what_it_sent(stage: Staging) -> None:
    """The device that sent an event is known to the node that it was sent from, until the event comes back to it."""
    play = await stage()
    alice = await play.device("alice")
    caller, home = await alice.user.caller(), play.node("tehran")
    echo = client_transactions.Echo(caller.user_nid, caller.device_nid, "t")
    await play.move(alice)
    await home.write(client_transactions.ask, b"key", echo, 0, "paris")
    assert not await home.read(client_transactions.known, b"key")


@aio
async def test_keys_are_given_out_once(stage: Staging) -> None:
    """Devices of others claim keys while their owner is moved: none is given to two."""
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    names = [f"K{number:04}" for number in range(300)]
    await alice.publish(one_time_keys=alice.one_time_keys(*names))
    claimed: list[str] = []
    moving = True

    async def claim() -> None:
        while moving and len(claimed) < 250:
            answer = await bob.claim(alice)
            assert answer["failures"] == {}
            claimed.extend(answer["one_time_keys"][alice.user_id][alice.device_id])

    claiming = [asyncio.ensure_future(claim()) for _ in range(3)]
    await play.move(alice)
    moving = False
    await asyncio.gather(*claiming)
    claimed.extend((await bob.claim(alice))["one_time_keys"][alice.user_id][alice.device_id])
    assert len(claimed) == len(set(claimed)) > 3


@aio
async def test_what_only_they_have_needs_no_flow(stage: Staging) -> None:
    """The decision of an admin moves the pin: where nothing may cross the border, a user and their own rooms do."""
    play = await stage(policy=POLICY)
    alice = await play.device("alice")
    room = await play.create(alice.user)
    sent = [f"note {number}" for number in range(60)]
    for text in sent:
        await play.send(alice.user, room, text)
    await play.move(alice)
    assert await play.texts(alice.user, room) == sent
    await play.send(alice.user, room, "after")
    assert (await play.texts(alice.user, room))[-1] == "after"
    home = await play.server.nodes.of_room(room)
    assert home is not None
    assert home.name == "paris"


@aio
async def test_a_room_that_may_not_span_the_target_blocks(stage: Staging) -> None:
    play = await stage(policy=POLICY)
    alice, bob = await play.user("alice"), await play.user("bob")
    room = await play.room_of(alice, bob)
    own = await play.create(alice)
    found = await play.command("residency-move", user="alice", to="paris", dry_run=True)
    assert [each["room_id"] for each in found["rooms_blocked"]] == [room]
    assert found["tables"]["accounts"]["rows"] == 1
    assert "--leave-rooms" in (await play.refusal("residency-move", user="alice", to="paris")).message
    assert (await alice.caller()).node.name == "tehran"
    await play.move(alice, leave_rooms=True)
    assert (await alice.caller()).node.name == "paris"
    rooms = await play.ask(alice, "GET", "/joined_rooms")
    assert rooms["joined_rooms"] == [own]
    members = await play.ask(bob, "GET", f"/rooms/{room}/joined_members")
    assert members["joined"].keys() == {bob.user_id}


@aio
async def test_one_move_at_a_time(stage: Staging) -> None:
    play = await stage()
    alice = await play.user("alice")
    await play.command("residency-move", user="alice", to="paris", window=closed_window())
    assert "being moved already" in (await play.refusal("residency-move", user="alice", to="paris")).message
    assert "already" in (await play.refusal("residency-move", user="alice", to="tehran")).message
    assert (await play.refusal("residency-move", user="nobody", to="paris")).errcode == "M_NOT_FOUND"
    assert "tehran, paris" in (await play.refusal("residency-move", user="alice", to="berlin")).message
    assert (await alice.caller()).node.name == "tehran"


@aio
async def test_a_move_is_stopped_and_goes_on(stage: Staging) -> None:
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob")
    room = await play.room_of(alice.user, bob.user)
    await play.command("residency-move", user="alice", to="paris", window=closed_window())
    while (await play.status(alice))["reason"] != "waits for its window":
        await play.server.clock.sleep(0.01)
    await play.command("residency-move-stop", user="alice")
    assert (await play.ended(alice))["halted"] == "stopped"
    while dict((await state.get(play.node("tehran"), room)).now.nodes) != {"tehran": 2}:
        await play.server.clock.sleep(0.01)
    assert (await alice.user.caller()).node.name == "tehran"
    await play.send(alice.user, room, "still here")
    assert await play.rows_of("paris", alice) == {}
    assert await play.node("paris").read(_ahead) == (0, 0)
    assert (await play.command("residency-audit"))["findings"] == []
    await play.command("residency-move-resume", user="alice")
    assert (await play.refusal("residency-move-resume", user="alice")).errcode == "M_UNKNOWN"


async def _ahead(tx: Transaction) -> tuple[int, int]:
    """How many rows are staged, and how many events there are."""
    staged = await tx.one("SELECT COUNT(*) FROM staged_rows")
    events_there = await tx.one("SELECT COUNT(*) FROM events")
    assert staged is not None
    assert events_there is not None
    return int(staged[0]), int(events_there[0])


@aio
async def test_a_move_is_forgotten(stage: Staging) -> None:
    play = await stage()
    alice = await play.device("alice")
    await play.command("residency-move", user="alice", to="paris", window=closed_window())
    await play.command("residency-move-stop", user="alice", forget=True)
    assert (await play.command("residency-move-status"))["moves"] == []
    assert await play.node("paris").read(_ahead) == (0, 0)
    await play.move(alice)
    assert (await alice.user.caller()).node.name == "paris"
