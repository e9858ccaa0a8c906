"""Login, refresh, logout, over the routes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.accounts import administration, callers, devices, failures
from homeserver.storage import tokens as stored_tokens
from homeserver.storage.engine import Transaction
from tests.deployment import PASSWORD, SETTINGS, Answer, Deploy, Deployment, User
from tests.support import aio

LOGIN = "/_matrix/client/v3/login"
WHOAMI = "/_matrix/client/v3/account/whoami"
REFRESH = "/_matrix/client/v3/refresh"
HOUR = 3600.0


async def whoami(deployment: Deployment, token: str) -> Answer:
    return await deployment.asked("GET", WHOAMI, token=token)


async def trips(deployment: Deployment) -> int:
    return sum(node.engine.trips for node in deployment.server.nodes) + deployment.server.nodes.directory.engine.trips


@aio
async def test_the_flows(deployment: Deployment) -> None:
    flows = [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]
    assert (await deployment.asked("GET", LOGIN)).json == {"flows": flows}


@aio
async def test_logging_in(deployment: Deployment) -> None:
    alice = await deployment.user("alice", "paris")
    answer = await deployment.login(alice, initial_device_display_name="Laptop")
    assert answer.status == 200
    assert answer.json["user_id"] == alice.user_id
    assert answer.json["well_known"] == {"m.homeserver": {"base_url": "https://matrix.example.org"}}
    assert "refresh_token" not in answer.json
    assert "expires_in_ms" not in answer.json
    who = await whoami(deployment, answer.json["access_token"])
    assert who.json == {"user_id": alice.user_id, "device_id": answer.json["device_id"], "is_guest": False}
    devices = await alice.asks("GET", f"/_matrix/client/v3/devices/{answer.json['device_id']}")
    assert devices.json["display_name"] == "Laptop"


@pytest.mark.parametrize("user", ["alice", "Alice", "@alice:example.org", "@Alice:example.org"])
@pytest.mark.parametrize("old", [False, True])
@aio
async def test_who_may_be_named_how(deployment: Deployment, user: str, old: bool) -> None:
    await deployment.user("alice")
    named: dict[str, Any] = {"user": user} if old else {"identifier": {"type": "m.id.user", "user": user}}
    answer = await deployment.asked("POST", LOGIN, {"type": "m.login.password", "password": PASSWORD, **named})
    if user == "@Alice:example.org":
        assert answer.errcode == "M_FORBIDDEN"  # a user id is what it is
    else:
        assert answer.json["user_id"] == "@alice:example.org"


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"type": 5}, 400, "M_BAD_JSON"),
        ({"type": "m.login.fax", "token": "x"}, 400, "M_UNKNOWN"),
        ({"type": "m.login.token"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.password"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "identifier": "alice", "password": PASSWORD}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "user": "alice"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "user": "alice", "password": 1}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "user": "alice", "password": "x" * 513}, 400, "M_INVALID_PARAM"),
        ({"type": "m.login.password", "user": "alice", "password": "wrong"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.password", "user": "nobody", "password": PASSWORD}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.password", "user": "@alice:elsewhere.org", "password": PASSWORD}, 403, "M_FORBIDDEN"),
        (
            {"type": "m.login.password", "identifier": {"type": "m.id.phone", "phone": "1"}, "password": PASSWORD},
            400,
            "M_MISSING_PARAM",
        ),
        (
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.phone", "country": "FR", "phone": "1"},
                "password": PASSWORD,
            },
            403,
            "M_FORBIDDEN",
        ),
        (
            {"type": "m.login.password", "user": "alice", "password": PASSWORD, "device_id": "x" * 513},
            400,
            "M_INVALID_PARAM",
        ),
        (
            {"type": "m.login.password", "user": "alice", "password": PASSWORD, "refresh_token": "yes"},
            400,
            "M_BAD_JSON",
        ),
    ],
)
@aio
async def test_what_is_refused(deployment: Deployment, body: dict[str, Any], status: int, errcode: str) -> None:
    await deployment.user("alice")
    answer = await deployment.asked("POST", LOGIN, body)
    assert (answer.status, answer.errcode) == (status, errcode)


@aio
async def test_a_token_in_use_is_answered_without_a_trip(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await alice.caller()
    before = await trips(deployment)
    for _ in range(10):
        await alice.caller()
    assert await trips(deployment) == before


@aio
async def test_tokens_are_not_stored(deployment: Deployment) -> None:
    alice = await deployment.user("alice")

    async def everything(tx: Transaction) -> str:
        return str(await tx.all("SELECT * FROM access_tokens"))

    stored = await deployment.node("tehran").read(everything)
    assert alice.token[-43:] not in stored  # the secret, in which there may be "_" too
    assert alice.token.encode() not in stored.encode()


@pytest.mark.parametrize(
    "spoil", [lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"), lambda t: t + "x", lambda t: "dom_"]
)
@aio
async def test_tokens_that_are_none(deployment: Deployment, spoil: Any) -> None:
    alice = await deployment.user("alice")
    answer = await whoami(deployment, spoil(alice.token))
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert "soft_logout" not in answer.json


@aio
async def test_no_token(deployment: Deployment) -> None:
    for path in (WHOAMI, "/_matrix/client/v3/devices"):
        answer = await deployment.asked("GET", path)
        assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")
    for path in ("logout", "logout/all"):
        answer = await deployment.asked("POST", f"/_matrix/client/v3/{path}")
        assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN")


@aio
async def test_logging_in_with_a_known_device_ends_its_old_session(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    assert (await whoami(deployment, alice.token)).status == 200
    answer = await deployment.login(alice, device_id=alice.device_id, initial_device_display_name="ignored")
    assert answer.json["device_id"] == alice.device_id
    assert (await whoami(deployment, alice.token)).errcode == "M_UNKNOWN_TOKEN"
    again = User(deployment, alice.user_id, alice.device_id, answer.json["access_token"])
    devices = (await again.asks("GET", "/_matrix/client/v3/devices")).json["devices"]
    assert [(device["device_id"], device["display_name"]) for device in devices] == [(alice.device_id, "alice's phone")]


@aio
async def test_a_device_id_may_not_be_a_cross_signing_key(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    caller = await alice.caller()

    async def put_key(tx: Transaction) -> None:
        await tx.run(
            "INSERT INTO cross_signing_keys (user_nid, usage, key) VALUES (?, ?, ?)",
            caller.user_nid,
            "master",
            b'{"keys": {"ed25519:MASTER": "MASTER"}}',
        )

    await caller.node.write(put_key)
    answer = await deployment.login(alice, device_id="MASTER")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


# -- refreshing


async def refreshable(deployment: Deployment) -> tuple[User, dict[str, Any]]:
    alice = await deployment.user("alice")
    answer = await deployment.login(alice, refresh_token=True)
    assert answer.json["expires_in_ms"] == 3_600_000
    return alice, answer.json


async def refresh(deployment: Deployment, token: str) -> Answer:
    return await deployment.asked("POST", REFRESH, {"refresh_token": token})


@aio
async def test_an_expired_token_asks_for_a_refresh(deployment: Deployment) -> None:
    _, login = await refreshable(deployment)
    assert (await whoami(deployment, login["access_token"])).status == 200
    await deployment.clock.advance(HOUR)
    answer = await whoami(deployment, login["access_token"])
    assert (answer.status, answer.errcode, answer.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True)
    renewed = (await refresh(deployment, login["refresh_token"])).json
    assert set(renewed) == {"access_token", "refresh_token", "expires_in_ms"}
    who = await whoami(deployment, renewed["access_token"])
    assert who.json["device_id"] == login["device_id"]


@aio
async def test_a_refresh_token_holds_until_what_it_bought_is_used(deployment: Deployment) -> None:
    _, login = await refreshable(deployment)
    lost = (await refresh(deployment, login["refresh_token"])).json
    renewed = (await refresh(deployment, login["refresh_token"])).json
    assert (await whoami(deployment, lost["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await refresh(deployment, lost["refresh_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await whoami(deployment, renewed["access_token"])).status == 200
    answer = await refresh(deployment, login["refresh_token"])
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (await whoami(deployment, renewed["access_token"])).status == 200


@aio
async def test_using_the_next_refresh_token_revokes_the_one_before(deployment: Deployment) -> None:
    _, login = await refreshable(deployment)
    second = (await refresh(deployment, login["refresh_token"])).json
    third = (await refresh(deployment, second["refresh_token"])).json
    assert (await refresh(deployment, login["refresh_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await whoami(deployment, second["access_token"])).status == 200
    assert (await whoami(deployment, third["access_token"])).status == 200


@aio
async def test_a_login_without_refresh_tokens_does_not_expire(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await deployment.clock.advance(1000 * HOUR)
    assert (await whoami(deployment, alice.token)).status == 200


@aio
async def test_old_expired_tokens_are_cleared_away(deployment: Deployment) -> None:
    alice, login = await refreshable(deployment)
    caller = await alice.caller()
    token = login["refresh_token"]
    for _ in range(5):
        await deployment.clock.advance(20 * HOUR)
        token = (await refresh(deployment, token)).json["refresh_token"]

    async def count(tx: Transaction) -> int:
        row = await tx.one("SELECT COUNT(*) FROM access_tokens WHERE expires_ts IS NOT NULL")
        assert row is not None
        return int(row[0])

    assert await caller.node.read(count) <= 3


@pytest.mark.parametrize("body", [{}, {"refresh_token": 1}, {"refresh_token": "x"}])
@aio
async def test_bad_refreshes(deployment: Deployment, body: dict[str, Any]) -> None:
    answer = await deployment.asked("POST", REFRESH, body)
    assert answer.status in (400, 401)
    assert answer.errcode in ("M_MISSING_PARAM", "M_BAD_JSON", "M_UNKNOWN_TOKEN")


@aio
async def test_an_access_token_is_no_refresh_token(deployment: Deployment) -> None:
    _, login = await refreshable(deployment)
    assert (await refresh(deployment, login["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await whoami(deployment, login["refresh_token"])).errcode == "M_UNKNOWN_TOKEN"


# -- logging out


@aio
async def test_logging_out_ends_one_session(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    other = (await deployment.login(alice, refresh_token=True)).json
    await whoami(deployment, other["access_token"])
    answer = await deployment.asked("POST", "/_matrix/client/v3/logout", {}, token=other["access_token"])
    assert (answer.status, answer.json) == (200, {})
    assert (await whoami(deployment, other["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await refresh(deployment, other["refresh_token"])).errcode == "M_UNKNOWN_TOKEN"
    devices = (await alice.asks("GET", "/_matrix/client/v3/devices")).json["devices"]
    assert [device["device_id"] for device in devices] == [alice.device_id]


@aio
async def test_logging_out_everywhere(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    other = (await deployment.login(alice)).json["access_token"]
    assert (await alice.asks("POST", "/_matrix/client/v3/logout/all")).status == 200
    for token in (alice.token, other):
        assert (await whoami(deployment, token)).errcode == "M_UNKNOWN_TOKEN"
    assert (await whoami(deployment, bob.token)).status == 200


@aio
async def test_what_is_read_before_a_logout_is_not_remembered_after_it(deployment: Deployment) -> None:
    """The session is loaded from a snapshot while the logout commits."""
    alice = await deployment.user("alice")
    caller = await alice.caller()
    node = caller.node
    memory = node.memory(callers.Remembered)
    memory.forget(callers.owner_hash(deployment.server, "alice"))
    reading, committed = asyncio.Event(), asyncio.Event()
    original = node.engine.read

    async def slow(fn: Any, *args: Any, **kwargs: Any) -> Any:
        result = await original(fn, *args, **kwargs)
        if fn is stored_tokens.find_access:
            reading.set()
            await committed.wait()
        return result

    node.engine.read = slow  # type: ignore[method-assign]
    try:
        loading = asyncio.ensure_future(callers.authenticate(deployment.server, alice.token))
        await reading.wait()
    finally:
        node.engine.read = original  # type: ignore[method-assign]
    await devices.log_out(deployment.server, caller)
    late = asyncio.ensure_future(whoami(deployment, alice.token))  # has nothing of what was read before
    for _ in range(3):
        await asyncio.sleep(0)
    committed.set()
    await loading
    assert (await late).errcode == "M_UNKNOWN_TOKEN"
    assert (await whoami(deployment, alice.token)).errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_who_comes_with_a_fresh_token_is_not_overtaken(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that verifies another one sends a step while its new token is still looked up, and the next step as soon
    as `/sync` has answered: they have to take effect in this order."""
    alice = await deployment.user("alice")
    first = (await deployment.login(alice, refresh_token=True)).json
    fresh = (await refresh(deployment, first["refresh_token"])).json["access_token"]
    node, begun, passed, released = deployment.node("tehran"), asyncio.Event(), asyncio.Event(), asyncio.Event()
    original = node.engine.write

    async def slow(fn: Any, *args: Any, **kwargs: Any) -> Any:
        if fn is callers._revoke_used:
            late = begun.is_set()
            begun.set()
            await (released if late else passed).wait()
        return await original(fn, *args, **kwargs)

    monkeypatch.setattr(node.engine, "write", slow)
    order: list[str] = []

    async def asks(name: str) -> None:
        assert (await whoami(deployment, fresh)).status == 200
        order.append(name)

    asked = [asyncio.ensure_future(asks(name)) for name in ("sync", "step")]
    await begun.wait()
    passed.set()
    await asked[0]
    await asks("next step")
    released.set()
    await asyncio.gather(*asked)
    assert order == ["sync", "step", "next step"]


