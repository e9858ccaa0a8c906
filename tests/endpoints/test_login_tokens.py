"""A client that is logged in lets another one log in."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.accounts import administration
from tests.deployment import SETTINGS, Answer, Deploy, Deployment, User
from tests.endpoints.test_account import proof
from tests.support import aio

CLIENT = "/_matrix/client/v3"
GET_TOKEN = "/_matrix/client/v1/login/get_token"


async def token_of(user: User) -> str:
    answer = await user.asks("POST", GET_TOKEN, {"auth": proof(user)})
    assert (answer.status, answer.json["expires_in_ms"]) == (200, 120_000)
    return str(answer.json["login_token"])


async def log_in(deployment: Deployment, token: str, **body: Any) -> Answer:
    return await deployment.asked("POST", CLIENT + "/login", {"type": "m.login.token", "token": token, **body})


@aio
async def test_letting_another_client_in(deployment: Deployment) -> None:
    flows = (await deployment.asked("GET", CLIENT + "/login")).json["flows"]
    assert {"type": "m.login.token", "get_login_token": True} in flows
    alice = await deployment.user("alice", "paris")
    capabilities = (await alice.asks("GET", CLIENT + "/capabilities")).json["capabilities"]
    assert capabilities["m.get_login_token"] == {"enabled": True}
    token = await token_of(alice)
    answer = await log_in(deployment, token, device_id="TABLET", refresh_token=True)
    assert (answer.json["user_id"], answer.json["device_id"]) == (alice.user_id, "TABLET")
    assert "refresh_token" in answer.json
    whoami = await deployment.asked("GET", CLIENT + "/account/whoami", token=answer.json["access_token"])
    assert whoami.json["user_id"] == alice.user_id
    assert (await log_in(deployment, token)).errcode == "M_FORBIDDEN"  # a token serves once


@aio
async def test_a_token_is_asked_for_with_the_password_each_time(deployment: Deployment) -> None:
    alice, mallory = await deployment.user("alice"), await deployment.user("mallory")
    first = await alice.asks("POST", GET_TOKEN, {})
    auth = {**proof(alice), "session": first.json["session"]}
    assert (await alice.asks("POST", GET_TOKEN, {"auth": auth})).status == 200
    assert (await alice.asks("POST", GET_TOKEN, {"auth": {"session": first.json["session"]}})).status == 401
    assert (await alice.asks("POST", GET_TOKEN)).status == 401
    assert (await mallory.asks("POST", GET_TOKEN, {"auth": proof(alice)})).status == 401


@pytest.mark.parametrize("why", ["late", "logged out", "closed", "locked"])
@aio
async def test_tokens_that_do_not_hold(deployment: Deployment, why: str) -> None:
    alice = await deployment.user("alice")
    token = await token_of(alice)
    if why == "late":
        await deployment.clock.advance(121)
    elif why == "logged out":
        await alice.asks("POST", CLIENT + "/logout", {})
    elif why == "closed":
        await alice.asks("POST", CLIENT + "/account/deactivate", {"auth": proof(alice)})
    else:
        await administration.set_locked(deployment.server, alice.user_id, True)
    answer = await log_in(deployment, token)
    assert answer.errcode == ("M_USER_LOCKED" if why == "locked" else "M_FORBIDDEN")


@aio
async def test_tokens_are_few(deploy: Deploy) -> None:
    settings = SETTINGS.replace("enabled = false", "login_token = {per_second = 0.01, burst = 2}")
    deployment = await deploy(settings=settings)
    alice = await deployment.user("alice")
    assert [(await alice.asks("POST", GET_TOKEN, {})).status for _ in range(3)] == [401, 401, 429]
