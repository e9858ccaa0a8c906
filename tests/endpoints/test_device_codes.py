"""Devices without a browser sign in by a code that somebody enters in one.

spec: client-server-api/#device-authorisation-flow
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment import PASSWORD, Answer, Deployment
from tests.endpoints.visiting import BASE, Browser, Client, posted, scope
from tests.support import aio

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


async def begun(deployment: Deployment, device_id: str = "TV") -> tuple[Client, dict[str, Any]]:
    """A client whose device shows a code."""
    client = Client(deployment)
    await client.register()
    form = {"client_id": client.client_id, "scope": scope(device_id)}
    answer = await posted(deployment, "/_domicile/oauth/device", form)
    assert answer.status == 200
    return client, answer.json


async def poll(deployment: Deployment, client: Client, told: dict[str, Any], **changed: str) -> Answer:
    """Let the device ask."""
    form = {"grant_type": DEVICE_CODE, "device_code": told["device_code"], "client_id": client.client_id, **changed}
    return await posted(deployment, "/_domicile/oauth/token", form)


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_a_device_signs_in_by_the_code_that_it_shows(deployment: Deployment, node: str) -> None:
    await deployment.user("alice", node)
    client, told = await begun(deployment)
    assert told["verification_uri"] == BASE + "/_domicile/link"
    assert told["verification_uri_complete"].endswith("?user_code=" + told["user_code"])
    assert told["expires_in"] == 900
    assert (await poll(deployment, client, told)).json["error"] == "authorization_pending"
    browser = Browser(deployment)
    page = await browser.sign_in("alice", PASSWORD, told["verification_uri"])
    typed = told["user_code"].replace("-", " ").lower()
    page = await browser.send(page, user_code=typed)
    assert told["user_code"] in page.text
    assert "Example App" in page.text
    done = await browser.send(page, decision="allow")
    assert "The device is signed in" in done.text
    await deployment.clock.advance(told["interval"])
    issued = await poll(deployment, client, told)
    assert issued.status == 200
    assert issued.json["scope"] == scope("TV")
    who = await deployment.asked("GET", "/_matrix/client/v3/account/whoami", token=issued.json["access_token"])
    assert (who.json["user_id"], who.json["device_id"]) == ("@alice:example.org", "TV")
    assert (await client.refresh(issued.json["refresh_token"])).status == 200
    await deployment.clock.advance(told["interval"])
    assert (await poll(deployment, client, told)).json["error"] == "invalid_grant"
    again = await browser.get(told["verification_uri_complete"])
    assert "There is no such code" in again.text


@aio
async def test_who_says_no(deployment: Deployment) -> None:
    await deployment.user("alice")
    client, told = await begun(deployment)
    browser = Browser(deployment)
    page = await browser.sign_in("alice", PASSWORD, told["verification_uri_complete"])
    assert "was not allowed" in (await browser.send(page, decision="deny")).text
    assert (await poll(deployment, client, told)).json["error"] == "access_denied"
    assert (await poll(deployment, client, told)).json["error"] == "invalid_grant"
    assert (await browser.send(page, decision="allow")).status == 404


@aio
async def test_who_asks_too_often_waits_longer(deployment: Deployment) -> None:
    client, told = await begun(deployment)
    assert (await poll(deployment, client, told)).json["error"] == "authorization_pending"
    assert (await poll(deployment, client, told)).json["error"] == "slow_down"
    await deployment.clock.advance(6)
    assert (await poll(deployment, client, told)).json["error"] == "slow_down"
    await deployment.clock.advance(15)
    assert (await poll(deployment, client, told)).json["error"] == "authorization_pending"


@aio
async def test_codes_expire(deployment: Deployment) -> None:
    await deployment.user("alice")
    client, told = await begun(deployment)
    browser = Browser(deployment)
    page = await browser.sign_in("alice", PASSWORD, told["verification_uri_complete"])
    await deployment.clock.advance(901)
    assert (await poll(deployment, client, told)).json["error"] == "expired_token"
    assert (await browser.send(page, decision="allow")).status == 404
    await deployment.clock.advance(600)
    await begun(deployment)  # which makes room
    assert (await poll(deployment, client, told)).json["error"] == "invalid_grant"


@aio
async def test_a_code_is_its_clients(deployment: Deployment) -> None:
    client, told = await begun(deployment)
    other = Client(deployment)
    await other.register(client_name="Other")
    assert (await poll(deployment, other, told)).json["error"] == "invalid_grant"
    assert (await poll(deployment, client, told, device_code="x")).json["error"] == "invalid_grant"
    assert (await poll(deployment, client, told)).json["error"] == "authorization_pending"


@aio
async def test_nobody_who_is_signed_out_may_try_codes(deployment: Deployment) -> None:
    _, told = await begun(deployment)
    browser = Browser(deployment)
    page = await browser.get(told["verification_uri_complete"])
    assert page.path.startswith("/_domicile/login?next=")
    assert "Example App" not in page.text


@aio
async def test_a_scope_that_is_none(deployment: Deployment) -> None:
    client, _ = await begun(deployment)
    path = "/_domicile/oauth/device"
    wrong = await posted(deployment, path, {"client_id": client.client_id, "scope": "openid"})
    assert (wrong.status, wrong.json["error"]) == (400, "invalid_scope")
    unknown = await posted(deployment, path, {"client_id": "nobody", "scope": scope("TV")})
    assert (unknown.status, unknown.json["error"]) == (401, "invalid_client")
