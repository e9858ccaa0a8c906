"""Identity keys: uploaded, asked for, copied to the nodes that share rooms, and told of when they change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.e2ee import publication
from homeserver.e2ee.shown_keys import Remembered
from homeserver.storage import key_audiences, users
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from tests.deployment import POLICY
from tests.e2ee.play import Cast, Device, Identity, KeyPlay
from tests.support import aio


async def rows(node: Node, table: str) -> list[tuple[Any, ...]]:
    async def read(tx: Transaction) -> list[tuple[Any, ...]]:
        return await tx.all(f"SELECT * FROM {table}")

    return await node.read(read)


async def copies(play: KeyPlay, node: str) -> set[str]:
    """The users of whose keys a node holds a copy."""

    async def read(tx: Transaction) -> set[str]:
        return {row[0] for row in await tx.all("SELECT user_id FROM key_replicas JOIN users USING (user_nid)")}

    return await play.node(node).read(read)


@aio
async def test_what_was_uploaded_is_shown(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    keys = alice.device_keys()
    answer = await bob.query(alice, bob)
    assert answer["device_keys"][alice.user_id] == {
        alice.device_id: {**keys, "unsigned": {"device_display_name": "alice's phone"}}
    }
    assert list(answer["device_keys"]) == [alice.user_id, bob.user_id]
    assert answer["failures"] == {}


@aio
async def test_a_new_name_is_shown(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    await play.room_of(alice.user, bob.user)
    since = (await bob.sync())["next_batch"]
    await alice.gets("PUT", f"/devices/{alice.device_id}", {"display_name": "tablet"})
    await wait_for(play, bob, since)
    shown = (await bob.query(alice))["device_keys"][alice.user_id][alice.device_id]
    assert shown["unsigned"] == {"device_display_name": "tablet"}


@aio
async def test_some_devices_of_a_user(play: KeyPlay) -> None:
    alice = await play.device("alice")
    second = await alice.another()
    await second.publish()
    assert set((await alice.query(alice))["device_keys"][alice.user_id]) == {alice.device_id, second.device_id}
    one = await alice.query(alice, alice=[second.device_id, "NOSUCH"])
    assert set(one["device_keys"][alice.user_id]) == {second.device_id}


@aio
async def test_unknown_users_are_left_out(play: KeyPlay) -> None:
    alice = await play.device("alice")
    silent = await play.device("silent", "paris", published=False)
    before = await rows(play.node("tehran"), "users")
    wanted: dict[str, list[str]] = {
        user_id: [] for user_id in (silent.user_id, "@nobody:example.org", "@x:elsewhere.example")
    }
    answer = await alice.gets("POST", "/keys/query", {"device_keys": wanted})
    assert answer["device_keys"] == {silent.user_id: {}}
    assert set(answer["failures"]) == {"elsewhere.example"}
    assert await rows(play.node("tehran"), "users") == before  # asking makes nobody known


@aio
async def test_keys_must_be_the_devices_own(play: KeyPlay) -> None:
    alice, bob = await play.device("alice", published=False), await play.device("bob", published=False)
    good = alice.device_keys()
    for keys, errcode in [
        (bob.device_keys(), "M_INVALID_PARAM"),
        ({**good, "device_id": "OTHER"}, "M_INVALID_PARAM"),
        ({**good, "algorithms": ["other"]}, "M_INVALID_SIGNATURE"),
        ({**good, "signatures": {}}, "M_INVALID_SIGNATURE"),
        ({**good, "signatures": []}, "M_BAD_JSON"),
        ({**good, "keys": [1]}, "M_BAD_JSON"),
        ({**good, "keys": {"ed25519:" + alice.device_id: "short"}}, "M_INVALID_PARAM"),
        ({**good, "algorithms": "x"}, "M_BAD_JSON"),
        ({name: value for name, value in good.items() if name != "signatures"}, "M_MISSING_PARAM"),
        ({name: value for name, value in good.items() if name != "keys"}, "M_MISSING_PARAM"),
        ({**good, "more": 1.5}, "M_INVALID_SIGNATURE"),
        (alice.sign({**good, "more": "x" * 20000}), "M_TOO_LARGE"),
        ("keys", "M_BAD_JSON"),
    ]:
        answer = await alice.asks("POST", "/keys/upload", {"device_keys": keys})
        assert (answer.status in (400, 413), answer.errcode) == (True, errcode), keys
    assert (await alice.query(alice))["device_keys"] == {alice.user_id: {}}


@aio
async def test_malformed_questions(play: KeyPlay) -> None:
    alice = await play.device("alice")
    for body, errcode in [
        ({}, "M_MISSING_PARAM"),
        ({"device_keys": []}, "M_BAD_JSON"),
        ({"device_keys": {"alice": []}}, "M_INVALID_PARAM"),
        ({"device_keys": {alice.user_id: {}}}, "M_BAD_JSON"),
        ({"device_keys": {alice.user_id: [5]}}, "M_BAD_JSON"),
        ({"device_keys": {}, "timeout": -1}, "M_INVALID_PARAM"),
    ]:
        assert (await alice.asks("POST", "/keys/query", body)).errcode == errcode, body


@aio
async def test_the_same_keys_again_are_no_change(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    await play.room_of(alice.user, bob.user)
    since = (await bob.sync())["next_batch"]
    await alice.publish()
    assert "device_lists" not in await bob.sync(since)


@aio
async def test_a_room_over_the_border_brings_copies(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    trips = play.node("paris").engine.trips
    first = await alice.query(bob)
    assert play.node("paris").engine.trips > trips  # asked there, and kept
    assert await copies(play, "tehran") == {bob.user_id}
    assert await asked_of(play, "paris", alice, bob) == (first, 0)
    await play.end()
    await play.node("paris").engine.close()
    assert await alice.query(bob) == first


@aio
async def test_a_copy_follows_every_change(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    await alice.query(bob)
    since = (await alice.sync())["next_batch"]
    second = await bob.another()
    await second.publish()
    await play.settle()
    synced = await alice.sync(since)
    assert synced["device_lists"]["changed"] == [bob.user_id]
    found, trips = await asked_of(play, "paris", alice, bob)
    assert set(found["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}
    assert trips == 0
    since = (await alice.sync(synced["next_batch"]))["next_batch"]
    await second.gets("POST", "/logout", {})
    await wait_for(play, alice, since)
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id}


async def asked_of(play: KeyPlay, name: str, asking: Device, about: Device) -> tuple[dict[str, Any], int]:
    """What a query for somebody's keys is answered, and how often it asks a node: the least of three times, since what
    ships may ask the node too at that moment."""
    engine, costs, answer = play.node(name).engine, [], {}
    for _ in range(3):
        before = engine.trips
        answer = await asking.query(about)
        costs.append(engine.trips - before)
    return answer, min(costs)


async def wait_for(play: KeyPlay, device: Device, since: str) -> None:
    """Wait until the device is told that somebody's keys changed."""
    while "device_lists" not in (answer := await device.sync(since, wait_ms=60_000)):
        since = answer["next_batch"]


