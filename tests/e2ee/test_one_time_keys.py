"""One-time and fallback keys: each given out once, the oldest first, none passed over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.e2ee import one_time_keys
from homeserver.storage import one_time_keys as stored
from tests.deployment import POLICY
from tests.e2ee.play import Cast, Device, KeyPlay, random_key
from tests.support import aio


def keys_of(answer: dict[str, Any], device: Device) -> dict[str, Any]:
    found = answer["one_time_keys"].get(device.user_id, {}).get(device.device_id, {})
    assert isinstance(found, dict)
    return found


async def left(device: Device) -> int:
    answer = await device.gets("POST", "/keys/upload", {})
    return int(answer["one_time_key_counts"]["signed_curve25519"])


@aio
async def test_an_upload_answers_with_counts(play: KeyPlay) -> None:
    alice = await play.device("alice", published=False)
    assert await left(alice) == 0
    plain = {"curve25519:AAAA": random_key()}
    assert await alice.publish(one_time_keys=alice.one_time_keys("A", "B") | plain) == {
        "signed_curve25519": 2,
        "curve25519": 1,
    }
    synced = await alice.sync()
    assert synced["device_one_time_keys_count"] == {"signed_curve25519": 2, "curve25519": 1}
    assert synced["device_unused_fallback_key_types"] == []


@aio
async def test_the_oldest_key_first(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    uploads = [alice.one_time_keys("Z"), alice.one_time_keys("A"), alice.one_time_keys("M")]
    for keys in uploads:
        await alice.publish(one_time_keys=keys)
    for keys in uploads:
        answer = await bob.claim(alice)
        assert answer == {"one_time_keys": {alice.user_id: {alice.device_id: keys}}, "failures": {}}
    assert await bob.claim(alice) == {"one_time_keys": {}, "failures": {}}


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_concurrent_claims_share_out_every_key_once(play: KeyPlay, node: str) -> None:
    names = [f"K{number}" for number in range(12)]
    targets = [await play.device(f"target{number}", node) for number in range(3)]
    for target in targets:
        await target.publish(one_time_keys=target.one_time_keys(*names))
    claimers = [await play.device(f"claimer{number}", "tehran") for number in range(4)]
    answers = await asyncio.gather(*(claimer.claim(*targets) for claimer in claimers * 3))
    for target in targets:
        given = [name for answer in answers for name in keys_of(answer, target)]
        assert sorted(given) == sorted(f"signed_curve25519:{name}" for name in names)
        assert await left(target) == 0


@aio
async def test_claims_and_uploads_at_once_lose_nothing(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    await alice.publish(one_time_keys=alice.one_time_keys(*(f"first{n}" for n in range(8))))
    more = [alice.one_time_keys(f"more{n}") for n in range(8)]
    claims = [bob.claim(alice) for _ in range(8)]
    uploads = [alice.gets("POST", "/keys/upload", {"one_time_keys": keys}) for keys in more]
    answers = await asyncio.gather(*(each for pair in zip(claims, uploads, strict=True) for each in pair))
    given = {name for answer in answers[::2] for name in keys_of(answer, alice)}
    assert len(given) == 8
    assert await left(alice) == 8


@aio
async def test_a_repeated_upload_brings_no_claimed_key_back(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    keys = alice.one_time_keys("A", "B")
    await alice.publish(one_time_keys=keys)
    first = keys_of(await bob.claim(alice), alice)
    assert await alice.publish(one_time_keys=keys) == {"signed_curve25519": 1}
    second = keys_of(await bob.claim(alice), alice)
    assert {*first, *second} == set(keys)
    assert keys_of(await bob.claim(alice), alice) == {}


@aio
async def test_a_key_cannot_change(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    keys = alice.one_time_keys("A")
    await alice.publish(one_time_keys=keys)
    answer = await alice.asks("POST", "/keys/upload", {"one_time_keys": alice.one_time_keys("B", "A")})
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert await left(alice) == 1  # nothing of that request was taken
    assert keys_of(await bob.claim(alice), alice) == keys
    anew = alice.one_time_keys("A")  # a device that began from scratch counts from the start
    assert await alice.publish(one_time_keys=anew) == {"signed_curve25519": 1}
    assert keys_of(await bob.claim(alice), alice) == anew


@aio
async def test_the_same_key_signed_anew_is_the_same(play: KeyPlay) -> None:
    alice = await play.device("alice")
    (name, key) = next(iter(alice.one_time_keys("A").items()))
    await alice.publish(one_time_keys={name: key})
    other = Device(alice.user)
    resigned = {name: other.sign({"key": key["key"]})}
    answer = await alice.gets("POST", "/keys/upload", {"one_time_keys": resigned})
    assert answer["one_time_key_counts"] == {"signed_curve25519": 1}


@aio
async def test_fallback_keys(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    fallback = alice.one_time_keys("F", fallback=True)
    keys = alice.one_time_keys("A")
    await alice.publish(one_time_keys=keys, fallback_keys=fallback)
    since = (await alice.sync())["next_batch"]
    assert (await alice.sync(since))["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert keys_of(await bob.claim(alice), alice) == keys
    assert (await alice.sync(since))["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert keys_of(await bob.claim(alice), alice) == fallback
    assert keys_of(await bob.claim(alice), alice) == fallback
    synced = await alice.sync(since)
    assert synced["device_unused_fallback_key_types"] == []
    assert synced["device_one_time_keys_count"] == {"signed_curve25519": 0}
    await alice.publish(fallback_keys=fallback)  # the same is as used as it was
    assert (await alice.sync(since))["device_unused_fallback_key_types"] == []
    await alice.publish(fallback_keys=alice.one_time_keys("G", fallback=True))
    assert (await alice.sync(since))["device_unused_fallback_key_types"] == ["signed_curve25519"]


@aio
async def test_counts_are_remembered_until_they_change(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob")
    await alice.publish(one_time_keys=alice.one_time_keys("A", "B"))
    caller = await alice.user.caller()
    engine = caller.node.engine

    async def counted() -> tuple[int, int]:
        before = engine.trips
        found = await one_time_keys.counts(caller.node, caller.user_nid, caller.device_nid)
        return found.one_time_keys["signed_curve25519"], engine.trips - before

    assert await counted() == (2, 0)
    await bob.claim(alice)
    assert (await counted())[0] == 1
    assert await counted() == (1, 0)


@aio
async def test_what_an_upload_counts_is_what_is_stored(play: KeyPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "KEPT_CLAIMED", 3)
    alice, bob = await play.device("alice"), await play.device("bob")
    caller = await alice.user.caller()

    async def agrees() -> None:
        known = await one_time_keys.counts(caller.node, caller.user_nid, caller.device_nid)
        left, unused, _ = await caller.node.read(stored.counts, caller.device_nid)
        assert known == one_time_keys.shown(left, unused)

    names = "ABCDEF"
    first = alice.one_time_keys(*names)
    for number, fallback in enumerate(("F", "G", "F")):
        body = {"one_time_keys": first, "fallback_keys": alice.one_time_keys(fallback, fallback=True)}
        await alice.gets("POST", "/keys/upload", body)
        await agrees()
        for _ in names:
            await bob.claim(alice)
            await bob.claim(alice)
        await agrees()
        await alice.gets("POST", "/keys/upload", {"fallback_keys": body["fallback_keys"]})
        await agrees()
        first = {**alice.one_time_keys("F", "A"), **alice.one_time_keys(f"{number}1", f"{number}2")}
        plain = {f"curve25519:{number}": random_key()}
        await alice.gets("POST", "/keys/upload", {"one_time_keys": first | plain})
        await agrees()


@aio
async def test_claimed_keys_are_forgotten_when_there_are_many(play: KeyPlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "KEPT_CLAIMED", 3)
    alice, bob = await play.device("alice"), await play.device("bob")
    keys = alice.one_time_keys("A", "B", "C", "D", "E")
    await alice.publish(one_time_keys=keys)
    for _ in keys:
        await bob.claim(alice)
    assert await alice.publish(one_time_keys=alice.one_time_keys("F")) == {"signed_curve25519": 1}
    # The three claimed last are remembered: they do not come back; the others are not known any more.
    assert await alice.publish(one_time_keys=keys) == {"signed_curve25519": 3}


@aio
async def test_an_upload_takes_two_trips_and_the_key_log_three(play: KeyPlay) -> None:
    alice = await play.device("alice", published=False)
    engine = play.node("tehran").engine
    await left(alice)
    for more, wanted in (({"device_keys": alice.device_keys()}, 2 + 3 + 1), ({}, 2)):  # 1: which others to tell
        trips = engine.trips
        body = {"one_time_keys": alice.one_time_keys(*(f"{number}{len(more)}" for number in range(50))), **more}
        await alice.gets("POST", "/keys/upload", body)
        assert engine.trips == trips + wanted


@aio
async def test_a_new_device_starts_from_nothing(play: KeyPlay) -> None:
    alice = await play.device("alice")
    await alice.publish(one_time_keys=alice.one_time_keys("A"))
    await alice.sync()
    await alice.gets("POST", "/logout", {})
    again = await alice.another()
    assert (await again.sync())["device_one_time_keys_count"] == {"signed_curve25519": 0}


@aio
async def test_what_cannot_be_claimed(cast: Cast) -> None:
    play = await cast(policy=POLICY)
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await bob.publish(one_time_keys=bob.one_time_keys("A"))
    await alice.publish(one_time_keys=alice.one_time_keys("A"))
    asked = {
        alice.user_id: {alice.device_id: "signed_curve25519", "NOSUCH": "signed_curve25519"},
        bob.user_id: {bob.device_id: "signed_curve25519"},
        "@nobody:example.org": {"X": "signed_curve25519"},
        "@carol:elsewhere.example": {"X": "signed_curve25519"},
    }
    answer = await alice.gets("POST", "/keys/claim", {"one_time_keys": asked})
    assert list(answer["one_time_keys"]) == [alice.user_id]
    assert set(answer["failures"]) == {"example.org", "elsewhere.example"}
    assert answer["failures"]["example.org"]["org.domicile.reason"] == "flow_denied"
    assert await left(bob) == 1


@aio
async def test_a_node_that_is_down_is_a_failure(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await alice.publish(one_time_keys=alice.one_time_keys("A"))
    await play.end()
    await play.node("paris").engine.close()
    answer = await alice.claim(alice, bob)
    assert list(answer["one_time_keys"]) == [alice.user_id]
    assert answer["failures"]["example.org"]["org.domicile.reason"] == "node_unavailable"


@aio
async def test_too_many_keys(play: KeyPlay) -> None:
    alice = await play.device("alice")
    limit = play.server.settings.limits.one_time_keys
    plain = {f"curve25519:{number}": random_key() for number in range(limit + 1)}
    answer = await alice.asks("POST", "/keys/upload", {"one_time_keys": plain})
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert await left(alice) == 0


MALFORMED_KEYS: list[tuple[str, object, str]] = [
    ("one_time_keys", [], "M_BAD_JSON"),
    ("one_time_keys", {"signed_curve25519": {"key": "x"}}, "M_INVALID_PARAM"),
    ("one_time_keys", {":x": "y"}, "M_INVALID_PARAM"),
    ("one_time_keys", {"signed_curve25519:": {"key": "x"}}, "M_INVALID_PARAM"),
    ("one_time_keys", {"signed_curve25519:a\0": {"key": "x"}}, "M_INVALID_PARAM"),
    ("one_time_keys", {"signed_curve25519:" + "a" * 300: {"key": "x"}}, "M_INVALID_PARAM"),
    ("one_time_keys", {"signed_curve25519:a": "x"}, "M_BAD_JSON"),
    ("one_time_keys", {"signed_curve25519:a": {"key": 5}}, "M_BAD_JSON"),
    ("one_time_keys", {"signed_curve25519:a": {"key": "x", "signatures": []}}, "M_BAD_JSON"),
    ("one_time_keys", {"signed_curve25519:a": {"key": "x", "signatures": {"@a:b": {"k": 1}}}}, "M_BAD_JSON"),
    ("one_time_keys", {"signed_curve25519:a": {"key": "x", "extra": 1.5}}, "M_BAD_JSON"),
    ("one_time_keys", {"curve25519:a": 5}, "M_BAD_JSON"),
    ("one_time_keys", {"curve25519:a": "x" * 5000}, "M_TOO_LARGE"),
    ("fallback_keys", {"curve25519:a": "x", "curve25519:b": "y"}, "M_INVALID_PARAM"),
    ("fallback_keys", "x", "M_BAD_JSON"),
]


@aio
async def test_malformed_keys(play: KeyPlay) -> None:
    alice = await play.device("alice")
    for field, keys, errcode in MALFORMED_KEYS:
        assert (await alice.asks("POST", "/keys/upload", {field: keys})).errcode == errcode, keys
    assert await left(alice) == 0


MALFORMED_CLAIMS: list[tuple[object, str]] = [
    ({}, "M_MISSING_PARAM"),
    ({"one_time_keys": []}, "M_BAD_JSON"),
    ({"one_time_keys": {"alice": {}}}, "M_INVALID_PARAM"),
    ({"one_time_keys": {"@a:b": []}}, "M_BAD_JSON"),
    ({"one_time_keys": {"@a:b": {"D": 5}}}, "M_BAD_JSON"),
    ({"one_time_keys": {}, "timeout": "x"}, "M_BAD_JSON"),
]


@aio
async def test_malformed_claims(play: KeyPlay) -> None:
    alice = await play.device("alice")
    for body, errcode in MALFORMED_CLAIMS:
        assert (await alice.asks("POST", "/keys/claim", body)).errcode == errcode, body
