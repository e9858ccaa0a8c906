"""Whoever runs the server gives a user a device, in order to read along: who notices, and that nobody
encrypts for it."""

from __future__ import annotations

import orjson

from homeserver.e2ee import unsigned
from homeserver.storage import device_keys
from homeserver.storage.engine import Transaction
from homeserver.transparency import agreement, comparing, proving
from tests.deployment import Deploy, Deployment
from tests.e2ee.play import Device, Identity
from tests.e2ee.test_unsigned import sign
from tests.support import ON_SQLITE, aio
from tests.transparency import ghosts
from tests.transparency.ghosts import GHOST
from tests.transparency.stranger import Stranger
from tests.transparency.test_key_log import UPLOAD, caught_up, device, refused

QUERY = "/_matrix/client/v3/keys/query"


async def cast(deployment: Deployment) -> tuple[Device, Identity, Device]:
    """Alice, who has signed her device; and Bob."""
    alice, bob = await device(deployment, "alice"), await device(deployment, "bob")
    mine = Identity(alice.user_id)
    await alice.gets("POST", UPLOAD, mine.upload())
    signed = mine.by(mine.self_signing, alice.device_keys())
    await alice.gets("POST", "/keys/signatures/upload", {alice.user_id: {alice.device_id: signed}})
    await caught_up(deployment)
    return alice, mine, bob


def at(deployment: Deployment, device: Device) -> Device:
    """The same device, at the deployment after a restart."""
    device.user.deployment = deployment
    return device


@aio
async def test_a_device_in_the_database_is_in_no_log(deploy: Deploy) -> None:
    deployment = await deploy()
    alice, mine, bob = await cast(deployment)
    await ghosts.by_sql(deployment.node("tehran"), alice.user_id)
    again = await deploy()
    alice, bob = at(again, alice), at(again, bob)
    await caught_up(again)
    await comparing.compare_all(again.server)
    assert again.node("tehran").memory(proving.Remembered).misfits == {alice.user_id}
    again.node("tehran").memory(proving.Remembered).misfits.clear()
    stranger = Stranger(again)
    theirs, own = await bob.query(alice), await alice.query(alice)
    assert set(theirs["device_keys"][alice.user_id]) == {alice.device_id}  # the server notices, too
    await stranger.check(theirs, alice.user_id)
    assert again.node("tehran").memory(proving.Remembered).misfits == {alice.user_id}
    assert set(own["device_keys"][alice.user_id]) == {alice.device_id, GHOST}  # its owner is to know
    assert await refused(stranger, own, alice.user_id) == "the devices are not those of the log"
    wanted = {alice.user_id: {GHOST: "signed_curve25519"}}
    assert (await bob.gets("POST", "/keys/claim", {"one_time_keys": wanted}))["one_time_keys"] == {}
    # What changes later as it should does not bring it into the log.
    second = await alice.another()
    await second.publish()
    await sign(second, mine)
    await caught_up(again)
    theirs = await bob.query(alice)
    assert set(theirs["device_keys"][alice.user_id]) == {alice.device_id, second.device_id}
    await stranger.check(theirs, alice.user_id)
    assert len(await stranger.leaves()) == 4


async def _say_so(tx: Transaction, user_id: str) -> None:
    """Have the database say that the log speaks of all that is there."""
    keys = (await device_keys.of_users(tx, [user_id]))[user_id]
    made = agreement.manifest_of(keys).write()
    await tx.run("UPDATE key_manifests SET keys = ? WHERE user_nid = ?", made, keys.user_nid)


async def _say_nothing(tx: Transaction, user_id: str) -> None:
    await tx.run("DELETE FROM key_manifests WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = ?)", user_id)


@ON_SQLITE
@aio
async def test_whoever_forges_what_the_log_says_proves_nothing(deploy: Deploy) -> None:
    deployment = await deploy()
    alice, _, bob = await cast(deployment)
    await ghosts.by_sql(deployment.node("tehran"), alice.user_id)
    for forge, devices in ((_say_so, 0), (_say_nothing, 2)):
        await deployment.node("tehran").write(forge, alice.user_id)
        again = await deploy()
        await caught_up(again)
        answer = await at(again, bob).query(at(again, alice))
        assert len(answer["device_keys"][alice.user_id]) == devices
        assert await refused(Stranger(again), answer, alice.user_id) == "the digests are not those of the leaf"


async def _exchange(tx: Transaction, user_id: str) -> None:
    """Other keys for a device that there is, and another master key."""
    mine = "user_nid = (SELECT user_nid FROM users WHERE user_id = ?)"
    key = orjson.dumps({"user_id": user_id, "device_id": "x", "algorithms": [], "keys": {}, "signatures": {}})
    await tx.run(f"UPDATE device_keys SET keys = ? WHERE {mine}", key, user_id)
    other = orjson.dumps(Identity(user_id).master_key())
    await tx.run(f"UPDATE cross_signing_keys SET key = ? WHERE usage = 'master' AND {mine}", other, user_id)


@ON_SQLITE
@aio
async def test_keys_that_were_exchanged_are_not_shown(deploy: Deploy) -> None:
    deployment = await deploy()
    alice, _, bob = await cast(deployment)
    await deployment.node("tehran").write(_exchange, alice.user_id)
    again = await deploy()
    await caught_up(again)
    alice, bob = at(again, alice), at(again, bob)
    answer = await bob.query(alice)
    assert answer["device_keys"] == {alice.user_id: {}}
    assert answer["master_keys"] == {}
    assert alice.user_id in answer["self_signing_keys"]
    assert await refused(Stranger(again), answer, alice.user_id) == "the cross-signing keys are not those of the log"


@ON_SQLITE
@aio
async def test_a_device_by_the_rights_of_an_operator_is_in_the_log_and_unsigned(deployment: Deployment) -> None:
    alice, _, bob = await cast(deployment)
    before = len(await Stranger(deployment).leaves())
    ghost = await ghosts.by_admin(deployment, alice.user_id)
    await caught_up(deployment)
    assert (await alice.asks("GET", "/account/whoami")).status == 401  # all of hers were logged out
    assert len(await Stranger(deployment).leaves()) == before + 2
    await deployment.clock.advance(8 * 86_400.0)
    await unsigned.sweep(deployment.server)
    answer = await bob.query(alice)
    assert answer["device_keys"] == {alice.user_id: {}}
    assert (await bob.claim(ghost))["one_time_keys"] == {}
    await Stranger(deployment).check(answer, alice.user_id)
