"""Garbage in every form and every parameter of the OAuth endpoints and pages, from a browser that is signed in.

What comes back is an error, and shows nothing of how the server works inside. tests/garbage has what is thrown at all
routes.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from urllib.parse import quote, urlencode

import pytest

from homeserver.context import Server
from homeserver.endpoints import (
    account_pages,
    authorization,
    consent,
    oauth,
    residency_pages,
    signing_in,
    sso,
    stage_pages,
)
from homeserver.web.heads import Heads
from homeserver.web.routes import Route, Table
from tests import openapi
from tests.deployment import PASSWORD, SETTINGS, Deployment, start
from tests.endpoints.visiting import FORM, REDIRECT, Browser, Client
from tests.support import Databases, aio, finish

PROVIDER = """
[[identity_providers]]
id = "nowhere"
name = "Nowhere"
issuer = "https://127.0.0.1:1"
client_id = "domicile"
"""

TABLE: Table[Server] = Table.of(
    account_pages, authorization, consent, oauth, residency_pages, signing_in, sso, stage_pages
)
ROUTES = [
    route
    for route in TABLE.routes
    if not route.path.startswith("/_matrix/client/v1") and route.method in ("GET", "POST")
]
NAMES = (
    *("client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "code_challenge", "prompt"),
    *("code_challenge_method", "code", "code_verifier", "refresh_token", "grant_type", "device_code", "user_code"),
    *("request", "decision", "form_token", "next", "user", "password", "again", "token", "node", "step", "proofs"),
    *("sid", "secret", "medium", "address", "pending", "do", "device_id", "name", "new", "erase", "action", "iss"),
    *(
        "redirectUrl",
        "provider",
        "error",
        "login_hint",
        "token_type_hint",
        "log_out",
        "t",
        "shown",
        "target",
        "session",
    ),
)
JUNK = (
    *("", " ", "x", "0", "-1", "null", "[]", "{}", "é", "\u202e", "💥" * 50, "%", "%00", "a\r\nSet-Cookie: x=y", "\\"),
    *("x" * 5000, "../../etc/passwd", "<script>", "{{7*7}}", "' OR 1=1 --", "a:b:c d:e", "msisdn:a:b", ":::", "+"),
    *("javascript:alert(1)", "//evil.com", "https://[", "https://a:99999/", "http://localhost:x/", "::::", "\ud800"),
    *("domc_" + "A" * 22 + "_" + "A" * 43, "domr_" + "A" * 22 + "_" + "A" * 43, "doms_" + "_" * 22 + "_" + "-" * 43),
    *("request=x&client_id=y", "@a:b", "a@", "a@b@c", "+", "+98", "mxid:", "deactivate", "allow", "deny", "account"),
)
RAW = (
    b"",
    b"%",
    b"=&=&",
    b"\xff\xfe",
    b"a=%FF",
    b"a=%00",
    b"x" * 60_000,
    b"&" * 10_000,
    b"a=1&a=2",
    b"{}",
    b"a" * 70_000,
)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment for everything that is thrown."""
    databases = Databases("sqlite", tmp_path_factory.mktemp("one"))
    made = finish(start(databases, settings=SETTINGS + PROVIDER))
    finish(made.user("alice"))
    yield made
    finish(databases.close())
    assert made.observed.faults == []


async def thrown(deployment: Deployment, browser: Browser, method: str, target: str, body: bytes, kind: str) -> int:
    """The status of the answer, which must be one that somebody may see."""
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"Content-Type": kind, "Cookie": cookies}
    response = await deployment.site.call(method, target, headers=headers, body=body, address="127.0.0.1")
    assert isinstance(response.body, bytes)
    Heads(0).head(response, len(response.body), shared=True)  # raises for a header that would break the answer up
    if response.status == 502:  # the provider, who does not answer
        return response.status
    faults = openapi.answer_faults(None, response.status, response.content_type, response.body)
    assert faults == [], (target[:200], body[:200])
    assert b"<script" not in response.body
    for name, value in response.headers:
        assert name != "Location" or value.startswith(
            ("https://matrix.example.org/_domicile/", REDIRECT, "https://a")
        ), value
    return response.status


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@aio
async def test_garbage_is_refused(one: Deployment, route: Route[Server]) -> None:
    random = Random(f"{route.method} {route.path}")
    browser, client = Browser(one), Client(one)
    await client.register()
    await browser.sign_in("alice", PASSWORD)
    page = await browser.get("/_domicile/account")
    right = {
        **dict.fromkeys(("next", "user", "password", "again", "state"), "x"),
        "client_id": client.client_id,
        "redirect_uri": REDIRECT,
        "form_token": page.forms[0][2]["form_token"],
        "request": client.link().partition("?")[2],
        "grant_type": "authorization_code",
        "decision": "allow",
        "do": "name",
        "provider": "nowhere",
    }
    path = route.path.replace("{idpId}", "nowhere")
    statuses = set()
    for _ in range(120):
        fields = {name: value for name, value in right.items() if random.random() < 0.8}
        fields |= {random.choice(NAMES): random.choice(JUNK) for _ in range(random.choice((1, 1, 2, 4)))}
        text = urlencode(fields, errors="surrogatepass")
        target, body = (f"{path}?{text}", b"") if route.method == "GET" else (path, text.encode())
        statuses.add(await thrown(one, browser, route.method, target, body, FORM))
        if random.random() < 0.05:
            browser.cookies.pop("__Host-domicile_session", None)
        if "__Host-domicile_session" not in browser.cookies and random.random() < 0.5:
            await browser.sign_in("alice", PASSWORD)
    for raw in RAW:
        target = f"{path}?{quote(raw[:8000], safe='%&=')}" if route.method == "GET" else path
        statuses.add(await thrown(one, browser, route.method, target, raw, FORM))
    for kind in ("", "text/plain", "multipart/form-data", "é", FORM + "; charset=\xff"):
        statuses.add(await thrown(one, browser, route.method, path, b"client_id=x", kind))
    assert statuses <= {200, 201, 302, 303, 400, 401, 403, 404, 413, 429, 502}
