"""Signing in by the OAuth 2.0 API: what it is for, and every way in which somebody might abuse it.

spec: client-server-api/#oauth-20-api
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.deployment import PASSWORD, SETTINGS, Answer, Deploy, Deployment, start
from tests.endpoints.visiting import BASE, REDIRECT, Browser, Client, posted, posted_json, scope
from tests.support import Databases, aio, finish

WHOAMI = "/_matrix/client/v3/account/whoami"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment for all tests of what leaves nothing behind."""
    databases = Databases("sqlite", tmp_path_factory.mktemp("one"))
    made = finish(start(databases))
    yield made
    finish(databases.close())
    assert made.observed.faults == []


async def whoami(deployment: Deployment, token: str) -> Answer:
    return await deployment.asked("GET", WHOAMI, token=token)


async def begun(deployment: Deployment, node: str = "tehran") -> tuple[Browser, Client]:
    """Alice, a browser and a client."""
    await deployment.user("alice", node)
    client = Client(deployment)
    assert (await client.register()).status == 201
    return Browser(deployment), client


async def code(browser: Browser, client: Client, **changed: str | None) -> str:
    """A code for the client, that Alice has allowed."""
    page = await browser.get(client.link(**changed))
    if "password" in page.forms[0][2]:
        page = await browser.send(page, user="alice", password=PASSWORD)
    return (await browser.send(page, decision="allow")).told["code"]


# -- discovery and registration