# -- locked accounts, failures


@aio
async def test_a_locked_account_can_only_log_out(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await administration.set_locked(deployment.server, alice.user_id, True)
    answer = await whoami(deployment, alice.token)
    assert (answer.status, answer.errcode, answer.json["soft_logout"]) == (401, "M_USER_LOCKED", True)
    assert (await deployment.login(alice)).errcode == "M_USER_LOCKED"
    await administration.set_locked(deployment.server, alice.user_id, False)
    assert (await whoami(deployment, alice.token)).status == 200
    await administration.set_locked(deployment.server, alice.user_id, True)
    assert (await alice.asks("POST", "/_matrix/client/v3/logout")).status == 200
    assert (await whoami(deployment, alice.token)).errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_wrong_passwords_are_limited_by_account(deploy: Deploy) -> None:
    limits = "[rate_limits]\nlogin = { per_second = 100, burst = 1000 }"
    deployment = await deploy(settings=SETTINGS.replace("[rate_limits]\nenabled = false", limits))

    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    for _ in range(5):
        assert (await deployment.login(alice, password="wrong")).errcode == "M_FORBIDDEN"
    answer = await deployment.login(alice)
    assert (answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert (await deployment.login(bob)).status == 200
    await deployment.clock.advance(answer.json["retry_after_ms"] / 1000)
    assert (await deployment.login(alice)).status == 200
    for _ in range(20):
        assert (await deployment.login(alice)).status == 200
    failures.check(deployment.server, alice.user_id)


@aio
async def test_a_node_that_is_down_costs_its_own_users_only(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice", "tehran"), await deployment.user("bob", "paris")
    await deployment.node("tehran").engine.close()
    deployment.node("tehran").memory(callers.Remembered).forget(callers.owner_hash(deployment.server, "alice"))
    answer = await whoami(deployment, alice.token)
    assert (answer.status, answer.json["org.domicile.reason"]) == (503, "node_unavailable")
    assert (await deployment.login(alice)).status == 503
    assert (await deployment.login(bob)).status == 200
