"""Password, closing the account, contact information, discovery."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.accounts import administration
from homeserver.accounts.deactivation import DEACTIVATED
from homeserver.endpoints.discovery import FEATURES
from homeserver.protocol.errors import NotFound
from homeserver.storage import accounts as stored
from homeserver.storage import chores, erasures
from homeserver.storage.accounts import Threepid
from homeserver.storage.engine import Transaction
from homeserver.storage.streams import Stream
from homeserver.storage.tables import TABLES
from tests.deployment import PASSWORD, SETTINGS, Answer, Deploy, Deployment, User
from tests.support import aio

CHANGE = "/_matrix/client/v3/account/password"
DEACTIVATE = "/_matrix/client/v3/account/deactivate"
WHOAMI = "/_matrix/client/v3/account/whoami"
NEW = "battery staple horse"


def proof(user: User, password: str = PASSWORD) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user.user_id}
    return {"type": "m.login.password", "identifier": identifier, "password": password}


async def is_logged_in(deployment: Deployment, token: str) -> bool:
    return (await deployment.asked("GET", WHOAMI, token=token)).status == 200


# -- password


@pytest.mark.parametrize("keep", [True, False])
@aio
async def test_changing_the_password(deployment: Deployment, keep: bool) -> None:
    alice = await deployment.user("alice")
    other = (await deployment.login(alice)).json["access_token"]
    body = {"new_password": NEW, "logout_devices": not keep}
    challenge = await alice.asks("POST", CHANGE, body)
    assert (challenge.status, challenge.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    wrong = await alice.asks(
        "POST", CHANGE, {**body, "auth": {**proof(alice, "wrong"), "session": challenge.json["session"]}}
    )
    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    answer = await alice.asks("POST", CHANGE, {**body, "auth": {**proof(alice), "session": challenge.json["session"]}})
    assert (answer.status, answer.json) == (200, {})
    assert (await deployment.login(alice)).errcode == "M_FORBIDDEN"
    assert (await deployment.login(alice, password=NEW)).status == 200
    assert await is_logged_in(deployment, alice.token)
    assert await is_logged_in(deployment, other) is keep


@aio
async def test_changing_the_password_without_being_logged_in(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    answer = await deployment.asked("POST", CHANGE, {"new_password": NEW, "auth": proof(alice)})
    assert answer.status == 200
    assert not await is_logged_in(deployment, alice.token)
    assert (await deployment.login(alice, password=NEW)).status == 200


@aio
async def test_nobody_changes_the_password_of_somebody_else(deployment: Deployment) -> None:
    alice, mallory = await deployment.user("alice"), await deployment.user("mallory")
    answer = await mallory.asks("POST", CHANGE, {"new_password": NEW, "auth": proof(alice)})
    assert (answer.status, answer.errcode) == (401, "M_FORBIDDEN")
    assert (await deployment.login(alice)).status == 200
    assert (await deployment.login(mallory)).status == 200


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"new_password": 1}, "M_BAD_JSON"),
        ({"new_password": NEW, "logout_devices": "no"}, "M_BAD_JSON"),
        ({"new_password": "short"}, "M_WEAK_PASSWORD"),
        ({"new_password": "x" * 513}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_password_bodies_that_are_refused(deployment: Deployment, body: dict[str, Any], errcode: str) -> None:
    alice = await deployment.user("alice")
    answer = await alice.asks("POST", CHANGE, {**body, "auth": proof(alice)})
    assert (answer.status, answer.errcode) == (400, errcode)
    assert (await deployment.login(alice)).status == 200


@aio
async def test_a_hash_of_an_old_cost_is_replaced_at_login(deploy: Deploy) -> None:
    before = await deploy()
    alice = await before.user("alice")
    after = await deploy(settings=SETTINGS.replace("time_cost = 1", "time_cost = 2"))
    assert ",t=1," in (await administration.show(after.server, alice.user_id)).account.password_hash  # type: ignore[operator]
    assert (await after.login(alice)).status == 200
    assert ",t=2," in (await administration.show(after.server, alice.user_id)).account.password_hash  # type: ignore[operator]
    assert (await after.login(alice)).status == 200


# -- closing the account


async def rows_of(deployment: Deployment, node: str, user_nid: int) -> dict[str, int]:
    async def ask(tx: Transaction) -> dict[str, int]:
        found = {}
        for table in TABLES.values():
            if table.resident:
                row = await tx.one(f"SELECT COUNT(*) FROM {table.name} WHERE {table.owner} = ?", user_nid)
                assert row is not None
                found[table.name] = int(row[0])
        return {name: count for name, count in found.items() if count}

    return await deployment.node(node).read(ask)


@aio
async def test_closing_an_account(deployment: Deployment) -> None:
    alice = await deployment.user("alice", "paris")
    user = "/_matrix/client/v3/user/@alice:example.org"
    await alice.asks("PUT", f"{user}/account_data/org.example", {"a": 1})
    await alice.asks("POST", f"{user}/filter", {})
    await alice.asks("PUT", "/_matrix/client/v3/profile/@alice:example.org/displayname", {"displayname": "Alice"})
    await alice.asks("PUT", "/_matrix/client/v3/pushrules/global/content/x", {"actions": [], "pattern": "x"})
    caller = await alice.caller()

    async def add(tx: Transaction) -> None:
        assert await stored.add_threepid(tx, caller.user_nid, Threepid("msisdn", "989120000000", 1, 2))

    await caller.node.write(add)
    challenge = await alice.asks("POST", DEACTIVATE, {"erase": True})
    assert challenge.status == 401
    auth = {**proof(alice), "session": challenge.json["session"]}
    answer = await alice.asks("POST", DEACTIVATE, {"erase": True, "auth": auth})
    assert (answer.status, answer.json) == (200, {"id_server_unbind_result": "success"})
    assert not await is_logged_in(deployment, alice.token)
    assert (await deployment.login(alice)).errcode == "M_FORBIDDEN"
    assert await rows_of(deployment, "paris", caller.user_nid) == {"accounts": 1, "chores": 2, "pins": 1}
    chore = (await caller.node.read(chores.waiting, DEACTIVATED, 10))[0]
    assert chore.user_id == alice.user_id
    assert await caller.node.read(erasures.is_erased, caller.user_nid)
    taken = await deployment.asked("GET", "/_matrix/client/v3/register/available", username="alice")
    assert taken.errcode == "M_USER_IN_USE"
    profile = await deployment.asked("GET", "/_matrix/client/v3/profile/@alice:example.org", token=alice.token)
    assert profile.status == 401


@aio
async def test_an_account_is_closed_only_by_its_owner(deployment: Deployment) -> None:
    alice, mallory = await deployment.user("alice"), await deployment.user("mallory")
    answer = await mallory.asks("POST", DEACTIVATE, {"auth": proof(alice)})
    assert answer.status == 401
    assert (await deployment.asked("POST", DEACTIVATE, {"auth": proof(alice, "wrong")})).status == 401
    assert await is_logged_in(deployment, alice.token)
    assert (await alice.asks("POST", DEACTIVATE, {"erase": 1})).errcode == "M_BAD_JSON"
    assert (await deployment.asked("POST", DEACTIVATE, {"auth": proof(alice)})).status == 200
    assert not await is_logged_in(deployment, alice.token)


@aio
async def test_cross_signing_keys_that_go_with_an_account_are_announced(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    caller = await alice.caller()

    async def put_key(tx: Transaction) -> None:
        await tx.run("INSERT INTO cross_signing_keys VALUES (?, ?, ?)", caller.user_nid, "master", b"{}")

    await caller.node.write(put_key)
    before = caller.node.position
    assert (await alice.asks("POST", DEACTIVATE, {"auth": proof(alice)})).status == 200
    assert caller.node.changes.last(Stream.DEVICE_LISTS, caller.user_nid) == caller.node.position > before


# -- administration


@aio
async def test_what_an_administrator_sees_and_does(deployment: Deployment) -> None:
    server = deployment.server
    alice = await deployment.user("alice", "paris", admin=True)
    for name in ("bob", "carol"):
        await deployment.user(name, "paris")
    page = await administration.page(deployment.node("paris"), limit=2)
    assert [account.user_id for account in page] == ["@alice:example.org", "@bob:example.org"]
    rest = await administration.page(deployment.node("paris"), page[-1].user_id)
    assert [account.user_id for account in rest] == ["@carol:example.org"]
    shown = await administration.show(server, alice.user_id)
    assert (shown.node, shown.jurisdiction, shown.account.admin) == ("paris", "FR", True)
    assert [device.device_id for device in shown.devices] == [alice.device_id]
    assert (await alice.caller()).admin
    await administration.set_admin(server, alice.user_id, False)
    assert not (await alice.caller()).admin
    await administration.reset_password(server, alice.user_id, NEW)
    assert not await is_logged_in(deployment, alice.token)
    assert (await deployment.login(alice, password=NEW)).status == 200
    with pytest.raises(NotFound):
        await administration.show(server, "@nobody:example.org")


@aio
async def test_contact_information(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    caller = await alice.caller()

    async def add(tx: Transaction) -> None:
        assert await stored.add_threepid(tx, caller.user_nid, Threepid("msisdn", "989120000000", 1, 2))

    await caller.node.write(add)
    answer = await alice.asks("GET", "/_matrix/client/v3/account/3pid")
    assert answer.json == {
        "threepids": [{"medium": "msisdn", "address": "989120000000", "validated_at": 1, "added_at": 2}]
    }


# -- discovery


@aio
async def test_discovery(deployment: Deployment) -> None:
    versions = await deployment.asked("GET", "/_matrix/client/versions")
    assert {"r0.6.1", "v1.1", "v1.19"} <= set(versions.json["versions"])
    assert set(versions.json["unstable_features"]) >= {
        *FEATURES,
        "io.element.e2ee_forced.private",
        "io.element.e2ee_forced.trusted_private",
        "io.element.e2ee_forced.public",
    }
    assert set(versions.json["unstable_features"].values()) == {True}
    client = await deployment.asked("GET", "/.well-known/matrix/client")
    assert client.json["m.homeserver"] == {"base_url": "https://matrix.example.org"}
    assert client.json["org.matrix.msc2965.authentication"]["issuer"] == "https://matrix.example.org/"
    support = await deployment.asked("GET", "/.well-known/matrix/support")
    assert (support.status, support.errcode) == (404, "M_NOT_FOUND")


@aio
async def test_support(deploy: Deploy) -> None:
    operator = '[operator]\ncontact = "mailto:help@example.org"\nsecurity_contact = "https://example.org/s"\n'
    deployment = await deploy(settings=SETTINGS + operator + 'support_page = "https://example.org/help"\n')
    answer = await deployment.asked("GET", "/.well-known/matrix/support")
    assert answer.json == {
        "contacts": [{"role": "m.role.admin", "email_address": "help@example.org"}],
        "support_page": "https://example.org/help",
    }


@aio
async def test_capabilities(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    answer: Answer = await alice.asks("GET", "/_matrix/client/v3/capabilities")
    capabilities = answer.json["capabilities"]
    assert capabilities["m.room_versions"]["default"] == "12"
    assert capabilities["m.room_versions"]["available"]["12"] == "stable"
    for name in ("m.change_password", "m.profile_fields", "m.set_displayname", "m.set_avatar_url"):
        assert capabilities[name] == {"enabled": True}
    assert (await deployment.asked("GET", "/_matrix/client/v3/capabilities")).status == 401
