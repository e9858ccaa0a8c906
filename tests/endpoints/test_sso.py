"""Signing in through a provider of identities, and the legacy login by a browser; and every lie of a provider.

tests/interop has a real provider.

spec: client-server-api/#sso-client-loginauthentication
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from joserfc.jwk import ECKey

from tests.deployment import PASSWORD, POLICY, SETTINGS, Deploy, Deployment
from tests.e2ee.play import Identity
from tests.endpoints.identity_provider import Provider, providing, reaching, table
from tests.endpoints.visiting import BASE, Browser, Client, Page
from tests.federation.authority import Authority
from tests.support import aio

ACCOUNT = "/_domicile/account"
CALLBACK = "/_domicile/sso/callback"
START = "/_domicile/sso/start?provider=university"


async def arrive(browser: Browser, provider: Provider, path: str = START) -> Page:
    """Go to the provider and come back."""
    away = await browser.get(path)
    assert away.status == 303, away
    return await browser.get(provider.visit(away.location))


async def register(browser: Browser, provider: Provider, path: str = START, user: str = "zoe") -> Page:
    """Come for the first time, and choose a name."""
    return await browser.send(await arrive(browser, provider, path), user=user)


# -- what it is for


@aio
async def test_who_is_new_chooses_a_name_and_comes_back_as_the_same(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser = Browser(deployment)
        page = await browser.get("/_domicile/login")
        assert "Continue with Example University" in page.text
        link = next(link for link in page.links if "/sso/start" in link)
        page = await arrive(browser, provider, link)
        assert page.forms[0][2]["user"] == "zoe_q"
        assert "password" not in page.forms[0][2]
        await deployment.user("taken")
        page = await browser.send(page, user="taken")
        assert (page.status, "taken" in page.text) == (400, True)
        page = await browser.send(page, user="zoe")
        assert page.path == ACCOUNT
        assert "@zoe:example.org" in page.text
        assert page.forms[0][2]["name"] == "Zoë"
        other = Browser(deployment)
        assert "@zoe:example.org" in (await arrive(other, provider)).text
        provider.claims["sub"] = "s-2"
        page = await arrive(Browser(deployment), provider)
        assert "@zoe:example.org" not in page.text
        assert page.forms[0][2]["user"] == "zoe_q"


@aio
async def test_an_oauth_client_by_way_of_a_provider(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser, client = Browser(deployment), Client(deployment)
        await client.register()
        page = await browser.get(client.link("PHONE"))
        link = next(link for link in page.links if "/sso/start" in link)
        page = await register(browser, provider, link)
        assert "Example App" in page.text
        tokens = (await client.redeem((await browser.send(page, decision="allow")).told["code"])).json
        who = await deployment.asked("GET", "/_matrix/client/v3/account/whoami", token=tokens["access_token"])
        assert (who.json["user_id"], who.json["device_id"]) == ("@zoe:example.org", "PHONE")


@aio
async def test_login_says_that_there_are_providers(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path, 'brand = "example"') as (deployment, _):
        flows = (await deployment.asked("GET", "/_matrix/client/v3/login")).json["flows"]
        assert flows[-1] == {
            "type": "m.login.sso",
            "identity_providers": [{"id": "university", "name": "Example University", "brand": "example"}],
            "oauth_aware_preferred": True,
            "org.matrix.msc3824.delegated_oidc_compatibility": True,
        }


@pytest.mark.parametrize("target", ["https://app.example.com/?a=b&loginToken=old#x", "com.example.app:/done"])
@aio
async def test_a_legacy_client_logs_in_by_one_provider(deploy: Deploy, tmp_path: Path, target: str) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser = Browser(deployment)
        path = f"/_matrix/client/v3/login/sso/redirect/university?redirectUrl={quote(target, safe='')}"
        assert (await browser.ask("GET", path + "&action=sing")).status == 400
        sent = await browser.ask("GET", path)
        assert sent.status == 302
        page = await register(browser, provider, sent.location)
        assert page.path.startswith("/_domicile/sso/continue?")
        assert "@zoe:example.org" in page.text
        back = await browser.send(page)
        assert back.status == 303
        parts, before = urlsplit(back.location), urlsplit(target)
        assert parts._replace(query="") == before._replace(query="")
        told = dict(parse_qsl(parts.query))
        assert {name: told[name] for name in told if name != "loginToken"} == ({"a": "b"} if before.query else {})
        body = {"type": "m.login.token", "token": told["loginToken"]}
        login = await deployment.asked("POST", "/_matrix/client/v3/login", body)
        assert login.json["user_id"] == "@zoe:example.org"
        assert (await deployment.asked("POST", "/_matrix/client/v3/login", body)).status == 403


@aio
async def test_a_legacy_client_logs_in_by_the_pages(deployment: Deployment) -> None:
    await deployment.user("alice", "paris")
    browser = Browser(deployment)
    page = await browser.get("/_matrix/client/v3/login/sso/redirect?redirectUrl=https://app.example.com/")
    assert page.path.startswith("/_domicile/login?next=")
    page = await browser.send(page, user="alice", password=PASSWORD)
    assert "app.example.com" in page.text
    assert "form-action 'self' https://app.example.com;" in page.headers["content-security-policy"]
    token = (await browser.send(page)).told["loginToken"]
    login = await deployment.asked("POST", "/_matrix/client/v3/login", {"type": "m.login.token", "token": token})
    assert login.json["user_id"] == "@alice:example.org"
    for name in ("action", "org.matrix.msc3824.action"):
        page = await Browser(deployment).get(
            f"/_matrix/client/r0/login/sso/redirect?redirectUrl=https://app.example.com/&{name}=register"
        )
        assert page.path.startswith("/_domicile/register?next=")


# -- where the data of new users rests


@pytest.mark.parametrize(
    ("more", "claims", "node"),
    [
        ("", {}, "tehran"),
        ('jurisdiction = "FR"', {}, "paris"),
        ('jurisdiction_claim = "address.country"', {"address": {"country": "FR"}}, "paris"),
        ('jurisdiction_claim = "country"', {"country": "IR", "address": {"country": "FR"}}, "tehran"),
        ('jurisdiction = "FR"\njurisdiction_claim = "country"', {}, "paris"),
        ('jurisdiction = "FR"\njurisdiction_claim = "country"', {"country": "IR"}, "tehran"),
        ('jurisdiction_claim = "country"', {}, None),
        ('jurisdiction_claim = "country"', {"country": "XX"}, None),
        ('jurisdiction_claim = "country"', {"country": ["FR"]}, None),
        ('jurisdiction = "DE"', {}, None),
        ("registers = false", {}, None),
    ],
)
@aio
async def test_where_new_users_are_put(
    deploy: Deploy, tmp_path: Path, more: str, claims: dict[str, Any], node: str | None
) -> None:
    async with providing(deploy, tmp_path, more) as (deployment, provider):
        provider.claims |= claims
        browser = Browser(deployment)
        page = await arrive(browser, provider)
        if node is None:
            assert page.status == 403
            return
        assert (await browser.send(page, user="zoe")).path == ACCOUNT
        assert await deployment.server.nodes.of_user("@zoe:example.org") is deployment.node(node)


@aio
async def test_new_users_choose_where_the_policy_lets_them(deploy: Deploy, tmp_path: Path) -> None:
    rule = 'choice = true\nnodes = ["tehran", "paris"]'
    policy = POLICY.replace('token = "fr-*"\nnode = "paris"', rule)
    async with providing(deploy, tmp_path, policy=policy) as (deployment, provider):
        browser = Browser(deployment)
        page = await arrive(browser, provider)
        assert "France (FR)" in page.text
        assert (await browser.send(page, user="zoe", node="nowhere")).status == 403
        assert "France (FR)" in (await browser.send(page, user="zoe", node="paris")).text


@aio
async def test_nobody_gets_two_accounts_who_chooses_two_places_at_once(deploy: Deploy, tmp_path: Path) -> None:
    rule = 'choice = true\nnodes = ["tehran", "paris"]'
    policy = POLICY.replace('token = "fr-*"\nnode = "paris"', rule)
    async with providing(deploy, tmp_path, policy=policy) as (deployment, provider):
        one, other = Browser(deployment), Browser(deployment)
        first, second = await arrive(one, provider), await arrive(other, provider)
        made = await asyncio.gather(
            one.send(first, user="zoe", node="paris"), other.send(second, user="zora", node="tehran")
        )
        assert sorted(page.status for page in made) == [200, 400]
        names = {await deployment.server.nodes.of_user(f"@{name}:example.org") for name in ("zoe", "zora")}
        assert len(names - {None}) == 1


@aio
async def test_what_only_the_userinfo_endpoint_tells(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        provider.claims = {"sub": "s-1"}
        provider.told = {"sub": "s-1", "preferred_username": "quentin", "name": "Q", "iss": "https://evil.example"}
        page = await arrive(Browser(deployment), provider)
        assert page.forms[0][2]["user"] == "quentin"
        provider.told = {"sub": "s-2", "preferred_username": "root"}
        assert (await arrive(Browser(deployment), provider)).status == 403


# -- accounts without a password


@aio
async def test_who_has_no_password_confirms_by_coming_anew(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser, client = Browser(deployment), Client(deployment)
        await client.register()
        page = await register(browser, provider, START + "&next=" + quote(client.link("PHONE"), safe=""))
        token = (await client.redeem((await browser.send(page, decision="allow")).told["code"])).json["access_token"]
        path = "/_matrix/client/v3/keys/device_signing/upload"
        first, second = (Identity("@zoe:example.org").upload() for _ in range(2))
        await deployment.asked("POST", path, first, token=token)
        asked = await deployment.asked("POST", path, second, token=token)
        await deployment.clock.advance(301)
        page = await browser.get(asked.json["params"]["m.oauth"]["url"])
        assert "password" not in page.forms[0][2]
        page = await browser.send(page)
        assert (page.status, "sign in again" in page.text) == (403, True)
        await arrive(browser, provider, START)
        page = await browser.get(asked.json["params"]["m.oauth"]["url"])
        assert "may reset it now" in (await browser.send(page)).text
        body = {**second, "auth": {"session": asked.json["session"]}}
        assert (await deployment.asked("POST", path, body, token=token)).status == 200


@aio
async def test_a_legacy_client_of_somebody_without_a_password(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser = Browser(deployment)
        target = quote("/_domicile/sso/continue?redirectUrl=https://app.example.com/", safe="")
        page = await register(browser, provider, f"{START}&next={target}")
        body = {"type": "m.login.token", "token": (await browser.send(page)).told["loginToken"]}
        login = (await deployment.asked("POST", "/_matrix/client/v3/login", body)).json
        path, token = "/_matrix/client/v3/keys/device_signing/upload", login["access_token"]
        first, second = (Identity("@zoe:example.org").upload() for _ in range(2))
        await deployment.asked("POST", path, first, token=token)
        asked = await deployment.asked("POST", path, second, token=token)
        page = await browser.send(await browser.get(asked.json["params"]["m.oauth"]["url"]))
        assert "may reset it now" in page.text
        confirmed = {**second, "auth": {"session": asked.json["session"]}}
        assert (await deployment.asked("POST", path, confirmed, token=token)).status == 200


@aio
async def test_an_account_that_was_closed_is_not_opened_anew(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser = Browser(deployment)
        await register(browser, provider)
        page = await browser.get(f"{ACCOUNT}?action=org.matrix.account_deactivate")
        assert "Your account is closed" in (await browser.send(page)).text
        page = await arrive(browser, provider)
        assert (page.status, "closed" in page.text) == (403, True)


@aio
async def test_a_locked_account_stays_out(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        await register(Browser(deployment), provider)
        admin = await deployment.user("admin", admin=True)
        await admin.asks("PUT", "/_matrix/client/v1/admin/lock/@zoe:example.org", {"locked": True})
        page = await arrive(Browser(deployment), provider)
        assert (page.status, "locked" in page.text) == (401, True)


# -- lies and attacks


def _changes(**changed: Any) -> Callable[[dict[str, Any]], None]:
    """A lie: these claims instead; None leaves one out."""

    def lie(claims: dict[str, Any]) -> None:
        for name, value in changed.items():
            claims.pop(name, None)
            if value is not None:
                claims[name] = value

    return lie


@pytest.mark.parametrize(
    "lie",
    [
        _changes(iss="https://evil.example"),
        _changes(iss=None),
        _changes(aud="another"),
        _changes(aud=["another"]),
        _changes(aud=["domicile", "another"]),
        _changes(aud=["domicile", "another"], azp="another"),
        _changes(azp="another"),
        _changes(aud=None),
        _changes(nonce="another"),
        _changes(nonce=None),
        _changes(exp=1),
        _changes(exp=None),
        _changes(exp="tomorrow"),
        _changes(iat=2**40),
        _changes(iat=None),
        _changes(nbf=2**40),
        _changes(sub=None),
        _changes(sub=""),
        _changes(sub=7),
        _changes(sub="x" * 256),
    ],
)
@aio
async def test_an_id_token_that_does_not_hold(
    deploy: Deploy, tmp_path: Path, lie: Callable[[dict[str, Any]], None]
) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        provider.lie = lie
        browser = Browser(deployment)
        page = await arrive(browser, provider)
        assert (page.status, "did not sign you in" in page.text) == (403, True)
        assert "__Host-domicile_session" not in browser.cookies


@pytest.mark.parametrize("algorithm", ["none", "HS256", "another key"])
@aio
async def test_an_id_token_that_the_provider_has_not_signed(deploy: Deploy, tmp_path: Path, algorithm: str) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        if algorithm == "another key":
            provider.published = [ECKey.generate_key("P-256", {"kid": "one"})]
        else:
            provider.algorithm = algorithm
            provider.metadata["id_token_signing_alg_values_supported"] = [algorithm, "ES256"]
        assert (await arrive(Browser(deployment), provider)).status == 403


@aio
async def test_keys_that_are_changed(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        await register(Browser(deployment), provider)
        provider.key = ECKey.generate_key("P-256", {"kid": "two"})
        assert (await arrive(Browser(deployment), provider)).status == 403  # it was asked for keys a moment ago
        await deployment.clock.advance(61)
        assert (await arrive(Browser(deployment), provider)).path == ACCOUNT
        assert provider.asked.count("/keys") == 2
        assert provider.asked.count("/.well-known/openid-configuration") == 1


@aio
async def test_a_sign_in_is_finished_once_and_where_it_was_begun(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        victim, attacker = Browser(deployment), Browser(deployment)
        await victim.get("/_domicile/login")
        back = provider.visit((await attacker.get(START)).location)
        assert (await victim.get(back)).status == 403  # they would be signed in as the attacker
        assert (await attacker.get(back)).status == 403  # and it is used up
        back = provider.visit((await attacker.get(START)).location)
        assert (await attacker.get(back)).status == 200
        assert (await attacker.get(back)).status == 403
        back = provider.visit((await attacker.get(START)).location)
        await deployment.clock.advance(901)
        assert (await attacker.get(back)).status == 403
        assert (await Browser(deployment).get(back)).status == 403


@aio
async def test_a_name_is_chosen_by_the_browser_that_arrived(deploy: Deploy, tmp_path: Path) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser, attacker = Browser(deployment), Browser(deployment)
        page = await arrive(browser, provider)
        pending = page.forms[0][2]["pending"]
        theirs = (await attacker.get("/_domicile/login")).forms[0][2]["form_token"]
        stolen = {"pending": pending, "user": "root", "form_token": theirs}
        assert (await attacker.ask("POST", "/_domicile/sso/name", stolen)).status == 403
        assert (await browser.send(page, user="zoe")).path == ACCOUNT
        assert (await browser.send(page, user="another")).status == 403


@pytest.mark.parametrize("query", ["error=access_denied&state={}", "state={}", "code=x", "", "code=x&state=unknown"])
@aio
async def test_who_comes_back_without_having_signed_in(deploy: Deploy, tmp_path: Path, query: str) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        browser = Browser(deployment)
        back = provider.visit((await browser.get(START)).location)
        state = dict(parse_qsl(urlsplit(back).query))["state"]
        page = await browser.get(f"{CALLBACK}?{query.format(state)}")
        assert page.status in (400, 403)
        wrong = provider.visit((await browser.get(START)).location) + "&iss=https://evil.example"
        assert (await browser.get(wrong)).status == 403


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://127.0.0.1/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
        {"jwks_uri": "https://127.0.0.1:1/keys"},
    ],
)
@aio
async def test_a_provider_that_cannot_be_used(deploy: Deploy, tmp_path: Path, metadata: dict[str, Any]) -> None:
    async with providing(deploy, tmp_path) as (deployment, provider):
        provider.metadata = metadata
        browser = Browser(deployment)
        page = await browser.get(START)
        if page.status == 303:
            page = await browser.get(provider.visit(page.location))
        assert (page.status, "cannot be used at the moment" in page.text) == (502, True)


@aio
async def test_no_provider_behind_the_firewall(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "provider.secret").write_text("x")
    made = await deploy(settings=SETTINGS + table("https://127.0.0.1:1", tmp_path))
    deployment = reaching(made, Authority(tmp_path).ca_file, allowed="192.0.2.0/24")
    page = await Browser(deployment).get(START)
    assert page.status == 502
    await deployment.server.outbound.close()


@pytest.mark.parametrize(
    "target",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "/_domicile/account",
        "https://user@evil.com/",
        "https://evil.com\\@good.com",
        "https://",
        "about:blank",
        "a b",
        "",
    ],
)
@aio
async def test_no_token_goes_to_what_is_no_address(deployment: Deployment, target: str) -> None:
    await deployment.user("alice")
    browser = Browser(deployment)
    page = await browser.sign_in("alice", PASSWORD)
    query = f"?redirectUrl={quote(target, safe='')}"
    for path in ("/_matrix/client/v3/login/sso/redirect", "/_domicile/sso/continue"):
        assert (await browser.get(path + query)).status == 400
    fields = {"form_token": page.forms[0][2]["form_token"], "redirectUrl": target}
    assert (await browser.ask("POST", "/_domicile/sso/continue", fields)).status == 400


@aio
async def test_no_token_by_somebody_elses_form(deployment: Deployment) -> None:
    await deployment.user("alice")
    browser = Browser(deployment)
    await browser.sign_in("alice", PASSWORD)
    theirs = (await Browser(deployment).get("/_domicile/login")).forms[0][2]["form_token"]
    fields = {"form_token": theirs, "redirectUrl": "https://evil.com/"}
    assert (await browser.ask("POST", "/_domicile/sso/continue", fields)).status == 403


@aio
async def test_a_provider_that_is_none(deployment: Deployment) -> None:
    path = "/_matrix/client/v3/login/sso/redirect/unknown?redirectUrl=https://app.example.com/"
    assert (await Browser(deployment).get(path)).status == 404
    assert (await Browser(deployment).get(START)).status == 404
    assert BASE not in (await Browser(deployment).get(path)).headers