@aio
async def test_metadata_names_everything(deployment: Deployment) -> None:
    told = (await deployment.asked("GET", "/_matrix/client/v1/auth_metadata")).json
    assert told["issuer"] == BASE + "/"
    assert told["grant_types_supported"] == [
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:device_code",
    ]
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert told["prompt_values_supported"] == ["create"]
    for name in ("authorization", "token", "registration", "revocation", "device_authorization"):
        path = told[f"{name}_endpoint"].removeprefix(BASE)
        assert deployment.site.table.methods(path) - {"HEAD", "GET"} == {"POST"}
    older = await deployment.asked("GET", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata")
    assert older.json == told
    assert (await deployment.asked("GET", "/.well-known/oauth-authorization-server")).json == told
    issuer = await deployment.asked("GET", "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer")
    assert issuer.json == {"issuer": told["issuer"]}
    known = (await deployment.asked("GET", "/.well-known/matrix/client")).json
    assert known["org.matrix.msc2965.authentication"] == {
        "issuer": told["issuer"],
        "account": told["account_management_uri"],
    }


@aio
async def test_without_oauth_there_is_none_of_it(deploy: Deploy) -> None:
    deployment = await deploy(settings=SETTINGS + "[oauth]\nenabled = false\n")
    assert (await deployment.asked("GET", "/_matrix/client/v1/auth_metadata")).errcode == "M_UNRECOGNIZED"
    assert (await Client(deployment).register()).status == 404
    assert (await Browser(deployment).get("/_domicile/oauth/authorize?client_id=x")).status == 404
    assert (await posted(deployment, "/_domicile/oauth/token", {"grant_type": "refresh_token"})).status == 404
    known = (await deployment.asked("GET", "/.well-known/matrix/client")).json
    assert "org.matrix.msc2965.authentication" not in known
    features = (await deployment.asked("GET", "/_matrix/client/versions")).json["unstable_features"]
    assert features["org.matrix.msc4108"] is False


@aio
async def test_where_nobody_may_register_no_page_for_it_is_promised(deploy: Deploy) -> None:
    deployment = await deploy(settings=SETTINGS.replace('"open"', '"closed"'))
    told = (await deployment.asked("GET", "/_matrix/client/v1/auth_metadata")).json
    assert "prompt_values_supported" not in told
    assert (await Browser(deployment).get("/_domicile/register")).status == 403


@aio
async def test_the_same_metadata_is_the_same_client(deployment: Deployment) -> None:
    client = Client(deployment)
    first = await client.register(
        **{"client_name#fr": "Une appli", "unknown": 1, "grant_types": ["authorization_code", "x"]}
    )
    assert first.status == 201
    assert first.json["grant_types"] == ["authorization_code"]
    assert first.json["client_name#fr"] == "Une appli"
    assert "unknown" not in first.json
    again = await client.register(**{"client_name#fr": "Une appli", "grant_types": ["x", "authorization_code"]})
    assert again.json["client_id"] == first.json["client_id"]
    other = await client.register(client_name="Another")
    assert other.json["client_id"] != first.json["client_id"]


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"client_uri": None}, "invalid_client_metadata"),
        ({"client_uri": "http://example.com/"}, "invalid_client_metadata"),
        ({"client_uri": "https://user:pass@example.com/"}, "invalid_client_metadata"),
        ({"client_uri": "https://example.com\\@evil.com/"}, "invalid_client_metadata"),
        ({"client_uri": ["https://example.com/"]}, "invalid_client_metadata"),
        ({"application_type": "desktop"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "invalid_client_metadata"),
        ({"client_name": 7}, "invalid_client_metadata"),
        ({"client_name": "x" * 201}, "invalid_client_metadata"),
        ({"client_name": "a\u202eb"}, "invalid_client_metadata"),
        ({"policy_uri": "https://evil.com/policy"}, "invalid_client_metadata"),
        ({"logo_uri": "javascript:alert(1)"}, "invalid_client_metadata"),
        ({"tos_uri#fr": "https://example.com.evil.com/"}, "invalid_client_metadata"),
        ({"grant_types": "authorization_code"}, "invalid_client_metadata"),
        ({"grant_types": ["refresh_token"]}, "invalid_client_metadata"),
        ({"response_types": ["token"], "grant_types": ["authorization_code"]}, "invalid_client_metadata"),
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example.com/callback#x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://app.example.com/callback"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://localhost/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://evil.com/?example.com"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://notexample.com/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://user@app.example.com/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["com.example:/callback"]}, "invalid_redirect_uri"),
        ({"redirect_uris": [f"https://app.example.com/{number}" for number in range(21)]}, "invalid_redirect_uri"),
        ({"application_type": "native", "redirect_uris": ["example:/callback"]}, "invalid_redirect_uri"),
        ({"application_type": "native", "redirect_uris": ["com.example.app://callback"]}, "invalid_redirect_uri"),
        ({"application_type": "native", "redirect_uris": ["https://localhost/callback"]}, "invalid_redirect_uri"),
        ({"application_type": "native", "redirect_uris": ["http://localhost:1234/callback"]}, "invalid_redirect_uri"),
        ({"application_type": "native", "redirect_uris": ["http://[::1]:80/callback"]}, "invalid_redirect_uri"),
        ({"application_type": "native", "redirect_uris": ["com.examplex:/callback"]}, "invalid_redirect_uri"),
        ({"application_type": "native", "redirect_uris": [7]}, "invalid_client_metadata"),
    ],
)
@aio
async def test_clients_that_are_refused(one: Deployment, metadata: dict[str, object], error: str) -> None:
    answer = await Client(one).register(**metadata)
    assert (answer.status, answer.json["error"]) == (400, error)


@aio
async def test_redirect_uris_of_native_clients(one: Deployment) -> None:
    uris = ["com.example.app:/callback", "com.example:/", "com.example:callback", "http://localhost/callback"]
    uris += ["http://127.0.0.1/callback", "http://[::1]/callback", "https://app.example.com:5173/?query=value"]
    answer = await Client(one).register(application_type="native", redirect_uris=uris)
    assert answer.status == 201
    assert answer.json["redirect_uris"] == uris


@aio
async def test_which_redirect_uris_a_client_may_have_is_said(one: Deployment) -> None:
    uris = ["https://app.example.com/callback", "https://app.example.com/callback", "http://app.example.com/"]
    for kind, words in (("web", "https at example.com or below"), ("native", "com.example:/callback")):
        answer = await Client(one).register(application_type=kind, redirect_uris=uris)
        assert "redirect_uris[2]" in answer.json["error_description"]
        assert words in answer.json["error_description"]