@aio
async def test_keys_of_somebody_who_left_are_not_kept_stale(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    room_id = await play.room_of(alice.user, bob.user)
    await alice.query(bob)
    await play.change(bob.user, room_id, "leave")
    await play.settle()
    second = await bob.another()
    await second.publish()
    await play.settle()
    assert await copies(play, "tehran") == set()  # it was told to forget them
    await play.change(alice.user, room_id, "invite", user_id=bob.user_id)
    await play.change(bob.user, room_id, "join")
    await play.settle()
    found = await alice.query(bob)
    assert set(found["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}


@aio
async def test_a_copy_that_arrives_late_replaces_nothing_newer(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    tehran, paris = play.node("tehran"), play.node("paris")
    version, lent = await paris.write(key_audiences.lend, [bob.user_id], "tehran")
    second = await bob.another()
    await second.publish()
    await play.settle()
    bob_nid = await tehran.read(users.nid, bob.user_id)
    assert bob_nid is not None
    await tehran.write(publication.keep, tehran, "paris", version, {bob_nid: lent[bob.user_id]})
    found = await alice.query(bob)
    assert set(found["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}


@aio
async def test_nothing_is_kept_of_strangers(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    assert set((await alice.query(bob))["device_keys"]) == {bob.user_id}
    assert await copies(play, "tehran") == set()
    assert len(await rows(play.node("tehran"), "device_keys")) == 1


@aio
async def test_idle_copies_are_dropped(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    room_id = await play.room_of(alice.user, bob.user)
    await alice.query(bob)
    await publication.drop_idle_copies(play.server)
    assert await copies(play, "tehran") == {bob.user_id}
    await play.change(bob.user, room_id, "leave")
    await play.settle()
    await publication.drop_idle_copies(play.server)
    assert await copies(play, "tehran") == set()
    assert len(await rows(play.node("tehran"), "device_keys")) == 1


@aio
async def test_keys_do_not_flow_where_they_may_not(cast: Cast) -> None:
    play = await cast(policy=POLICY)
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    answer = await alice.query(alice, bob)
    assert list(answer["device_keys"]) == [alice.user_id]
    failure = answer["failures"]["example.org"]
    assert failure["org.domicile.flow"] == {"from": "FR", "to": "IR", "class": "keys"}


@aio
async def test_a_hundred_users_in_one_trip(play: KeyPlay) -> None:
    alice = await play.device("alice")
    others = [await play.device(f"u{number}") for number in range(8)]
    trips = play.node("tehran").engine.trips
    answer = await alice.query(*others)
    assert len(answer["device_keys"]) == 8
    assert play.node("tehran").engine.trips == trips + 1


@pytest.mark.parametrize("home", ["tehran", "paris"])
@aio
async def test_asking_again_costs_nothing_until_something_changes(play: KeyPlay, home: str) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", home)
    await play.room_of(alice.user, bob.user)
    engine = play.node("tehran").engine

    async def asked() -> tuple[dict[str, Any], int]:
        await play.settle()
        for _ in "ab":  # the first time a copy is made of it
            await alice.query(bob, alice)
        trips = engine.trips
        return await alice.query(bob, alice), engine.trips - trips

    async def shown() -> dict[str, Any]:
        """What is shown after a change, which is what somebody who never asked is shown."""
        await play.settle()
        answer = await alice.query(bob)
        play.node("tehran").memory(Remembered).clear()
        assert answer == await alice.query(bob)
        return answer

    first, trips = await asked()
    assert trips == 0
    assert list(first["device_keys"][bob.user_id]) == [bob.device_id]
    await asked()
    second = await bob.another()
    await second.publish()
    assert set((await shown())["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}
    await asked()
    identity = Identity(bob.user_id)
    await bob.gets("POST", "/keys/device_signing/upload", identity.upload())
    assert list((await shown())["master_keys"]) == [bob.user_id]
    await asked()
    await bob.gets("PUT", f"/devices/{second.device_id}", {"display_name": "new"})
    unsigned = (await shown())["device_keys"][bob.user_id][second.device_id].get("unsigned")
    assert unsigned == ({"device_display_name": "new"} if home == "tehran" else None)
    await asked()
    await second.gets("POST", "/logout", {})
    assert list((await shown())["device_keys"][bob.user_id]) == [bob.device_id]


@pytest.mark.parametrize("idle", [True, False])
@aio
async def test_a_copy_that_goes_is_not_remembered(play: KeyPlay, idle: bool) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    room_id = await play.room_of(alice.user, bob.user)
    await alice.query(bob)
    await alice.query(bob)
    await play.change(bob.user, room_id, "leave")
    await play.settle()
    if idle:
        await publication.drop_idle_copies(play.server)
        await play.end()  # no parcel arrives
    second = await bob.another()
    await second.publish()
    if not idle:
        await play.settle()
    assert await copies(play, "tehran") == set()
    found = await alice.query(bob)
    assert set(found["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}


@aio
async def test_a_copy_that_is_asked_for_anew_replaces_what_is_remembered(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    await alice.query(bob)
    await alice.query(bob)
    tehran, paris = play.node("tehran"), play.node("paris")
    bob_nid = await tehran.read(users.nid, bob.user_id)
    assert bob_nid is not None
    await play.end()  # no parcel arrives
    second = await bob.another()
    await second.publish()
    version, lent = await paris.write(key_audiences.lend, [bob.user_id], "tehran")
    await tehran.write(publication.keep, tehran, "paris", version, {bob_nid: lent[bob.user_id]})
    found = await alice.query(bob)
    assert set(found["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}


@aio
async def test_what_changes_while_it_is_read_is_not_remembered(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    for number in range(5):
        second = await bob.another()
        await asyncio.gather(*(alice.query(bob) for _ in range(3)), second.publish(), *(alice.query(bob) for _ in "ab"))
        assert len((await alice.query(bob))["device_keys"][bob.user_id]) == number + 2


@aio
async def test_a_device_that_logs_out_while_it_uploads_leaves_nothing(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    second = await alice.another()
    answers = await asyncio.gather(
        second.asks("POST", "/logout", {}),
        second.asks("POST", "/keys/upload", {"device_keys": second.device_keys()}),
    )
    assert answers[0].status == 200
    assert set((await bob.query(alice))["device_keys"][alice.user_id]) == {alice.device_id}
