"""Devices that their owners have not signed: shown for a time of grace, then to nobody else, and again once signed."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from homeserver.e2ee import for_servers, one_time_keys, unsigned
from homeserver.e2ee.one_time_keys import Wanted
from homeserver.storage import device_keys
from homeserver.storage.engine import Transaction
from tests.deployment import FLOWING, SETTINGS
from tests.e2ee.play import Cast, Device, Identity, KeyPlay
from tests.e2ee.test_cross_signing import confirm, identity
from tests.support import ON_SQLITE, aio
from tests.transparency.stranger import Stranger
from tests.transparency.test_key_log import caught_up

DAY = 86_400.0
WEEK = SETTINGS + '[encryption]\nunsigned_device_grace = "1w"\n'
ABROAD = FLOWING + '[[flows]]\nfrom = "IR"\nto = ["unknown"]\nclasses = ["keys"]\n'


async def sign(device: Device, mine: Identity) -> None:
    """Have a device signed by its owner's self-signing key."""
    signed = mine.by(mine.self_signing, device.device_keys())
    answer = await device.gets("POST", "/keys/signatures/upload", {device.user_id: {device.device_id: signed}})
    assert answer == {"failures": {}}


async def pass_days(play: KeyPlay, days: float) -> None:
    """Let time pass, and what the server does then."""
    await play.deployment.clock.advance(days * DAY)
    await unsigned.sweep(play.server)
    await play.settle()


async def shown(reader: Device, owner: Device) -> set[str]:
    """The devices of the owner that a reader is shown."""
    return set((await reader.query(owner))["device_keys"][owner.user_id])


@aio
async def test_it_is_withheld_after_a_time_and_comes_back_when_signed(cast: Cast) -> None:
    play = await cast(policy=ABROAD, settings=WEEK)
    alice, bob, carol = await play.device("alice"), await play.device("bob"), await play.device("carol", "paris")
    await play.room_of(alice.user, bob.user, carol.user)
    mine = await identity(alice)
    await sign(alice, mine)
    second = await alice.another()
    await second.publish(one_time_keys=second.one_time_keys("A", "B"))
    both, one = {alice.device_id, second.device_id}, {alice.device_id}
    await pass_days(play, 6.9)
    for reader in (alice, bob, carol):
        assert await shown(reader, alice) == both
    assert (await bob.claim(second))["one_time_keys"] != {}
    since = {reader: (await reader.sync())["next_batch"] for reader in (bob, carol)}
    await pass_days(play, 0.2)
    for reader in (bob, carol):
        assert await shown(reader, alice) == one
        assert (await reader.sync(since[reader]))["device_lists"]["changed"] == [alice.user_id]
        assert (await reader.claim(second))["one_time_keys"] == {}
        assert (await reader.query(alice, alice=[second.device_id]))["device_keys"] == {alice.user_id: {}}
    assert await shown(alice, alice) == both
    assert await shown(second, alice) == both
    peer = await for_servers.query(play.server, "peer.example", {alice.user_id: []})
    assert set(peer["device_keys"][alice.user_id]) == one
    listed = await for_servers.device_list(play.server, "peer.example", alice.user_id)
    assert {each["device_id"] for each in listed["devices"]} == one
    wanted = [Wanted(alice.user_id, second.device_id, "signed_curve25519")]
    assert await one_time_keys.claim_for(play.server, "peer.example", wanted) == {}
    await caught_up(play.deployment)
    for reader in (alice, bob):  # the log speaks of it, and the proof says that it is withheld
        await Stranger(play.deployment).check(await reader.query(alice), alice.user_id)
    await sign(second, mine)
    await play.settle()
    for reader in (bob, carol):
        assert await shown(reader, alice) == both
    assert (await bob.claim(second))["one_time_keys"] != {}
    await pass_days(play, 30)
    assert await shown(bob, alice) == both


@ON_SQLITE
@aio
async def test_without_cross_signing_all_are_shown(cast: Cast) -> None:
    play = await cast(settings=WEEK)
    alice, bob = await play.device("alice"), await play.device("bob")
    await pass_days(play, 100)
    assert await shown(bob, alice) == {alice.device_id}
    mine = await identity(alice)  # from now on there is something to sign with, and time for it
    await pass_days(play, 6)
    assert await shown(bob, alice) == {alice.device_id}
    await pass_days(play, 2)
    assert await shown(bob, alice) == set()
    await sign(alice, mine)
    assert await shown(bob, alice) == {alice.device_id}


