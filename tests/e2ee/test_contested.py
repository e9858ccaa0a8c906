"""Somebody who has a user's password makes another identity, and signs a device with it: who believes that."""

from __future__ import annotations

from typing import Any

from homeserver.e2ee import for_servers, unsigned
from homeserver.storage.engine import Transaction
from tests.deployment import FLOWING, SETTINGS
from tests.e2ee.play import Cast, Device, Identity, KeyPlay
from tests.e2ee.test_cross_signing import confirm, identity
from tests.e2ee.test_dehydrated import Sleeper
from tests.e2ee.test_notices import told
from tests.e2ee.test_unsigned import ABROAD, shown, sign
from tests.support import ON_SQLITE, aio
from tests.transparency.stranger import Stranger
from tests.transparency.test_key_log import caught_up

SIGN = "/keys/signatures/upload"


class Quarrel:
    """Alice has signed her device; a ghost, who has her password, has made another identity, and signed theirs. Bob
    rests where she does, Carol elsewhere."""

    def __init__(self, play: KeyPlay, alice: Device, bob: Device, carol: Device) -> None:
        self.play = play
        self.alice, self.bob, self.carol = alice, bob, carol
        self.mine = self.theirs = Identity(alice.user_id)
        self.ghost = alice

    async def begin(self) -> None:
        """Up to where the ghost is there."""
        await self.play.room_of(self.alice.user, self.bob.user, self.carol.user)
        self.mine = await identity(self.alice)
        await sign(self.alice, self.mine)
        self.ghost = await self.alice.another()
        await self.ghost.publish(one_time_keys=self.ghost.one_time_keys("A", "B"))
        assert await self.seen() == {self.alice.device_id}

    async def reset(self, by: Device, *, vouch: bool = True) -> None:
        """Another identity, which signs the device that makes it, and is signed by that, as clients do."""
        self.theirs = Identity(self.alice.user_id)
        upload = self.theirs.upload()
        await confirm(by, {**upload, "master_key": by.sign(upload["master_key"])} if vouch else upload)
        await sign(by, self.theirs)

    async def seen(self) -> set[str]:
        """Alice's devices as others are shown them, who are all shown the same."""
        await unsigned.sweep(self.play.server)
        await self.play.settle()
        found = [await shown(reader, self.alice) for reader in (self.bob, self.carol)]
        peer = await for_servers.query(self.play.server, "peer.example", {self.alice.user_id: []})
        assert found[0] == found[1] == set(peer["device_keys"][self.alice.user_id])
        return found[0]


async def quarrel(cast: Cast, **more: Any) -> Quarrel:
    play = await cast(**{"policy": ABROAD, **more})
    people = [await play.device("alice"), await play.device("bob"), await play.device("carol", "paris")]
    made = Quarrel(play, *people)
    await made.begin()
    return made


@aio
async def test_nobody_is_shown_whom_an_identity_has_signed_that_her_devices_do_not_know(cast: Cast) -> None:
    it = await quarrel(cast)
    since = {reader: (await reader.sync())["next_batch"] for reader in (it.alice, it.bob, it.carol)}
    await it.reset(it.ghost)
    assert await it.seen() == set()
    for reader in (it.bob, it.carol):
        assert (await reader.claim(it.ghost))["one_time_keys"] == {}
        assert it.alice.user_id in (await reader.sync(since[reader]))["device_lists"]["changed"]
    assert told(await it.alice.sync(since[it.alice])) == [("identity_reset", [])]
    assert await shown(it.alice, it.alice) == {it.alice.device_id, it.ghost.device_id}  # she is to know
    await caught_up(it.play.deployment)
    await Stranger(it.play.deployment).check(await it.bob.query(it.alice), it.alice.user_id)
    await it.reset(it.ghost)  # once more, on a device that has signed
    assert await it.seen() == set()


@ON_SQLITE
@aio
async def test_a_signature_that_is_not_hers_is_none(cast: Cast) -> None:
    it = await quarrel(cast)
    it.theirs = Identity(it.alice.user_id)
    upload = it.theirs.upload()
    forged = {it.alice.user_id: {f"ed25519:{it.alice.device_id}": "A" * 86}}
    upload["master_key"] = {**upload["master_key"], "signatures": forged}
    answer = await it.ghost.asks("POST", "/keys/device_signing/upload", upload)
    assert answer.status == 401
    await confirm(it.ghost, upload)
    await sign(it.ghost, it.theirs)
    own = it.ghost.sign(it.theirs.master_key())  # as clients do, on the device that makes the identity
    name = f"{it.theirs.master.verify_key.base64}"
    assert await it.ghost.gets("POST", SIGN, {it.alice.user_id: {name: own}}) == {"failures": {}}
    assert await it.seen() == set()