@aio
async def test_metadata_that_is_no_json(one: Deployment) -> None:
    bodies: tuple[object, ...] = ([], "x", 7)
    for body in bodies:
        answer = await posted_json(one, "/_domicile/oauth/clients", body)
        assert (answer.status, answer.json["error"]) == (400, "invalid_client_metadata")


# -- the authorization code grant


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_a_client_signs_a_device_in(deployment: Deployment, node: str) -> None:
    browser, client = await begun(deployment, node)
    page = await browser.get(client.link("PHONE"))
    assert page.path.startswith("/_domicile/login?next=")
    page = await browser.send(page, user="@alice:example.org", password=PASSWORD)
    assert page.status == 200
    assert "Example App" in page.text
    assert "@alice:example.org" in page.text
    assert "form-action 'self' https://app.example.com;" in page.headers["content-security-policy"]
    back = await browser.send(page, decision="allow")
    assert back.status == 303
    assert back.location.startswith(REDIRECT + "#")
    assert back.told["state"] == "some state"
    assert back.told["iss"] == BASE + "/"
    issued = await client.redeem(back.told["code"])
    assert issued.status == 200
    assert issued.json["token_type"] == "Bearer"
    assert issued.json["expires_in"] == 3600
    assert issued.json["scope"] == scope("PHONE")
    token = issued.json["access_token"]
    assert (await whoami(deployment, token)).json["device_id"] == "PHONE"
    devices = (await deployment.asked("GET", "/_matrix/client/v3/devices/PHONE", token=token)).json
    assert devices["display_name"] == "Example App"


@aio
async def test_an_answer_in_the_query(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    await browser.sign_in("alice", PASSWORD)
    for mode in ("query", None):
        back = await browser.send(await browser.get(client.link(response_mode=mode)), decision="allow")
        assert back.location.startswith(REDIRECT + "?code=")
        assert (await client.redeem(back.told["code"])).status == 200


@aio
async def test_the_older_names_of_scopes(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    older = "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:OLD"
    given = await client.redeem(await code(browser, client, scope=f"openid {older}"))
    assert given.json["scope"] == older
    assert (await whoami(deployment, given.json["access_token"])).json["device_id"] == "OLD"


@aio
async def test_a_native_client_on_any_port(deployment: Deployment) -> None:
    await deployment.user("alice")
    client, browser = Client(deployment), Browser(deployment)
    await client.register(application_type="native", redirect_uris=["http://127.0.0.1/done", "com.example.app:/done"])
    await browser.sign_in("alice", PASSWORD)
    for uri in ("http://127.0.0.1:49152/done", "com.example.app:/done"):
        page = await browser.get(client.link(redirect_uri=uri))
        back = await browser.send(page, decision="allow")
        assert back.location.startswith(uri + "#")
        assert (await client.redeem(back.told["code"], redirect_uri=uri)).status == 200
    for uri in ("http://127.0.0.1:49152/other", "http://localhost:1/done", "http://127.0.0.1:1@evil.com/done"):
        assert (await browser.get(client.link(redirect_uri=uri))).status == 400


@aio
async def test_who_says_no(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    await browser.sign_in("alice", PASSWORD)
    back = await browser.send(await browser.get(client.link()), decision="deny")
    assert back.told["error"] == "access_denied"
    assert back.told["state"] == "some state"
    assert "code" not in back.told


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"response_mode": "form_post"}, "invalid_request"),
        ({"scope": None}, "invalid_request"),
        ({"scope": "openid"}, "invalid_scope"),
        ({"scope": "urn:matrix:client:api:*"}, "invalid_scope"),
        ({"scope": "urn:matrix:client:device:A"}, "invalid_scope"),
        ({"scope": scope("A") + " urn:matrix:client:device:B"}, "invalid_scope"),
        ({"scope": scope("")}, "invalid_scope"),
        ({"scope": scope("x" * 600)}, "invalid_scope"),
        ({"scope": scope('A"B')}, "invalid_scope"),
    ],
)
@aio
async def test_what_is_asked_wrongly_goes_back_to_the_client(
    one: Deployment, changed: dict[str, str | None], error: str
) -> None:
    client = Client(one)
    await client.register()
    back = await Browser(one).get(client.link(**changed))
    assert back.status == 303
    assert back.location.startswith(REDIRECT)
    assert (back.told["error"], back.told["state"]) == (error, "some state")


