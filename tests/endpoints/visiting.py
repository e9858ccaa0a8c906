"""A browser and an OAuth client, as tests play them: cookies are kept, forms are sent as they stand on the page."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson

from homeserver.pages.rendering import HTML
from homeserver.protocol.oauth import challenge_of
from tests.deployment import Answer, Deployment

BASE = "https://matrix.example.org"
FORM = "application/x-www-form-urlencoded"
REDIRECT = "https://app.example.com/callback"
METADATA: dict[str, Any] = {
    "client_name": "Example App",
    "client_uri": "https://example.com/",
    "redirect_uris": [REDIRECT],
    "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
    "application_type": "web",
}


def scope(device_id: str) -> str:
    """What a client asks for that is to be this device."""
    return f"urn:matrix:client:api:* urn:matrix:client:device:{device_id}"


class _Forms(HTMLParser):
    """The forms of a page: where they lead, and their fields; and the links."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, str, dict[str, str]]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((given["method"], given["action"], {}))
        elif tag in ("input", "select") and "name" in given and given.get("type") not in ("checkbox", "radio"):
            self.forms[-1][2][given["name"]] = given.get("value", "")
        elif tag == "a":
            self.links.append(given["href"])


@dataclass
class Page:
    """What a browser was answered. ``location`` is where it is sent; ``path`` where it asked."""

    status: int
    text: str
    headers: dict[str, str]
    path: str

    @property
    def location(self) -> str:
        """Where the browser is sent."""
        return self.headers["location"]

    @property
    def told(self) -> dict[str, str]:
        """What the place is told to which the browser is sent, in its query or fragment."""
        parts = urlsplit(self.location)
        return dict(parse_qsl(parts.fragment or parts.query, keep_blank_values=True))

    @property
    def forms(self) -> list[tuple[str, str, dict[str, str]]]:
        """Method, action and fields of each form."""
        read = _Forms()
        read.feed(self.text)
        return read.forms

    @property
    def links(self) -> list[str]:
        """Where links lead."""
        read = _Forms()
        read.feed(self.text)
        return read.links


@dataclass
class Browser:
    """Keeps cookies as a browser does. ``headers`` are sent each time."""

    deployment: Deployment
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Where the server is reached."""
        return self.deployment.server.settings.base_url

    async def ask(self, method: str, path: str, fields: dict[str, str] | None = None, **headers: str) -> Page:
        """Make one request; ``path`` may be a whole address of ours."""
        path = path.removeprefix(self.base)
        sent = {**self.headers, "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        body = b""
        if fields is not None:
            sent["Content-Type"] = FORM
            body = urlencode(fields).encode()
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.deployment.site.call(method, path, headers=sent, body=body, address="127.0.0.1")
        assert isinstance(response.body, bytes)
        found = {name.lower(): value for name, value in response.headers}
        if "set-cookie" in found:
            name, _, value = found["set-cookie"].partition(";")[0].partition("=")
            self.cookies[name] = value
            assert "HttpOnly" in found["set-cookie"]
            assert "SameSite=Lax" in found["set-cookie"]
        if response.content_type == HTML:
            assert "default-src 'none'" in found["content-security-policy"]
            assert found["cache-control"] == "no-store"
        return Page(response.status, response.body.decode(), found, path)

    async def get(self, path: str) -> Page:
        """Open an address, and go where one is sent, as long as it is with us."""
        page = await self.ask("GET", path)
        for _ in range(10):
            if page.status not in (302, 303) or not page.location.startswith(self.base + "/"):
                return page
            page = await self.ask("GET", page.location)
        raise AssertionError("the browser is sent round in circles")

    async def send(
        self,
        page: Page,
        entered: Mapping[str, str] | None = None,
        /,
        *,
        number: int = 0,
        follow: bool = True,
        **more: str,
    ) -> Page:
        """Fill in a form of a page and send it."""
        method, action, fields = page.forms[number]
        filled = {**(entered or {}), **more}
        assert action.startswith(self.base + "/")
        if method == "get":
            return await self.get(f"{action}?{urlencode({**fields, **filled})}")
        answered = await self.ask(method.upper(), action, {**fields, **filled})
        if follow and answered.status == 303 and answered.location.startswith(self.base + "/"):
            return await self.get(answered.location)
        return answered

    async def sign_in(self, user: str, password: str, path: str = "/_domicile/account") -> Page:
        """Open a page that asks who it is, and say so."""
        return await self.send(await self.get(path), user=user, password=password)


@dataclass
class Client:
    """An OAuth client that has registered."""

    deployment: Deployment
    client_id: str = ""
    verifier: str = ""

    async def register(self, **metadata: Any) -> Answer:
        """Register with the usual metadata, and with what is given."""
        answer = await posted_json(self.deployment, "/_domicile/oauth/clients", {**METADATA, **metadata})
        self.client_id = answer.json.get("client_id", "")
        return answer

    def link(self, device_id: str = "PHONE", /, **changed: str | None) -> str:
        """The address that the client opens; ``None`` leaves a parameter out."""
        self.verifier = secrets.token_urlsafe(32)
        parameters: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": REDIRECT,
            "scope": scope(device_id),
            "state": "some state",
            "response_mode": "fragment",
            "code_challenge": challenge_of(self.verifier),
            "code_challenge_method": "S256",
            **changed,
        }
        given = {name: value for name, value in parameters.items() if value is not None}
        return f"/_domicile/oauth/authorize?{urlencode(given)}"

    async def redeem(self, code: str, **changed: str) -> Answer:
        """Exchange a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT,
            "client_id": self.client_id,
            "code_verifier": self.verifier,
            **changed,
        }
        return await posted(self.deployment, "/_domicile/oauth/token", form)

    async def refresh(self, token: str, **changed: str) -> Answer:
        """Exchange a refresh token."""
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": self.client_id, **changed}
        return await posted(self.deployment, "/_domicile/oauth/token", form)

    async def revoke(self, token: str, **more: str) -> Answer:
        """Log out."""
        return await posted(self.deployment, "/_domicile/oauth/revoke", {"token": token, **more})

    async def sign_in(self, browser: Browser, user: str, password: str, device_id: str = "PHONE") -> dict[str, Any]:
        """The whole way: the tokens of a device that is signed in."""
        page = await browser.get(self.link(device_id))
        if "password" in page.forms[0][2]:
            page = await browser.send(page, user=user, password=password)
        back = await browser.send(page, decision="allow")
        answer = await self.redeem(back.told["code"])
        assert answer.status == 200, answer
        return answer.json


async def posted(deployment: Deployment, path: str, form: dict[str, str]) -> Answer:
    """Send a form as OAuth clients do."""
    return await _posted(deployment, path, urlencode(form).encode(), FORM)


async def posted_json(deployment: Deployment, path: str, body: object) -> Answer:
    """Send JSON."""
    return await _posted(deployment, path, orjson.dumps(body), "application/json")


async def _posted(deployment: Deployment, path: str, body: bytes, kind: str) -> Answer:
    headers = {"Content-Type": kind}
    response = await deployment.site.call("POST", path, headers=headers, body=body, address="127.0.0.1")
    assert isinstance(response.body, bytes)
    return Answer(response.status, orjson.loads(response.body))
