"""The pages on which people sign in, make an account and look after it; and what others might try to do with them.

spec: client-server-api/#oauth-20-account-management
"""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from tests.accounts.post import Post, post
from tests.deployment import PASSWORD, POLICY, SETTINGS, Deploy, Deployment
from tests.e2ee.play import Identity
from tests.endpoints.visiting import BASE, Browser, Client, Page, scope
from tests.support import aio

__all__ = ["post"]

ACCOUNT = "/_domicile/account"
NEW = "another good password"
CHOOSING = POLICY.replace(
    '[[pins]]\ntoken = "fr-*"\nnode = "paris"', '[[pins]]\nchoice = true\nnodes = ["tehran", "paris"]'
)


async def signed_in(deployment: Deployment, user: str = "alice", node: str = "tehran") -> tuple[Browser, Page]:
    """A browser of somebody with an account, at their account page."""
    await deployment.user(user, node)
    browser = Browser(deployment)
    return browser, await browser.sign_in(user, PASSWORD)


# -- signing in


@pytest.mark.parametrize("user", ["alice", "Alice", "@alice:example.org", " alice "])
@aio
async def test_signing_in_by_name(deployment: Deployment, user: str) -> None:
    await deployment.user("alice")
    browser = Browser(deployment)
    page = await browser.sign_in(user, PASSWORD)
    assert (page.status, page.path) == (200, ACCOUNT)
    assert "Iran (IR)" in page.text
    assert browser.cookies.keys() == {"__Host-domicile_mark", "__Host-domicile_session"}


@aio
async def test_a_wrong_password_and_nobody_are_answered_alike(deployment: Deployment) -> None:
    await deployment.user("alice")
    pages = []
    for user in ("alice", "nobody", "nobody@example.com", "+33123456789", "@alice:elsewhere.example"):
        browser = Browser(deployment)
        page = await browser.sign_in(user, "wrong")
        assert page.status == 403
        assert "__Host-domicile_session" not in browser.cookies
        shown = page.text.replace(page.forms[0][2]["form_token"], "").replace(page.forms[0][2]["user"], "")
        pages.append(re.sub(r"&#?\w+;", "", shown))
    assert len(set(pages)) <= 2  # the browser that was new is told more


@aio
async def test_attempts_are_bounded(deploy: Deploy) -> None:
    settings = SETTINGS.replace("enabled = false", "enabled = true")
    settings += "login = { per_second = 1, burst = 50 }\nlogin_failure = { per_second = 0.01, burst = 3 }\n"
    deployment = await deploy(settings=settings)
    await deployment.user("alice")
    browser = Browser(deployment)
    page = await browser.get("/_domicile/login")
    for _ in range(3):
        assert (await browser.send(page, user="alice", password="wrong")).status == 403
    page = await browser.send(page, user="alice", password=PASSWORD)
    assert page.status == 429
    assert "Too many attempts" in page.text
    await deployment.clock.advance(1000)
    assert (await browser.send(page, user="alice", password=PASSWORD)).status == 200


@aio
async def test_too_many_requests_are_answered_by_a_page(deploy: Deploy) -> None:
    settings = SETTINGS.replace("enabled = false", "enabled = true") + "login = { per_second = 0.01, burst = 1 }\n"
    deployment = await deploy(settings=settings)
    browser = Browser(deployment)
    page = await browser.get("/_domicile/login")
    await browser.send(page, user="alice", password="wrong")
    page = await browser.send(page, user="alice", password="wrong")
    assert (page.status, page.headers["retry-after"]) == (429, "100")
    assert "Too many attempts" in page.text


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.com/",
        "//evil.com/",
        "/\\evil.com",
        "/_domicile//evil.com",
        "/_domicile/../evil",
        "/_domicile/login@evil.com",
        "/_matrix/client/v3/login/sso/redirect?redirectUrl=https://evil.com",
        "javascript:alert(1)",
        "/_domicile/account\r\nSet-Cookie: a=b",
        "/_domicile/account?" + "x" * 7000,
        "",
    ],
)
@aio
async def test_nobody_is_sent_elsewhere(deployment: Deployment, target: str) -> None:
    await deployment.user("alice")
    browser = Browser(deployment)
    page = await browser.get(f"/_domicile/login?next={quote(target, safe='')}")
    assert page.forms[0][2]["next"] == ACCOUNT
    answered = await browser.send(page, follow=False, user="alice", password=PASSWORD, next=target)
    assert (answered.status, answered.location) == (303, BASE + ACCOUNT)
    assert (await browser.get(f"/_domicile/login?next={quote(target, safe='')}")).path == ACCOUNT


