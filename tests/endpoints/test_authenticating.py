"""The fallback of user-interactive authentication: stages that are done in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.accounts.post import Post, post
from tests.deployment import PASSWORD, SETTINGS, Deploy, Deployment, User
from tests.endpoints.identity_provider import Provider, providing
from tests.endpoints.test_account import NEW
from tests.endpoints.test_sso import START, arrive, register
from tests.endpoints.test_threepids import ALICES, DIGITS, add, press, prove, prove_phone
from tests.endpoints.visiting import Browser
from tests.support import aio

__all__ = ["post"]

CLIENT = "/_matrix/client/v3"
DONE = 'window.opener.postMessage("authDone","*")'


def fallback(stage: str, session: str) -> str:
    """Where a client sends somebody."""
    return f"{CLIENT}/auth/{quote(stage)}/fallback/web?session={quote(session)}"


async def legacy(deployment: Deployment, provider: Provider) -> tuple[Browser, User]:
    """Somebody without a password, and their client, which logged in by way of their provider."""
    browser = Browser(deployment)
    target = quote("/_domicile/sso/continue?redirectUrl=https://app.example.com/", safe="")
    page = await register(browser, provider, f"{START}&next={target}")
    body = {"type": "m.login.token", "token": (await browser.send(page)).told["loginToken"]}
    login = (await deployment.asked("POST", f"{CLIENT}/login", body)).json
    return browser, User(deployment, login["user_id"], login["device_id"], login["access_token"])


@aio
async def test_who_has_no_password_confirms_in_a_browser(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser, zoe = await legacy(deployment, provider)
        path = f"{CLIENT}/delete_devices"
        asked = await zoe.asks("POST", path, {"devices": [zoe.device_id]})
        assert (asked.status, asked.json["flows"]) == (401, [{"stages": ["m.login.sso"]}])
        session = asked.json["session"]
        body = {"devices": [zoe.device_id], "auth": {"session": session}}
        for auth in ({"session": session}, {"session": session, "type": "m.login.sso"}):
            again = await zoe.asks("POST", path, {**body, "auth": auth})
            assert (again.status, again.json["session"]) == (401, session)
        page = await browser.get(fallback("m.login.sso", session))
        assert (page.status, "Sign devices of yours out." in page.text, zoe.user_id in page.text) == (200, True, True)
        assert page.headers["cross-origin-opener-policy"] == "unsafe-none"
        assert DONE not in page.text
        page = await browser.send(page)
        assert (page.status, DONE in page.text) == (200, True)
        other = {"devices": ["ANOTHER"], "auth": {"session": session}}
        assert (await zoe.asks("POST", path, other)).status == 403, "what was confirmed is what is done"
        assert (await zoe.asks("POST", path, body)).status == 200
        assert (await zoe.asks("GET", f"{CLIENT}/account/whoami")).status == 401


@aio
async def test_who_signed_in_long_ago_signs_in_once_more(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser, zoe = await legacy(deployment, provider)
        asked = (await zoe.asks("POST", f"{CLIENT}/account/deactivate", {})).json
        stale = await browser.get(fallback("m.login.sso", asked["session"]))
        await deployment.clock.advance(301)
        page = await browser.send(stale)
        assert page.status == 403
        page = await browser.get(fallback("m.login.sso", asked["session"]))
        assert ("Sign in once more first." in page.text, page.forms) == (True, [])
        link = next(link for link in page.links if "/sso/start" in link)
        page = await arrive(browser, provider, link)
        assert urlsplit(page.path).path == "/_domicile/authenticate"
        assert "Close your account for ever." in page.text
        assert DONE in (await browser.send(page)).text
        done = await zoe.asks("POST", f"{CLIENT}/account/deactivate", {"auth": {"session": asked["session"]}})
        assert done.status == 200


@aio
async def test_nobody_confirms_for_somebody_else(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        _, zoe = await legacy(deployment, provider)
        session = (await zoe.asks("POST", f"{CLIENT}/account/deactivate", {})).json["session"]
        stranger = Browser(deployment)
        page = await stranger.get(fallback("m.login.sso", session))
        assert urlsplit(page.path).path == "/_domicile/login", "nobody is signed in there"
        provider.claims["sub"] = "s-2"
        await register(stranger, provider, user="eve")
        page = await stranger.get(fallback("m.login.sso", session))
        assert (page.status, "somebody else" in page.text) == (403, True)
        own = (await deployment.login(await deployment.user("mallory"))).json
        asked = await deployment.asked("POST", f"{CLIENT}/delete_devices", {"devices": []}, token=own["access_token"])
        page = await stranger.get(fallback("m.login.password", asked.json["session"]))
        assert page.status == 403
        for wrong in (fallback("m.login.sso", "none"), fallback("m.login.dummy", session), fallback("x", session)):
            assert (await stranger.get(wrong)).status == 403
        still = await zoe.asks("POST", f"{CLIENT}/account/deactivate", {"auth": {"session": session}})
        assert still.status == 401


@aio
async def test_no_form_of_somebody_else_confirms(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser, zoe = await legacy(deployment, provider)
        session = (await zoe.asks("POST", f"{CLIENT}/account/deactivate", {})).json["session"]
        page = await browser.get(fallback("m.login.sso", session))
        forged = await browser.send(page, form_token="x" * 22)
        assert forged.status == 403
        still = await zoe.asks("POST", f"{CLIENT}/account/deactivate", {"auth": {"session": session}})
        assert still.status == 401


@aio
async def test_a_password_may_be_given_there_too(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    asked = await alice.asks("POST", f"{CLIENT}/delete_devices", {"devices": []})
    assert asked.json["flows"] == [{"stages": ["m.login.password"]}]
    browser = Browser(deployment)
    page = await browser.get(fallback("m.login.password", asked.json["session"]))
    page = await browser.send(page, user="alice", password=PASSWORD)
    assert urlsplit(page.path).path == "/_domicile/authenticate"
    refused = await browser.send(page, password="wrong")
    assert (refused.status, "Invalid password" in refused.text) == (401, True)
    assert DONE in (await browser.send(page, password=PASSWORD)).text
    body: dict[str, Any] = {"devices": [], "auth": {"session": asked.json["session"]}}
    assert (await alice.asks("POST", f"{CLIENT}/delete_devices", body)).status == 200
    assert (await alice.asks("POST", f"{CLIENT}/delete_devices", body)).status == 401, "once"


@pytest.mark.parametrize("mode", ["open", "token"])
@aio
async def test_registering_with_the_help_of_a_browser(deploy: Deploy, tmp_path: Path, mode: str) -> None:
    (tmp_path / "tokens").write_text("welcome")
    settings = SETTINGS.replace('mode = "open"', f'mode = "{mode}"\ntokens_file = "{tmp_path}/tokens"')
    deployment = await deploy(settings=settings)
    body = {"username": "carol", "password": PASSWORD}
    asked = await deployment.asked("POST", f"{CLIENT}/register", body)
    (flow,) = asked.json["flows"]
    browser = Browser(deployment)
    for stage in flow["stages"]:
        page = await browser.get(fallback(stage, asked.json["session"]))
        assert "Make an account." in page.text
        if stage == "m.login.registration_token":
            assert (await browser.send(page, token="guessed")).status == 401
            page = await browser.send(page, token="welcome")
        else:
            page = await browser.send(page)
        assert DONE in page.text
    made = await deployment.asked("POST", f"{CLIENT}/register", {**body, "auth": {"session": asked.json["session"]}})
    assert made.status == 200, made


# an e-mail address or a number


@pytest.mark.parametrize("stage", ["m.login.email.identity", "m.login.msisdn"])
@aio
async def test_an_address_is_proved_with_the_help_of_a_browser(deploy: Deploy, post: Post, stage: str) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice, by_mail = await deployment.user("alice"), stage == "m.login.email.identity"
    await add(alice, await (prove if by_mail else prove_phone)(deployment, post, "account/3pid"))
    body = {"new_password": NEW}
    session = (await deployment.asked("POST", f"{CLIENT}/account/password", body)).json["session"]
    browser = Browser(deployment)
    page = await browser.get(fallback(stage, session))
    assert (page.status, "Set another password." in page.text) == (200, True)
    assert page.headers["cross-origin-opener-policy"] == "unsafe-none"
    assert (await browser.send(page, address="nonsense")).status == 400
    assert (await browser.send(page, form_token="x" * 22, address=ALICES)).status == 403
    page = await browser.send(page, address=ALICES if by_mail else f"+{DIGITS}")
    assert (page.status, DONE in page.text) == (200, False)
    early = await browser.send(page) if by_mail else await browser.send(page, code="wrong")
    assert (early.status, DONE in early.text) == (403 if by_mail else 400, False)
    if by_mail:
        assert (await press(deployment, post.letters[-1].parameters))[0] == 200
        page = await browser.send(page)
    else:
        page = await browser.send(early, code=post.texts[-1].code)
    assert (page.status, DONE in page.text) == (200, True)
    done = await deployment.asked("POST", f"{CLIENT}/account/password", {**body, "auth": {"session": session}})
    assert done.status == 200, done
    assert (await deployment.login(alice, password=NEW)).status == 200
    assert (await browser.get(fallback(stage, session))).status == 403, "that is over"


@aio
async def test_a_proof_by_a_browser_counts_for_what_was_begun(deploy: Deploy, post: Post) -> None:
    settings = SETTINGS.replace('mode = "open"', 'mode = "open"\nverify = ["email"]') + post.settings
    deployment = await deploy(settings=settings)
    body = {"username": "carol", "password": PASSWORD}
    session = (await deployment.asked("POST", f"{CLIENT}/register", body)).json["session"]
    browser = Browser(deployment)
    page = await browser.get(fallback("m.login.email.identity", session))
    assert "Make an account." in page.text
    page = await browser.send(page, address=ALICES)
    assert (await press(deployment, post.letters[-1].parameters))[0] == 200
    stranger = await deployment.user("mallory")
    own = (await stranger.asks("POST", f"{CLIENT}/delete_devices", {"devices": []})).json["session"]
    assert (await browser.get(fallback("m.login.email.identity", own))).status == 403, "it was not offered"
    other = (await deployment.asked("POST", f"{CLIENT}/account/password", {"new_password": NEW})).json["session"]
    assert (await browser.send(page, session=other)).status == 403, "the proof is for a registration"
    assert DONE in (await browser.send(page)).text
    made = await deployment.asked("POST", f"{CLIENT}/register", {**body, "auth": {"session": session}})
    assert made.status == 200, made
    shown = await deployment.asked("GET", f"{CLIENT}/account/3pid", token=made.json["access_token"])
    assert [each["address"] for each in shown.json["threepids"]] == [ALICES]
