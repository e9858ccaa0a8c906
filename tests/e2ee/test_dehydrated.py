"""Dehydrated devices: what they are sent while nobody is logged in, and that nobody ever is on them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from homeserver.accounts import deactivation
from homeserver.protocol.signing import SigningKey
from homeserver.storage import dehydrated_devices as stored
from tests.deployment import PASSWORD, Answer, User
from tests.e2ee.play import Device, Identity, KeyPlay, message
from tests.support import aio

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
DATA = {"algorithm": "m.dehydration.v2", "device_pickle": "é", "nonce": "x"}


class Sleeper(Device):
    """A dehydrated device, and the identity of its owner."""

    def __init__(self, owner: Device, identity: Identity, device_id: str) -> None:
        super().__init__(User(owner.user.deployment, owner.user_id, device_id, owner.user.token))
        self.identity = identity

    def device_keys(self) -> dict[str, Any]:
        """Its identity keys, signed by itself and by its owner."""
        keys = {name: value for name, value in super().device_keys().items() if name != "signatures"}
        signed = self.sign({**keys, "dehydrated": True})
        return self.identity.by(self.identity.self_signing, signed)

    def body(self, **more: Any) -> dict[str, Any]:
        """What is put."""
        return {
            "device_id": self.device_id,
            "device_data": DATA,
            "initial_device_display_name": "Dehydrated device",
            "device_keys": self.device_keys(),
            "one_time_keys": self.one_time_keys("A", "B"),
            "fallback_keys": self.one_time_keys("F", fallback=True),
            **more,
        }

    async def put(self, **more: Any) -> Answer:
        """Put it."""
        return await self.user.asks("PUT", PATH, self.body(**more))


async def with_identity(play: KeyPlay, localpart: str, node: str = "tehran") -> tuple[Device, Identity]:
    """A user who has signed their identity."""
    device = await play.device(localpart, node)
    identity = Identity(device.user_id)
    body = identity.upload()
    answer = await device.asks("POST", "/keys/device_signing/upload", body)
    assert answer.status == 200, answer
    return device, identity


async def read(user: User, device_id: str, **query: str) -> Answer:
    """A page of the messages."""
    return await user.asks("GET", f"{PATH}/{device_id}/events", **query)


@aio
async def test_it_takes_messages_for_a_login_to_come(play: KeyPlay) -> None:
    alice, identity = await with_identity(play, "alice")
    bob = await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    assert (await alice.user.asks("GET", PATH)).errcode == "M_NOT_FOUND"
    sleeper = Sleeper(alice, identity, "SLEEPER")
    answer = await sleeper.put()
    assert (answer.status, answer.json) == (200, {"device_id": "SLEEPER"})
    await play.settle()
    seen = (await bob.query(alice))["device_keys"][alice.user_id]
    assert set(seen) == {alice.device_id, "SLEEPER"}
    assert seen["SLEEPER"]["dehydrated"] is True
    assert len(seen["SLEEPER"]["signatures"][alice.user_id]) == 2
    names = []
    for _ in range(3):
        names += (await bob.claim(sleeper))["one_time_keys"][alice.user_id]["SLEEPER"]
    assert names == [f"signed_curve25519:{name}" for name in "ABF"]
    for number in range(5):
        sent = {alice.user_id: {"*" if number else "SLEEPER": message(str(number))}}
        assert (await bob.send(f"t{number}", sent)).status == 200
    await play.settle()
    await alice.gets("POST", "/logout")
    again = await alice.another()
    found = await again.user.asks("GET", PATH)
    assert found.json == {"device_id": "SLEEPER", "device_data": DATA}
    for _ in range(2):  # who failed half-way begins again
        events: list[Any] = []
        query: dict[str, str] = {"limit": "2"}
        while True:
            page = await read(again.user, "SLEEPER", **query)
            assert page.status == 200
            events += page.json["events"]
            if "next_batch" not in page.json:
                break
            query["from"] = page.json["next_batch"]
        assert [event["content"] for event in events] == [message(str(number)) for number in range(5)]
        assert {event["sender"] for event in events} == {bob.user_id}
    old = await again.user.asks("POST", f"{PATH}/SLEEPER/events", {})
    assert len(old.json["events"]) == 5
    last = await again.user.asks("POST", f"{PATH}/SLEEPER/events", {"next_batch": old.json["next_batch"]})
    assert last.json == {"events": [], "next_batch": old.json["next_batch"]}
    gone = await again.user.asks("DELETE", PATH)
    assert (gone.status, gone.json) == (200, {"device_id": "SLEEPER"})
    assert set((await bob.query(alice))["device_keys"][alice.user_id]) == set()
    assert (await again.user.asks("DELETE", PATH)).status == 404
    assert (await read(again.user, "SLEEPER")).status == 404


@aio
async def test_another_takes_its_place(play: KeyPlay) -> None:
    alice, identity = await with_identity(play, "alice")
    bob = await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    first = Sleeper(alice, identity, "FIRST")
    assert (await first.put()).status == 200
    await bob.send("t1", {alice.user_id: {"FIRST": message("lost")}})
    await play.settle()
    since = (await bob.sync())["next_batch"]
    for device_id in ("SECOND", "SECOND"):  # also one of the same name
        second = Sleeper(alice, identity, device_id)
        assert (await second.put()).status == 200
    await play.settle()
    assert (await bob.sync(since))["device_lists"]["changed"] == [alice.user_id]
    assert set((await bob.query(alice))["device_keys"][alice.user_id]) == {alice.device_id, "SECOND"}
    keys = (await bob.query(alice))["device_keys"][alice.user_id]["SECOND"]["keys"]
    assert keys["ed25519:SECOND"] == second.key.verify_key.base64
    assert (await read(alice.user, "SECOND")).json == {"events": []}
    assert (await read(alice.user, "FIRST")).status == 404
    assert [d["device_id"] for d in (await alice.gets("GET", "/devices"))["devices"]] == [alice.device_id, "SECOND"]


@aio
async def test_it_stays_when_all_others_go(play: KeyPlay) -> None:
    alice, identity = await with_identity(play, "alice")
    assert (await Sleeper(alice, identity, "SLEEPER").put()).status == 200
    await alice.gets("POST", "/logout/all")
    again = await alice.another()
    assert (await again.user.asks("GET", PATH)).status == 200
    body = {
        "new_password": PASSWORD + "2",
        "logout_devices": True,
        "auth": {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": alice.user_id},
            "password": PASSWORD,
        },
    }
    assert (await again.asks("POST", "/account/password", body)).status == 200
    assert (await again.user.asks("GET", PATH)).status == 200
    caller = await again.user.caller()
    await deactivation.deactivate(play.server, alice.user_id)
    assert await caller.node.read(stored.find, caller.user_nid) is None


@aio
async def test_its_owner_may_delete_it_like_any_other(play: KeyPlay) -> None:
    alice, identity = await with_identity(play, "alice")
    assert (await Sleeper(alice, identity, "SLEEPER").put()).status == 200
    path = "/devices/SLEEPER"
    asked = await alice.asks("DELETE", path, {})
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": PASSWORD,
        "session": asked.json["session"],
    }
    assert (await alice.asks("DELETE", path, {"auth": auth})).status == 200
    assert (await alice.user.asks("GET", PATH)).status == 404


@aio
async def test_nobody_logs_in_on_it(play: KeyPlay) -> None:
    alice, identity = await with_identity(play, "alice")
    assert (await Sleeper(alice, identity, "SLEEPER").put()).status == 200
    refused = await play.deployment.login(alice.user, device_id="SLEEPER")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert (await play.deployment.login(alice.user, device_id="OTHER")).status == 200


@aio
async def test_what_is_no_dehydrated_device(play: KeyPlay) -> None:
    alice, identity = await with_identity(play, "alice")
    bob, _ = await with_identity(play, "bob")
    other = Sleeper(alice, identity, "OTHER")
    awake = {key: value for key, value in other.device_keys().items() if key != "dehydrated"}
    unsigned = {**other.device_keys(), "signatures": {}}
    forged = Sleeper(alice, Identity(alice.user_id), "OTHER").device_keys()
    forged["keys"] = other.device_keys()["keys"]
    bad: tuple[dict[str, Any], ...] = (
        {"device_id": None},
        {"device_id": 1},
        {"device_id": "x" * 600},
        {"device_id": "ELSE"},
        {"device_data": None},
        {"device_data": {}},
        {"device_data": {"algorithm": 1}},
        {"device_data": {"algorithm": "x", "pickle": "x" * 70_000}},
        {"device_keys": None},
        {"device_keys": {}},
        {"device_keys": awake},
        {"device_keys": unsigned},
        {"device_keys": forged},
        {"device_keys": other.sign({k: v for k, v in other.device_keys().items() if k != "signatures"})},
        {"one_time_keys": {"x": 1}},
        {"fallback_keys": []},
        {"initial_device_display_name": "x" * 10_000},
    )
    for wrong in bad:
        answer = await other.put(**wrong)
        assert 400 <= answer.status < 500, wrong
    assert (await alice.user.asks("GET", PATH)).status == 404
    mine = Sleeper(alice, identity, alice.device_id)
    refused = await mine.put()
    assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    assert alice.device_id in (await bob.query(alice))["device_keys"][alice.user_id]
    carol = await play.device("carol")
    sleeper = Sleeper(carol, Identity(carol.user_id), "SLEEPER")
    assert (await sleeper.put()).status == 400
    assert (await other.put()).status == 200
    assert (await read(bob.user, "OTHER")).status == 404
    for query in ({"from": "x"}, {"from": "-1"}, {"limit": "0"}, {"limit": "many"}, {"from": "9" * 30}):
        assert (await read(alice.user, "OTHER", **query)).status == 400
    assert (await alice.user.asks("POST", f"{PATH}/OTHER/events", {"next_batch": 5})).status == 400
    assert orjson.dumps((await read(alice.user, "OTHER", **{"from": "9" * 18})).json) == b'{"events":[]}'
    assert (await alice.user.asks("GET", f"{PATH}/{quote('é')}/events")).status == 404
    versions = await play.deployment.asked("GET", "/_matrix/client/versions")
    assert versions.json["unstable_features"]["org.matrix.msc3814"] is True
    assert isinstance(other.key, SigningKey)