@aio
async def test_forms_count_only_from_the_browser_that_got_them(deployment: Deployment) -> None:
    await deployment.user("alice")
    victim, attacker = Browser(deployment), Browser(deployment)
    page = await victim.get("/_domicile/login")
    theirs = await attacker.get("/_domicile/login")
    filled = {"user": "alice", "password": PASSWORD}
    _, action, fields = theirs.forms[0]
    assert (await victim.ask("POST", action, {**fields, **filled})).status == 403
    for token in ("", "x", fields["form_token"][:-1]):
        assert (await victim.ask("POST", action, {**fields, **filled, "form_token": token})).status == 403
    own = {**page.forms[0][2], **filled}
    assert (await Browser(deployment).ask("POST", action, own)).status == 403  # a browser without cookies
    for site in ("cross-site", "same-site"):
        assert (await victim.ask("POST", action, own, Sec_Fetch_Site=site)).status == 403
    assert (await victim.ask("POST", action, own, Sec_Fetch_Site="same-origin")).status == 303


@pytest.mark.parametrize("do", ["name", "device_delete", "deactivate", "reset", "password"])
@aio
async def test_no_change_by_somebody_elses_form(deployment: Deployment, do: str) -> None:
    browser, _ = await signed_in(deployment)
    theirs = (await Browser(deployment).get("/_domicile/login")).forms[0][2]["form_token"]
    fields = {"do": do, "form_token": theirs, "password": PASSWORD, "new": NEW, "again": NEW, "name": "Mallory"}
    assert (await browser.ask("POST", ACCOUNT, {**fields, "device_id": "X"})).status == 403
    page = await browser.get(ACCOUNT)
    assert "Mallory" not in page.text
    assert page.path == ACCOUNT


@aio
async def test_signing_out_and_running_out(deployment: Deployment) -> None:
    browser, page = await signed_in(deployment)
    kept = dict(browser.cookies)
    page = await browser.send(page, number=1)
    assert page.path == "/_domicile/login"
    browser.cookies = kept
    assert (await browser.get(ACCOUNT)).path.startswith("/_domicile/login")
    await browser.sign_in("alice", PASSWORD)
    await deployment.clock.advance(3601)
    assert (await browser.get(ACCOUNT)).path.startswith("/_domicile/login")


@pytest.mark.parametrize("token", ["", "x", "doms_" + "A" * 22 + "_" + "A" * 43, "dom_" + "A" * 22 + "_" + "A" * 43])
@aio
async def test_a_cookie_that_is_none(deployment: Deployment, token: str) -> None:
    browser = Browser(deployment, cookies={"__Host-domicile_session": token})
    assert (await browser.get(ACCOUNT)).path.startswith("/_domicile/login")