@aio
async def test_one_of_her_devices_vouches_for_it(cast: Cast) -> None:
    it = await quarrel(cast)
    await it.reset(it.ghost)
    assert await it.seen() == set()
    vouched = it.alice.sign(it.theirs.master_key())
    name = it.theirs.master.verify_key.base64
    assert await it.alice.gets("POST", SIGN, {it.alice.user_id: {name: vouched}}) == {"failures": {}}
    assert await it.seen() == {it.ghost.device_id}
    await sign(it.alice, it.theirs)
    assert await it.seen() == {it.alice.device_id, it.ghost.device_id}


@aio
async def test_she_has_no_other_device_any_more(cast: Cast) -> None:
    it = await quarrel(cast)
    await it.reset(it.ghost)
    since = (await it.carol.sync())["next_batch"]
    await it.alice.gets("POST", "/logout", {})
    assert await it.seen() == {it.ghost.device_id}
    assert it.alice.user_id in (await it.carol.sync(since))["device_lists"]["changed"]
    await it.reset(it.ghost)
    assert await it.seen() == {it.ghost.device_id}


@ON_SQLITE
@aio
async def test_her_own_device_makes_an_identity_that_is_believed(cast: Cast) -> None:
    it = await quarrel(cast)
    await it.reset(it.ghost)
    await it.reset(it.alice)  # instead of the one that she does not know
    assert await it.seen() == {it.alice.device_id}
    second = await it.alice.another()
    await second.publish()
    await sign(second, it.theirs)
    await it.reset(it.alice)  # she has signed the device on which she does it, and another
    assert await it.seen() == {it.alice.device_id}


@ON_SQLITE
@aio
async def test_whoever_is_logged_in_as_a_device_of_hers_has_not_its_key(cast: Cast) -> None:
    it = await quarrel(cast)
    second = await it.alice.another()
    await second.publish()
    await sign(second, it.mine)
    await it.reset(second, vouch=False)
    assert await it.seen() == set()
    name = it.theirs.master.verify_key.base64
    vouched = second.sign(it.theirs.master_key())  # some clients sign it a moment later
    assert await second.gets("POST", SIGN, {it.alice.user_id: {name: vouched}}) == {"failures": {}}
    assert await it.seen() == {second.device_id}
    await sign(it.alice, it.theirs)
    await it.reset(second, vouch=False)
    assert await it.seen() == set()
    await it.alice.gets("POST", "/logout", {})
    assert await it.seen() == {second.device_id}  # there is no other of hers


@ON_SQLITE
@aio
async def test_a_device_of_hers_that_has_got_other_keys_cannot_vouch(cast: Cast) -> None:
    it = await quarrel(cast)
    second = await it.alice.another()
    await second.publish()
    await sign(second, it.mine)
    await it.reset(it.ghost)
    taken = Device(second.user)  # by whoever logs in as that device
    await taken.publish()
    name = it.theirs.master.verify_key.base64
    vouched = taken.sign(it.theirs.master_key())
    assert await taken.gets("POST", SIGN, {it.alice.user_id: {name: vouched}}) == {"failures": {}}
    assert await it.seen() == set()
    await it.alice.gets("POST", "/logout", {})
    assert await it.seen() == set()
    await taken.gets("POST", "/logout", {})
    assert await it.seen() == {it.ghost.device_id}


@ON_SQLITE
@aio
async def test_a_dehydrated_device_is_not_waited_for(cast: Cast) -> None:
    it = await quarrel(cast)
    assert (await Sleeper(it.alice, it.mine, "SLEEPER").put()).status == 200
    await it.alice.gets("POST", "/logout", {})
    await it.reset(it.ghost)
    assert await it.seen() == {it.ghost.device_id}


async def _awaited(tx: Transaction) -> int:
    return len(await tx.all("SELECT 1 FROM device_keys WHERE awaited = 1"))


@ON_SQLITE
@aio
async def test_where_all_devices_are_shown_this_one_is_too(cast: Cast) -> None:
    play = await cast(policy=FLOWING, settings=SETTINGS + '[encryption]\nunsigned_device_grace = "never"\n')
    alice, bob = await play.device("alice"), await play.device("bob")
    await play.room_of(alice.user, bob.user)
    await sign(alice, await identity(alice))
    ghost = await alice.another()
    await ghost.publish()
    await confirm(ghost, Identity(alice.user_id).upload())
    assert await play.node("tehran").read(_awaited) == 0
    assert await shown(bob, alice) == {alice.device_id, ghost.device_id}
