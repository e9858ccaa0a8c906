"""The caller's devices, over the routes; and what goes with a device that goes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.accounts.devices import KEYS_CHANGED
from homeserver.storage import chores
from homeserver.storage import devices as stored
from homeserver.storage.engine import Transaction
from homeserver.storage.streams import Stream
from tests.deployment import PASSWORD, Deploy, Deployment, User
from tests.network import OPEN
from tests.support import aio

DEVICES = "/_matrix/client/v3/devices"
DELETE = "/_matrix/client/v3/delete_devices"
NULLS = {"display_name": None, "last_seen_ip": None, "last_seen_ts": None}


def proof(user: User, **more: Any) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, **more}


async def second(user: User) -> User:
    """The same user on another device."""
    answer = await user.deployment.login(user)
    return User(user.deployment, user.user_id, answer.json["device_id"], answer.json["access_token"])


@aio
async def test_listing_and_naming(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    one = {"device_id": alice.device_id, "display_name": "alice's phone"}
    assert (await alice.asks("GET", DEVICES)).json == {"devices": [one]}
    assert (await alice.asks("GET", f"{DEVICES}/{alice.device_id}")).json == one
    assert (await alice.asks("GET", f"{DEVICES}/{bob.device_id}")).errcode == "M_NOT_FOUND"
    assert (await alice.asks("PUT", f"{DEVICES}/{alice.device_id}", {"display_name": "Pocket"})).json == {}
    assert (await alice.asks("PUT", f"{DEVICES}/{alice.device_id}", {})).json == {}
    assert (await alice.asks("GET", f"{DEVICES}/{alice.device_id}")).json["display_name"] == "Pocket"
    assert (await alice.asks("PUT", f"{DEVICES}/{bob.device_id}", {"display_name": "mine"})).status == 404
    assert (await alice.asks("PUT", f"{DEVICES}/{bob.device_id}", {})).status == 404
    assert (await bob.asks("GET", f"{DEVICES}/{bob.device_id}")).json["display_name"] == "bob's phone"


@pytest.mark.parametrize(
    ("traits", "shown"),
    [
        ({"Content-Type": "application/json", "User-Agent": "a bot"}, NULLS),
        ({"User-Agent": "nio"}, NULLS),
        ({"User-Agent": "Mozilla/5.0"}, {}),
        ({}, {}),
    ],
)
@aio
async def test_what_is_unknown_of_a_device_is_null_only_for_clients_that_need_it(
    deployment: Deployment, traits: dict[str, str], shown: dict[str, Any]
) -> None:
    alice = await deployment.user("alice")
    nameless = (await deployment.login(alice)).json["device_id"]
    headers = {"Authorization": f"Bearer {alice.token}", **traits}
    one = await deployment.site.call("GET", f"{DEVICES}/{nameless}", headers=headers, address="127.0.0.1")
    assert isinstance(one.body, bytes)
    assert orjson.loads(one.body) == {"device_id": nameless, **shown}
    every = await deployment.site.call("GET", DEVICES, headers=headers, address="127.0.0.1")
    assert isinstance(every.body, bytes)
    named = {"device_id": alice.device_id, **shown, "display_name": "alice's phone"}
    assert {"device_id": nameless, **shown} in orjson.loads(every.body)["devices"]
    assert named in orjson.loads(every.body)["devices"]


@pytest.mark.parametrize(("name", "errcode"), [(5, "M_BAD_JSON"), ("x" * 257, "M_INVALID_PARAM")])
@aio
async def test_names_that_are_refused(deployment: Deployment, name: object, errcode: str) -> None:
    alice = await deployment.user("alice")
    assert (await alice.asks("PUT", f"{DEVICES}/{alice.device_id}", {"display_name": name})).errcode == errcode


async def give_belongings(user: User) -> None:
    """Rows of everything that only the device has."""
    caller = await user.caller()
    nid, device = caller.user_nid, caller.device_nid

    async def write(tx: Transaction) -> None:
        await tx.run(
            "INSERT INTO device_keys (user_nid, device_id, keys) VALUES (?, ?, ?)", nid, caller.device_id, b"{}"
        )
        await tx.run(
            "INSERT INTO one_time_keys (user_nid, device_nid, algorithm, key_id, key) VALUES (?, ?, ?, ?, ?)",
            nid,
            device,
            "signed_curve25519",
            "A",
            b"{}",
        )
        await tx.run("INSERT INTO fallback_keys VALUES (?, ?, ?, ?, ?, ?)", nid, device, "a", "B", b"{}", 0)
        await tx.run("INSERT INTO to_device VALUES (?, ?, ?, ?)", device + 1000, nid, device, b"{}")

    await caller.node.write(write)
    pusher = {
        "kind": "http",
        "app_id": "org.example",
        "pushkey": user.device_id,
        "app_display_name": "Example",
        "device_display_name": "phone",
        "lang": "en",
        "data": {"url": "https://push.example.org/_matrix/push/v1/notify"},
    }
    assert (await user.asks("POST", "/_matrix/client/v3/pushers/set", pusher)).status == 200


async def belongings(user: User, device_nid: int) -> list[str]:
    tables = ("devices", "access_tokens", "one_time_keys", "fallback_keys", "to_device", "pushers")

    async def read(tx: Transaction) -> list[str]:
        found = [t for t in tables if await tx.one(f"SELECT 1 FROM {t} WHERE device_nid = ?", device_nid)]
        keys = await tx.one("SELECT 1 FROM device_keys WHERE device_id = ?", user.device_id)
        return [*found, "device_keys"] if keys else found

    return await user.deployment.node("tehran").read(read)


@aio
async def test_deleting_a_device_takes_all_that_is_its(deploy: Deploy) -> None:
    deployment = await deploy(policy=OPEN)  # notifications may go anywhere
    alice = await deployment.user("alice")
    other = await second(alice)
    for user in (alice, other):
        await give_belongings(user)
    caller, gone = await alice.caller(), (await other.caller()).device_nid
    node, before = caller.node, caller.node.position
    with deployment.server.wakeups.listen([(node.name, caller.user_nid), chores.key(node.name, KEYS_CHANGED)]) as ear:
        challenge = await alice.asks("DELETE", f"{DEVICES}/{other.device_id}")
        assert (challenge.status, challenge.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
        auth = proof(alice, session=challenge.json["session"])
        assert (await alice.asks("DELETE", f"{DEVICES}/{other.device_id}", {"auth": auth})).json == {}
        assert len(await ear.wait(1.0)) == 2
    assert await belongings(other, gone) == []
    assert len(await belongings(alice, caller.device_nid)) == 7
    assert (await other.asks("GET", DEVICES)).errcode == "M_UNKNOWN_TOKEN"
    assert node.position > before
    assert node.changes.last(Stream.DEVICE_LISTS, caller.user_nid) == node.position
    assert await node.read(chores.waiting, KEYS_CHANGED, 10) == []  # the other nodes have been told
    again = await alice.asks("DELETE", f"{DEVICES}/{other.device_id}", {"auth": proof(alice)})
    assert again.status == 200  # it had been removed


@aio
async def test_deleting_many(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    others = [await second(alice) for _ in range(2)]
    names = [other.device_id for other in others]
    body = {"devices": [*names, bob.device_id, "NONE"]}
    assert (await alice.asks("POST", DELETE, body)).status == 401
    assert (await alice.asks("POST", DELETE, {**body, "auth": proof(alice)})).json == {}
    left = [device["device_id"] for device in (await alice.asks("GET", DEVICES)).json["devices"]]
    assert left == [alice.device_id]
    assert (await bob.asks("GET", DEVICES)).status == 200


@pytest.mark.parametrize(
    ("body", "errcode"), [({}, "M_MISSING_PARAM"), ({"devices": "A"}, "M_BAD_JSON"), ({"devices": [1]}, "M_BAD_JSON")]
)
@aio
async def test_deletions_that_are_refused(deployment: Deployment, body: dict[str, Any], errcode: str) -> None:
    alice = await deployment.user("alice")
    answer = await alice.asks("POST", DELETE, {**body, "auth": proof(alice)})
    assert (answer.status, answer.errcode) == (400, errcode)


@aio
async def test_the_confirmation_of_one_deletion_is_not_that_of_another(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    one, two = await second(alice), await second(alice)
    session = (await alice.asks("POST", DELETE, {"devices": [one.device_id]})).json["session"]
    auth = proof(alice, session=session)
    assert (await alice.asks("POST", DELETE, {"devices": [two.device_id], "auth": auth})).errcode == "M_FORBIDDEN"
    assert (await alice.asks("DELETE", f"{DEVICES}/{two.device_id}", {"auth": auth})).errcode == "M_FORBIDDEN"
    assert (await two.asks("GET", DEVICES)).status == 200


@aio
async def test_a_session_is_not_for_another_user(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    session = (await alice.asks("POST", DELETE, {"devices": []})).json["session"]
    answer = await bob.asks("POST", DELETE, {"devices": [], "auth": proof(bob, session=session)})
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@aio
async def test_renaming_a_device_with_keys_is_announced(deploy: Deploy) -> None:
    deployment = await deploy(policy=OPEN)  # notifications may go anywhere
    alice = await deployment.user("alice")
    caller = await alice.caller()
    before = caller.node.position
    await alice.asks("PUT", f"{DEVICES}/{alice.device_id}", {"display_name": "Unannounced"})
    assert caller.node.position == before
    await give_belongings(alice)
    await alice.asks("PUT", f"{DEVICES}/{alice.device_id}", {"display_name": "Pocket"})
    assert caller.node.position > before


@aio
async def test_there_is_a_limit_of_devices(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    caller = await alice.caller()

    async def fill(tx: Transaction) -> None:
        for number in range(500):
            await stored.ensure(tx, caller.user_nid, f"D{number}", None, 0)

    await caller.node.write(fill)
    answer = await deployment.login(alice)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert (await deployment.login(alice, device_id="D7")).status == 200