@aio
async def test_an_access_token_is_no_cookie(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    browser = Browser(deployment, cookies={"__Host-domicile_session": alice.token})
    assert (await browser.get(ACCOUNT)).path.startswith("/_domicile/login")
    await browser.sign_in("alice", PASSWORD)
    session = browser.cookies["__Host-domicile_session"]
    answer = await deployment.asked("GET", "/_matrix/client/v3/account/whoami", token=session)
    assert answer.errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_cookies_without_tls_have_other_names(deploy: Deploy) -> None:
    settings = SETTINGS.replace("https://matrix.example.org", "http://127.0.0.1:8008")
    browser = Browser(await deploy(settings=settings))
    page = await browser.ask("GET", "/_domicile/login")
    assert browser.cookies.keys() == {"domicile_mark"}
    assert "Secure" not in page.headers["set-cookie"]


@pytest.mark.parametrize(
    ("accepted", "code", "words"),
    [
        ("fa-IR,fa;q=0.9,en;q=0.5", "fa", 'dir="rtl"'),
        ("de,fr-CA;q=0.8,en;q=0.7", "fr", "Se connecter"),
        ("ru", "ru", "Войти"),
        ("en;q=0.2,ru;q=0.1", "en", "Sign in"),
        ("xx", "fa", "ورود"),  # new users' data rests in Iran
        ("", "fa", "ورود"),
        ("fr;q=0,*", "fa", "ورود"),
        (",;q=x,\xff;;=,fr;q=1e999", "fa", "ورود"),
    ],
)
@aio
async def test_languages(deploy: Deploy, accepted: str, code: str, words: str) -> None:
    policy = POLICY.replace('name = "Iran"', 'name = "Iran"\nlanguages = ["fa"]')
    browser = Browser(await deploy(policy=policy), {"Accept-Language": accepted})
    page = await browser.get("/_domicile/login")
    assert f'<html lang="{code}"' in page.text
    assert words in page.text
    assert page.headers["content-language"] == code
    failed = await browser.get("/_domicile/oauth/authorize?client_id=x&redirect_uri=y")
    assert f'<html lang="{code}"' in failed.text


@aio
async def test_what_people_and_clients_write_is_not_markup(deployment: Deployment) -> None:
    evil = "<script>alert('x')</script>\"'{{7*7000007}}%(x)s"
    client, (browser, page) = Client(deployment), await signed_in(deployment)
    assert (await client.register(client_name=evil)).status == 201
    pages = [
        await browser.send(page, name=evil),
        await browser.get(client.link(scope=scope("<script>"))),
        await browser.get("/_domicile/link?user_code=" + quote(evil)),
        await browser.get(f"{ACCOUNT}?action={quote(evil)}&device_id={quote(evil)}"),
        await browser.get(f"{ACCOUNT}?action=org.matrix.cross_signing_reset&device_id={quote(evil)}"),
        await Browser(deployment).sign_in(evil, evil),
        await browser.get("/_domicile/sso/continue?redirectUrl=https://example.com/" + quote(evil)),
    ]
    for each in pages:
        assert "<script" not in each.text
        assert "49000049" not in each.text.replace(each.path, "")


# -- registration


@aio
async def test_making_an_account_on_the_way_to_a_client(deployment: Deployment) -> None:
    client, browser = Client(deployment), Browser(deployment)
    await client.register()
    page = await browser.get(client.link(prompt="create"))
    assert page.path.startswith("/_domicile/register")
    page = await browser.send(page, user="Dora", password=PASSWORD, again=PASSWORD + "x")
    assert (page.status, "differ" in page.text) == (400, True)
    page = await browser.send(page, user="dora", password="short", again="short")
    assert page.status == 400
    page = await browser.send(page, user="dora", password=PASSWORD, again=PASSWORD)
    assert "@dora:example.org" in page.text
    back = await browser.send(page, decision="allow")
    tokens = await client.redeem(back.told["code"])
    assert tokens.status == 200
    assert (await deployment.server.nodes.of_user("@dora:example.org")) is deployment.node("tehran")
    page = await Browser(deployment).get("/_domicile/register")
    taken = await Browser(deployment, cookies=browser.cookies).ask("GET", "/_domicile/register")
    assert taken.status == 303  # who is signed in goes on
    other = Browser(deployment)
    page = await other.send(await other.get("/_domicile/register"), user="dora", password=PASSWORD, again=PASSWORD)
    assert (page.status, "taken" in page.text) == (400, True)


@aio
async def test_a_token_says_where_the_account_rests(deploy: Deploy) -> None:
    settings = SETTINGS.replace('mode = "open"', 'mode = "token"\ntokens_file = "registration.tokens"')
    deployment = await deploy(settings=settings)
    secret = deployment.server.settings.registration.tokens
    assert secret is not None
    assert secret.file is not None
    secret.file.write_text("fr-1\nir-1\n")
    browser = Browser(deployment)
    filled = {"user": "dora", "password": PASSWORD, "again": PASSWORD}
    page = await browser.send(await browser.get("/_domicile/register"), filled, token="wrong")
    assert (page.status, "does not hold" in page.text) == (401, True)
    page = await browser.send(page, filled, token="fr-1")
    assert "France (FR)" in page.text
    assert (await deployment.server.nodes.of_user("@dora:example.org")) is deployment.node("paris")


@aio
async def test_choosing_where_the_account_rests(deploy: Deploy) -> None:
    deployment = await deploy(policy=CHOOSING)
    browser = Browser(deployment)
    page = await browser.get("/_domicile/register")
    assert "France (FR)" in page.text
    filled = {"user": "dora", "password": PASSWORD, "again": PASSWORD}
    assert (await browser.send(page, filled, node="nowhere")).status == 403
    assert "France (FR)" in (await browser.send(page, filled, node="paris")).text


@aio
async def test_proving_a_phone_number_and_an_address_first(deploy: Deploy, post: Post) -> None:
    settings = SETTINGS.replace("[passwords]", 'verify = ["msisdn", "email"]\n[passwords]') + post.settings
    policy = POLICY.replace('token = "fr-*"', 'phone_prefix = "+33"')
    deployment = await deploy(settings=settings, policy=policy)
    browser = Browser(deployment)
    page = await browser.get("/_domicile/register")
    assert "password" not in page.forms[0][2]
    page = await browser.send(page, address="not a number")
    assert (page.status, "not a phone number" in page.text) == (400, True)
    page = await browser.send(page, address="+33 1 09 75 83 51")
    code = post.texts[-1].code
    page = await browser.send(page, code="000000" if code != "000000" else "111111")
    assert (page.status, "not the code" in page.text) == (400, True)
    filled = {"user": "dora", "password": PASSWORD, "again": PASSWORD}
    assert (await browser.send(page, filled, step="account", proofs="msisdn:x:y email:x:y")).status >= 400
    page = await browser.send(page, code=code)
    page = await browser.send(page, address="dora@example.com")
    assert (await browser.send(page)).status == 403  # nobody has opened the link
    _, action, fields = (await browser.get(post.letters[-1].link)).forms[0]
    assert (await browser.ask("POST", action, fields)).status == 200
    page = await browser.send(await browser.send(page), filled)
    assert "France (FR)" in page.text
    assert "+33109758351" in page.text
    assert "dora@example.com" in page.text
    for user in ("+33 109758351", "dora@example.com"):
        assert "@dora:example.org" in (await Browser(deployment).sign_in(user, PASSWORD)).text


# -- the account


@aio
async def test_the_display_name(deployment: Deployment) -> None:
    browser, page = await signed_in(deployment)
    page = await browser.send(page, name="Alice in Chains")
    profile = "/_matrix/client/v3/profile/@alice:example.org"
    assert "Your display name is changed" in page.text
    alice = await deployment.login(await deployment.user("bob"))
    shown = await deployment.asked("GET", profile, token=alice.json["access_token"])
    assert shown.json["displayname"] == "Alice in Chains"
    assert (await browser.send(page, name="x" * 1000)).status == 400
    page = await browser.send(page, name="")
    assert page.forms[0][2]["name"] == ""


@aio
async def test_a_suspended_user_has_the_display_name_that_they_had(deployment: Deployment) -> None:
    browser, page = await signed_in(deployment)
    page = await browser.send(page, name="Alice in Chains")
    admin = await deployment.user("admin", admin=True)
    suspend = "/_matrix/client/v1/admin/suspend/@alice:example.org"
    await admin.asks("PUT", suspend, {"suspended": True})
    for name in ("Admin", ""):
        refused = await browser.send(page, name=name)
        assert (refused.status, "while your account is suspended" in refused.text) == (403, True)
        assert refused.forms[0][2]["name"] == "Alice in Chains"
    await admin.asks("PUT", suspend, {"suspended": False})
    assert (await browser.send(page, name="Alice")).forms[0][2]["name"] == "Alice"


@pytest.mark.parametrize(
    ("listing", "deleting"),
    [
        ("org.matrix.devices_list", "org.matrix.device_delete"),
        ("org.matrix.sessions_list", "org.matrix.session_end"),
        ("sessions_list", "session_end"),
    ],
)
@aio
async def test_devices_are_seen_and_signed_out(deployment: Deployment, listing: str, deleting: str) -> None:
    alice = await deployment.user("alice")
    bob = await deployment.user("bob")
    browser = Browser(deployment)
    await browser.sign_in("alice", PASSWORD)
    page = await browser.get(f"{ACCOUNT}?action={listing}")
    assert alice.device_id in page.text
    assert bob.device_id not in page.text
    page = await browser.get(next(link for link in page.links if alice.device_id in link).removeprefix(BASE))
    assert "alice&#39;s phone" in page.text
    page = await browser.get(f"{ACCOUNT}?action={deleting}&device_id={bob.device_id}")
    assert bob.device_id not in page.text
    page = await browser.get(f"{ACCOUNT}?action={deleting}&device_id={alice.device_id}")
    foreign = {**page.forms[0][2], "device_id": bob.device_id}
    assert (await browser.ask("POST", ACCOUNT, foreign)).status == 200
    assert (await bob.asks("GET", "/_matrix/client/v3/account/whoami")).status == 200
    assert "You have no devices" in (await browser.send(page)).text
    assert (await alice.asks("GET", "/_matrix/client/v3/account/whoami")).errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_another_password(deployment: Deployment) -> None:
    browser, _ = await signed_in(deployment)
    elsewhere = Browser(deployment)
    await elsewhere.sign_in("alice", PASSWORD)
    page = await browser.get(f"{ACCOUNT}?action=org.domicile.password")
    assert (await browser.send(page, password="wrong", new=NEW, again=NEW)).status == 403
    assert (await browser.send(page, password=PASSWORD, new=NEW, again="other")).status == 400
    assert (await browser.send(page, password=PASSWORD, new="short", again="short")).status == 400
    page = await browser.send(page, password=PASSWORD, new=NEW, again=NEW)
    assert page.path == ACCOUNT
    assert (await elsewhere.get(ACCOUNT)).path.startswith("/_domicile/login")
    assert (await Browser(deployment).sign_in("alice", PASSWORD)).status == 403
    assert (await Browser(deployment).sign_in("alice", NEW)).status == 200


@aio
async def test_closing_the_account(deployment: Deployment) -> None:
    browser, _ = await signed_in(deployment, node="paris")
    page = await browser.get(f"{ACCOUNT}?action=org.matrix.account_deactivate")
    assert (await browser.send(page, password="wrong")).status == 403
    assert (await browser.get(ACCOUNT)).path == ACCOUNT
    assert "Your account is closed" in (await browser.send(page, password=PASSWORD, erase="yes")).text
    assert (await browser.get(ACCOUNT)).path.startswith("/_domicile/login")
    assert (await Browser(deployment).sign_in("alice", PASSWORD)).status == 403


@aio
async def test_an_action_that_is_none_shows_the_overview(deployment: Deployment) -> None:
    browser, _ = await signed_in(deployment)
    for query in ("?action=org.example.fly", "?action=", "?action=org.matrix.device_view", ""):
        assert (await browser.get(ACCOUNT + query)).status == 200
    fields = (await browser.get(ACCOUNT)).forms[0][2]
    assert (await browser.ask("POST", ACCOUNT, {**fields, "do": "fly"})).status == 400


# -- replacing cross-signing keys


@aio
async def test_keys_are_replaced_once_it_is_confirmed_in_a_browser(deployment: Deployment) -> None:
    await deployment.user("alice")
    client, browser = Client(deployment), Browser(deployment)
    await client.register()
    token = (await client.sign_in(browser, "alice", PASSWORD))["access_token"]
    path = "/_matrix/client/v3/keys/device_signing/upload"

    async def upload(body: dict[str, object]) -> int:
        return (await deployment.asked("POST", path, body, token=token)).status

    first, second, third = (Identity("@alice:example.org").upload() for _ in range(3))
    assert await upload(first) == 200  # nobody is asked about the first keys
    asked = await deployment.asked("POST", path, second, token=token)
    assert asked.status == 401
    assert ["m.oauth"] in [flow["stages"] for flow in asked.json["flows"]]
    url = asked.json["params"]["m.oauth"]["url"]
    auth = {"auth": {"session": asked.json["session"]}}
    assert await upload({**second, **auth}) == 401
    password = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
    assert await upload({**second, "auth": {**auth["auth"], **password}}) == 401
    page = await browser.get(url)
    assert "Example App (PHONE)" in page.text
    assert (await browser.send(page, password="wrong")).status == 403
    assert await upload({**second, **auth}) == 401
    assert "may reset it now" in (await browser.send(page, password=PASSWORD)).text
    other = (await client.sign_in(browser, "alice", PASSWORD, "OTHER"))["access_token"]
    elsewhere = await deployment.asked("POST", path, second, token=other)
    again = {"auth": {"session": elsewhere.json["session"]}}
    assert (await deployment.asked("POST", path, {**second, **again}, token=other)).status == 401
    assert await upload({**second, **auth}) == 200
    asked = await deployment.asked("POST", path, third, token=token)
    assert await upload({**third, "auth": {"session": asked.json["session"]}}) == 401  # it was for once


@aio
async def test_what_was_confirmed_expires(deployment: Deployment) -> None:
    await deployment.user("alice")
    client, browser = Client(deployment), Browser(deployment)
    await client.register()
    token = (await client.sign_in(browser, "alice", PASSWORD))["access_token"]
    path = "/_matrix/client/v3/keys/device_signing/upload"
    first, second = (Identity("@alice:example.org").upload() for _ in range(2))
    await deployment.asked("POST", path, first, token=token)
    page = await browser.get(f"{ACCOUNT}?action=org.matrix.cross_signing_reset")
    await browser.send(page, password=PASSWORD)
    await deployment.clock.advance(601)
    asked = await deployment.asked("POST", path, second, token=token)
    auth = {"auth": {"session": asked.json["session"]}}
    assert (await deployment.asked("POST", path, {**second, **auth}, token=token)).status == 401
