"""Cross-signing keys and signatures: who may replace them, what is verified, who sees what."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.e2ee import shown_keys
from homeserver.storage.engine import Transaction
from tests.deployment import PASSWORD
from tests.e2ee.play import Device, Identity, KeyPlay, named_key
from tests.support import aio

UPLOAD = "/keys/device_signing/upload"


async def identity(device: Device) -> Identity:
    """Give a user cross-signing keys."""
    made = Identity(device.user_id)
    assert await device.gets("POST", UPLOAD, made.upload()) == {}
    return made


async def confirm(device: Device, body: dict[str, Any]) -> dict[str, Any]:
    """An upload with the authentication that it demands."""
    challenge = await device.asks("POST", UPLOAD, body)
    assert challenge.status == 401
    assert challenge.json["flows"] == [{"stages": ["m.login.password"]}]
    auth = {
        "type": "m.login.password",
        "session": challenge.json["session"],
        "identifier": {"type": "m.id.user", "user": device.user_id},
        "password": PASSWORD,
    }
    return await device.gets("POST", UPLOAD, {**body, "auth": auth})


@aio
async def test_the_first_keys_need_no_password(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    since = (await alice.sync())["next_batch"]
    made = await identity(alice)
    assert (await alice.sync(since))["device_lists"]["changed"] == [alice.user_id]
    mine, theirs = await alice.query(alice), await bob.query(alice)
    upload = made.upload()
    for answer in (mine, theirs):
        assert answer["master_keys"] == {alice.user_id: {**upload["master_key"], "signatures": {}}}
        assert answer["self_signing_keys"] == {alice.user_id: upload["self_signing_key"]}
    assert mine["user_signing_keys"] == {alice.user_id: upload["user_signing_key"]}
    assert theirs["user_signing_keys"] == {}


@aio
async def test_the_same_keys_again_need_none(play: KeyPlay) -> None:
    alice = await play.device("alice")
    made = await identity(alice)
    assert await alice.gets("POST", UPLOAD, made.upload()) == {}
    assert await alice.gets("POST", UPLOAD, {"master_key": made.master_key()}) == {}


@aio
async def test_other_keys_need_the_password(play: KeyPlay) -> None:
    alice = await play.device("alice")
    await identity(alice)
    other = Identity(alice.user_id)
    assert (await alice.asks("POST", UPLOAD, other.upload())).status == 401
    assert await confirm(alice, other.upload()) == {}
    assert (await alice.query(alice))["self_signing_keys"][alice.user_id] == other.upload()["self_signing_key"]


@aio
async def test_one_more_key_by_the_stored_master(play: KeyPlay) -> None:
    alice = await play.device("alice")
    made = Identity(alice.user_id)
    upload = made.upload()
    answer = await alice.asks("POST", UPLOAD, {"self_signing_key": upload["self_signing_key"]})
    assert (answer.status, answer.errcode) == (400, "M_MISSING_PARAM")
    await alice.gets("POST", UPLOAD, {"master_key": upload["master_key"]})
    await confirm(alice, {"self_signing_key": upload["self_signing_key"]})
    forged = Identity(alice.user_id).upload()
    answer = await alice.asks("POST", UPLOAD, {"user_signing_key": forged["user_signing_key"]})
    assert (answer.status, answer.errcode) == (400, "M_INVALID_SIGNATURE")


@aio
async def test_malformed_keys(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    good = Identity(alice.user_id).upload()
    master = good["master_key"]
    for body, errcode in [
        ({"master_key": "x"}, "M_BAD_JSON"),
        ({"master_key": {**master, "user_id": bob.user_id}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "usage": ["self_signing"]}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "usage": "master"}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "keys": {}}}, "M_BAD_JSON"),
        ({"master_key": {**master, "keys": {"ed25519:x": "y"}}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "keys": {"ed25519:x": "x"}}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "keys": {"ed25519:x": 5}}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "signatures": []}}, "M_BAD_JSON"),
        ({"master_key": {name: master[name] for name in ("user_id", "usage")}}, "M_MISSING_PARAM"),
        ({**good, "self_signing_key": Identity(alice.user_id).upload()["self_signing_key"]}, "M_INVALID_SIGNATURE"),
        ({}, "M_MISSING_PARAM"),
    ]:
        answer = await alice.asks("POST", UPLOAD, body)
        assert (answer.status, answer.errcode) == (400, errcode), body
    assert (await alice.query(alice))["master_keys"] == {}


@aio
async def test_a_public_key_that_is_a_device_id(play: KeyPlay) -> None:
    alice = await play.device("alice")
    made = Identity(alice.user_id)
    await alice.user.deployment.login(alice.user, device_id=made.master.verify_key.base64)
    answer = await alice.asks("POST", UPLOAD, made.upload())
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@aio
async def test_a_user_signing_key_stays_at_home(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    await alice.query(bob)
    await identity(bob)  # told by a parcel
    await play.settle()
    carol = await play.device("carol", "paris")
    await identity(carol)
    await play.room_of(alice.user, carol.user)
    await alice.query(carol)  # asked for

    async def read(tx: Transaction) -> list[tuple[str, str]]:
        rows = await tx.all("SELECT user_id, usage FROM cross_signing_keys JOIN users USING (user_nid)")
        return sorted((row[0], row[1]) for row in rows)

    assert await play.node("tehran").read(read) == [
        (device.user_id, usage) for device in (bob, carol) for usage in ("master", "self_signing")
    ]


# signatures ---------------------------------------------------------------------------------


@aio
async def test_a_device_signed_by_its_owner(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    made = await identity(alice)
    await bob.query(alice)
    await play.settle()
    since = (await bob.sync())["next_batch"]
    signed = made.by(made.self_signing, alice.device_keys())
    body = {alice.user_id: {alice.device_id: signed}}
    assert await alice.gets("POST", "/keys/signatures/upload", body) == {"failures": {}}
    await play.settle()
    assert (await bob.sync(since))["device_lists"]["changed"] == [alice.user_id]
    shown = (await bob.query(alice))["device_keys"][alice.user_id][alice.device_id]
    assert shown["signatures"] == signed["signatures"]
    await alice.publish()  # the client uploads what it knows: without the signature
    shown = (await bob.query(alice))["device_keys"][alice.user_id][alice.device_id]
    assert shown["signatures"] == signed["signatures"]


@aio
async def test_a_master_key_signed_by_a_device(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    made = await identity(alice)
    signed = alice.sign(made.master_key())
    body = {alice.user_id: {made.master.verify_key.base64: signed}}
    assert await alice.gets("POST", "/keys/signatures/upload", body) == {"failures": {}}
    assert (await bob.query(alice))["master_keys"][alice.user_id] == signed


@pytest.mark.parametrize("remembered", [200, 0])
@aio
async def test_signatures_under_others_are_shown_to_their_maker_only(
    play: KeyPlay, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr(shown_keys, "SIGNATURES", remembered)
    alice, bob, carol = await play.device("alice"), await play.device("bob", "paris"), await play.device("carol")
    made, theirs = await identity(alice), await identity(bob)
    second = await alice.another()
    since = (await second.sync())["next_batch"]
    signed = made.by(made.user_signing, theirs.master_key())
    assert (await alice.query(bob))["master_keys"][bob.user_id]["signatures"] == {}
    body = {bob.user_id: {theirs.master.verify_key.base64: signed}}
    assert await alice.gets("POST", "/keys/signatures/upload", body) == {"failures": {}}
    assert bob.user_id in (await second.sync(since))["device_lists"]["changed"]
    assert (await alice.query(bob))["master_keys"][bob.user_id]["signatures"] == signed["signatures"]
    assert (await carol.query(bob))["master_keys"][bob.user_id]["signatures"] == {}
    assert (await bob.query(bob))["master_keys"][bob.user_id]["signatures"] == {}
    await play.room_of(alice.user, bob.user)  # now from a copy
    await alice.query(bob)
    assert (await alice.query(bob))["master_keys"][bob.user_id]["signatures"] == signed["signatures"]
    await confirm(alice, Identity(alice.user_id).upload())  # another user-signing key: its signatures are void
    assert (await alice.query(bob))["master_keys"][bob.user_id]["signatures"] == {}


@aio
async def test_signatures_that_are_not_taken(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    made, theirs = await identity(alice), await identity(bob)
    own, master = alice.device_keys(), made.master.verify_key.base64
    forged = made.by(made.self_signing, {**own, "algorithms": []})
    stranger = named_key()
    invalid = made.by(made.self_signing, own)
    invalid["signatures"][alice.user_id][made.self_signing.key_id] = "AAAA"
    for user_id, key_id, key, errcode in [
        (alice.user_id, "NOSUCH", own, "M_NOT_FOUND"),
        (alice.user_id, alice.device_id, forged, "M_INVALID_SIGNATURE"),
        (alice.user_id, alice.device_id, made.by(stranger, own), "M_INVALID_SIGNATURE"),
        (alice.user_id, alice.device_id, invalid, "M_INVALID_SIGNATURE"),
        (alice.user_id, alice.device_id, made.by(made.user_signing, own), "M_INVALID_SIGNATURE"),
        (alice.user_id, alice.device_id, {**own, "signatures": {}}, "M_INVALID_SIGNATURE"),
        (alice.user_id, master, bob.sign(made.master_key()), "M_INVALID_SIGNATURE"),
        (bob.user_id, bob.device_id, made.by(made.user_signing, bob.device_keys()), "M_NOT_FOUND"),
        (bob.user_id, theirs.master.verify_key.base64, alice.sign(theirs.master_key()), "M_INVALID_SIGNATURE"),
        ("@nobody:example.org", "x", own, "M_NOT_FOUND"),
    ]:
        answer = await alice.gets("POST", "/keys/signatures/upload", {user_id: {key_id: key}})
        assert answer["failures"][user_id][key_id]["errcode"] == errcode, (user_id, key_id)
    shown = (await bob.query(alice))["device_keys"][alice.user_id][alice.device_id]
    assert shown["signatures"] == own["signatures"]


@aio
async def test_malformed_signatures(play: KeyPlay) -> None:
    alice = await play.device("alice")
    for body, errcode in [
        ({"alice": {}}, "M_INVALID_PARAM"),
        ({alice.user_id: []}, "M_BAD_JSON"),
        ({alice.user_id: {"x": 5}}, "M_BAD_JSON"),
    ]:
        assert (await alice.asks("POST", "/keys/signatures/upload", body)).errcode == errcode