@aio
async def test_nothing_goes_to_an_address_that_is_not_the_clients(one: Deployment) -> None:
    client = Client(one)
    await client.register()
    strangers = ["https://evil.com/", REDIRECT + "/..", REDIRECT + "?x", "https://app.example.com.evil.com/callback"]
    strangers += ["https://evil@app.example.com/callback", "javascript:alert(1)", REDIRECT.upper(), ""]
    for uri in strangers:
        page = await Browser(one).get(client.link(redirect_uri=uri, scope="nonsense"))
        assert page.status == 400
        assert "location" not in page.headers
    unknown = await Browser(one).get(Client(one, "nobody").link())
    assert unknown.status == 401
    twice = await Browser(one).get(client.link() + "&redirect_uri=https%3A%2F%2Fevil.com%2F")
    assert twice.status == 400


@aio
async def test_a_code_holds_once(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    given = await code(browser, client)
    first = (await client.redeem(given)).json
    assert (await whoami(deployment, first["access_token"])).status == 200
    again = await client.redeem(given)
    assert (again.status, again.json["error"]) == (400, "invalid_grant")
    assert (await whoami(deployment, first["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await client.refresh(first["refresh_token"])).json["error"] == "invalid_grant"


@aio
async def test_a_code_is_for_the_client_that_asked_and_can_prove_it(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    other = Client(deployment)
    await other.register(client_name="Other")
    for changed in (
        {"code_verifier": "w" * 43},
        {"code_verifier": "short"},
        {"redirect_uri": REDIRECT + "x"},
    ):
        given = await code(browser, client)
        answer = await client.redeem(given, **changed)
        assert (answer.status, answer.json["error"]) == (400, "invalid_grant")
        assert (await client.redeem(given)).json["error"] == "invalid_grant"  # it was tried, and is void
    given = await code(browser, client)
    assert (await client.redeem(given, client_id=other.client_id)).json["error"] == "invalid_grant"
    assert (await client.redeem(given, client_id="nobody")).json["error"] == "invalid_client"
    assert (await client.redeem(given)).status == 200  # neither was it


@aio
async def test_a_code_expires(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    given = await code(browser, client)
    await deployment.clock.advance(61)
    assert (await client.redeem(given)).json["error"] == "invalid_grant"


@aio
async def test_a_code_of_an_account_that_was_closed_or_locked_meanwhile(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    admin = await deployment.user("admin", admin=True)
    given = await code(browser, client)
    locked = await admin.asks("PUT", "/_matrix/client/v1/admin/lock/@alice:example.org", {"locked": True})
    assert locked.status == 200
    assert (await client.redeem(given)).json["error"] == "invalid_grant"
    assert (await browser.get("/_domicile/account")).path.startswith("/_domicile/login")
    page = await browser.sign_in("alice", PASSWORD)
    assert (page.status, "locked" in page.text) == (401, True)


@aio
async def test_a_device_that_is_there_is_signed_in_anew(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    client, browser = Client(deployment), Browser(deployment)
    await client.register()
    await browser.sign_in("alice", PASSWORD)
    page = await browser.get(client.link(alice.device_id))
    assert "Its session ends when you allow this" in page.text
    given = await client.redeem((await browser.send(page, decision="allow")).told["code"])
    assert (await whoami(deployment, given.json["access_token"])).json["device_id"] == alice.device_id
    assert (await whoami(deployment, alice.token)).errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_a_device_of_another_user_is_not_touched(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    bob = await deployment.user("bob")
    tokens = await client.sign_in(browser, "alice", PASSWORD, bob.device_id)
    assert (await whoami(deployment, tokens["access_token"])).json["user_id"] == "@alice:example.org"
    assert (await whoami(deployment, bob.token)).json["user_id"] == bob.user_id


@aio
async def test_the_grants_that_are_none(one: Deployment) -> None:
    client = Client(one)
    await client.register()
    path = "/_domicile/oauth/token"
    for form, error in (
        ({"grant_type": "password", "client_id": client.client_id}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "client_id": client.client_id}, "invalid_request"),
        ({"grant_type": "authorization_code"}, "invalid_request"),
        ({}, "invalid_request"),
    ):
        answer = await posted(one, path, form)
        assert (answer.status, answer.json["error"]) == (400, error)
        assert answer.json["error_description"]
    client.link()
    for code_ in ("x", "domc_" + "A" * 22 + "_" + "A" * 43, "dom_" + "A" * 22 + "_" + "A" * 43):
        assert (await client.redeem(code_)).json["error"] == "invalid_grant"
    assert (await posted_json(one, path, {"grant_type": "refresh_token"})).json["error"] == "invalid_request"


@aio
async def test_a_client_without_the_grant(deployment: Deployment) -> None:
    client = Client(deployment)
    await client.register(grant_types=["authorization_code"])
    form = {"client_id": client.client_id, "scope": scope("TV")}
    answer = await posted(deployment, "/_domicile/oauth/device", form)
    assert answer.json["error"] == "unauthorized_client"
    await client.register(grant_types=["urn:ietf:params:oauth:grant-type:device_code"])
    assert (await Browser(deployment).get(client.link())).told["error"] == "unauthorized_client"


# -- refreshing


@aio
async def test_both_tokens_are_changed_and_the_old_ones_end(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    first = await client.sign_in(browser, "alice", PASSWORD)
    second = (await client.refresh(first["refresh_token"])).json
    assert second["scope"] == scope("PHONE")
    assert second["expires_in"] == 3600
    assert len({token["refresh_token"] for token in (first, second)}) == 2
    lost = second  # the answer did not arrive: the client may ask again, until it has used what it got
    second = (await client.refresh(first["refresh_token"])).json
    assert (await whoami(deployment, lost["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await whoami(deployment, second["access_token"])).status == 200
    third = (await client.refresh(second["refresh_token"])).json
    assert (await whoami(deployment, third["access_token"])).status == 200


@aio
async def test_an_old_refresh_token_ends_the_session(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    first = await client.sign_in(browser, "alice", PASSWORD)
    second = (await client.refresh(first["refresh_token"])).json
    assert (await whoami(deployment, second["access_token"])).status == 200
    assert (await client.refresh(first["refresh_token"])).json["error"] == "invalid_grant"
    assert (await whoami(deployment, second["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await client.refresh(second["refresh_token"])).json["error"] == "invalid_grant"


@aio
async def test_a_token_that_was_taken_back_ends_nothing(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    first = await client.sign_in(browser, "alice", PASSWORD)
    lost = (await client.refresh(first["refresh_token"])).json
    second = (await client.refresh(first["refresh_token"])).json
    assert (await client.refresh(lost["refresh_token"])).json["error"] == "invalid_grant"
    assert (await whoami(deployment, second["access_token"])).status == 200


@aio
async def test_refresh_tokens_belong_to_their_client(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    other = Client(deployment)
    await other.register(client_name="Other")
    tokens = await client.sign_in(browser, "alice", PASSWORD)
    assert (await other.refresh(tokens["refresh_token"])).json["error"] == "invalid_grant"
    assert (await client.refresh(tokens["access_token"])).json["error"] == "invalid_grant"
    by_legacy = await posted_json(deployment, "/_matrix/client/v3/refresh", {"refresh_token": tokens["refresh_token"]})
    assert (by_legacy.status, by_legacy.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert (await client.refresh(tokens["refresh_token"])).status == 200
    bob = await deployment.user("bob")
    legacy = (await deployment.login(bob, refresh_token=True)).json
    assert (await client.refresh(legacy["refresh_token"])).json["error"] == "invalid_grant"
    assert (await whoami(deployment, legacy["access_token"])).status == 200


@aio
async def test_a_locked_account_keeps_its_session(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    admin = await deployment.user("admin", admin=True)
    tokens = await client.sign_in(browser, "alice", PASSWORD)
    path = "/_matrix/client/v1/admin/lock/@alice:example.org"
    await admin.asks("PUT", path, {"locked": True})
    assert (await client.refresh(tokens["refresh_token"])).status == 503
    await admin.asks("PUT", path, {"locked": False})
    assert (await client.refresh(tokens["refresh_token"])).status == 200


@aio
async def test_access_tokens_end_even_where_those_of_others_do_not(deploy: Deploy) -> None:
    deployment = await deploy(settings=SETTINGS + '[sessions]\naccess_token_lifetime = "never"\n')
    browser, client = await begun(deployment)
    tokens = await client.sign_in(browser, "alice", PASSWORD)
    assert tokens["expires_in"] == 3600
    await deployment.clock.advance(3601)
    answer = await whoami(deployment, tokens["access_token"])
    assert (answer.errcode, answer.json["soft_logout"]) == ("M_UNKNOWN_TOKEN", True)
    assert (await client.refresh(tokens["refresh_token"])).json["expires_in"] == 3600


# -- revocation


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
@aio
async def test_revoking_a_token_removes_the_device(deployment: Deployment, which: str) -> None:
    browser, client = await begun(deployment)
    tokens = await client.sign_in(browser, "alice", PASSWORD)
    answer = await client.revoke(tokens[which], token_type_hint=which, client_id="another")
    assert (answer.status, answer.json) == (200, {})
    assert (await whoami(deployment, tokens["access_token"])).errcode == "M_UNKNOWN_TOKEN"
    assert (await client.refresh(tokens["refresh_token"])).json["error"] == "invalid_grant"
    assert (await client.revoke(tokens[which])).status == 200  # as the specification wants
    page = await browser.get("/_domicile/account?action=org.matrix.devices_list")
    assert "PHONE" not in page.text


@aio
async def test_revoking_what_is_nothing(one: Deployment) -> None:
    client = Client(one)
    assert (await client.revoke("nonsense")).status == 200
    assert (await client.revoke("nonsense", token_type_hint="id_token")).json["error"] == "unsupported_token_type"
    assert (await posted(one, "/_domicile/oauth/revoke", {})).json["error"] == "invalid_request"


# -- what OAuth clients leave to the pages


@aio
async def test_an_oauth_client_does_not_manage_the_account(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    token = (await client.sign_in(browser, "alice", PASSWORD))["access_token"]
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
    v3 = "/_matrix/client/v3"
    for method, path, body in (
        ("DELETE", f"{v3}/devices/PHONE", {"auth": auth}),
        ("POST", f"{v3}/delete_devices", {"devices": ["PHONE"], "auth": auth}),
        ("POST", f"{v3}/account/password", {"new_password": "another password", "auth": auth}),
        ("POST", f"{v3}/account/deactivate", {"auth": auth}),
        ("POST", "/_matrix/client/v1/login/get_token", {"auth": auth}),
    ):
        answer = await deployment.asked(method, path, body, token=token)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), path
    assert (await whoami(deployment, token)).status == 200
    legacy = await deployment.asked("POST", f"{v3}/login", {**auth, "device_id": "PHONE"})
    freed = await deployment.asked("DELETE", f"{v3}/devices/PHONE", {"auth": auth}, token=legacy.json["access_token"])
    assert freed.status == 200  # the device is signed in another way by now


@aio
async def test_login_is_as_it_was(deployment: Deployment) -> None:
    flows = (await deployment.asked("GET", "/_matrix/client/v3/login")).json["flows"]
    assert [flow["type"] for flow in flows] == ["m.login.password", "m.login.token"]


@aio
async def test_what_a_client_says_of_its_user_leads_to_the_right_page(deployment: Deployment) -> None:
    browser, client = await begun(deployment)
    hint = await browser.get(client.link(login_hint="mxid:@alice:example.org"))
    assert hint.forms[0][2]["user"] == "@alice:example.org"
    create = await browser.get(client.link(prompt="create"))
    assert create.path.startswith(f"/_domicile/register?next={quote('/_domicile/oauth/authorize?', safe='')}")