@ON_SQLITE
@aio
async def test_another_identity_gives_devices_time_but_shows_none_again(cast: Cast) -> None:
    play = await cast(settings=WEEK)
    alice, bob = await play.device("alice"), await play.device("bob")
    mine = await identity(alice)
    await sign(alice, mine)
    late = await alice.another()
    await late.publish()
    await pass_days(play, 8)
    assert await shown(bob, alice) == {alice.device_id}
    other = Identity(alice.user_id)
    await confirm(alice, other.upload())
    await pass_days(play, 6)
    assert await shown(bob, alice) == {alice.device_id}
    await pass_days(play, 2)
    assert await shown(bob, alice) == set()
    await sign(late, other)
    assert await shown(bob, alice) == {late.device_id}


@ON_SQLITE
@aio
async def test_a_clock_that_is_set_back_neither_shows_nor_spares(cast: Cast) -> None:
    play = await cast(settings=WEEK)
    alice, bob = await play.device("alice"), await play.device("bob")
    await sign(alice, await identity(alice))
    gone, spared = await alice.another(), await alice.another()
    await gone.publish()
    await pass_days(play, 8)
    clock = play.deployment.clock
    clock._start_ms += int(900 * DAY * 1000)
    await spared.publish()
    clock._start_ms -= int(905 * DAY * 1000)
    await pass_days(play, 0)
    assert await shown(bob, alice) == {alice.device_id, spared.device_id}
    await pass_days(play, 7.1)
    assert await shown(bob, alice) == {alice.device_id}


@ON_SQLITE
@aio
async def test_without_any_time_and_without_any_end(cast: Cast) -> None:
    play = await cast()
    alice, bob = await play.device("alice-0"), await play.device("bob-0")
    mine = await identity(alice)
    await sign(alice, mine)
    second = await alice.another()
    await second.publish()
    assert await shown(bob, alice) == {alice.device_id}
    third = await alice.another()
    signed = mine.by(mine.self_signing, third.device_keys())  # as a client can that has the keys already
    await third.gets("POST", "/keys/upload", {"device_keys": signed})
    assert await shown(bob, alice) == {alice.device_id, third.device_id}
    again = await cast(settings=SETTINGS + '[encryption]\nunsigned_device_grace = "never"\n')
    await pass_days(again, 100)
    answer = await again.deployment.asked(
        "POST", "/_matrix/client/v3/keys/query", {"device_keys": {alice.user_id: []}}, token=bob.user.token
    )
    assert set(answer.json["device_keys"][alice.user_id]) == {alice.device_id, second.device_id, third.device_id}


@ON_SQLITE
@aio
async def test_other_keys_of_a_signed_device_are_unsigned(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    await sign(alice, await identity(alice))
    again = Device(alice.user)  # somebody who has got hold of the session
    await again.publish()
    await pass_days(play, 8)
    assert await shown(bob, alice) == set()


@ON_SQLITE
@aio
async def test_what_was_there_before_is_given_time(cast: Cast) -> None:
    """As the migration leaves it: nobody knows since when."""
    play = await cast(settings=WEEK)
    alice, bob = await play.device("alice"), await play.device("bob")
    mine = await identity(alice)
    second = await alice.another()
    await second.publish()
    await sign(second, mine)

    async def forget(tx: Transaction) -> None:
        await tx.run("UPDATE device_keys SET unsigned_since = 0")

    await pass_days(play, 1)
    await play.node("tehran").write(forget)
    await pass_days(play, 0)
    assert await shown(bob, alice) == {alice.device_id, second.device_id}
    await pass_days(play, 8)
    assert await shown(bob, alice) == {second.device_id}


def test_only_the_key_that_there_is_counts() -> None:
    mine, other = Identity("@a:x"), Identity("@a:x")
    key = {"device_id": "D", "user_id": "@a:x", "keys": {}, "algorithms": []}

    def keys(signed: Mapping[str, object], by: Identity | None = None) -> device_keys.UserKeys:
        signing = {} if by is None else {"self_signing": orjson.dumps(by.upload()["self_signing_key"])}
        return device_keys.UserKeys({"D": device_keys.DeviceKeys(orjson.dumps(signed), None)}, signing)

    signed = mine.by(mine.self_signing, key)
    assert unsigned.is_signed(keys(signed, mine), "D", "@a:x")
    assert not unsigned.is_signed(keys(signed, other), "D", "@a:x")
    assert not unsigned.is_signed(keys(signed), "D", "@a:x")
    assert not unsigned.is_signed(keys(key, mine), "D", "@a:x")
    assert not unsigned.is_signed(keys({**signed, "keys": {"curve25519:D": "x"}}, mine), "D", "@a:x")
    assert not unsigned.is_signed(keys(signed, mine), "E", "@a:x")
    both = other.by(other.self_signing, signed)
    assert unsigned.is_signed(keys(both, mine), "D", "@a:x")
