"""A provider of identities on 127.0.0.1 that speaks OpenID Connect, and lies as a test wants."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from joserfc import jwt
from joserfc.jwk import ECKey, Key, KeySet, OctKey

from homeserver.accounts import callers
from homeserver.runtime.certificates import Trust
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.names import SystemNames
from homeserver.runtime.outbound import Outbound
from homeserver.runtime.telemetry import Telemetry
from homeserver.web.site import Site
from tests.deployment import SETTINGS, Deploy, Deployment
from tests.endpoints.visiting import BASE
from tests.federation.authority import Asked, Authority, Stranger

Change = Callable[[dict[str, Any]], Any]
SECRET = "a secret that the two share"


def _same(claims: dict[str, Any]) -> None:
    """No lie."""


@dataclass
class Provider:
    """Signs in whoever ``claims`` says. ``lie`` changes the claims of an ID token before it is signed."""

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=lambda: {"sub": "s-1", "preferred_username": "Zoë Q", "name": "Zoë"})
    told: dict[str, Any] | None = None
    """What the userinfo endpoint says, if not the same."""
    lie: Change = _same
    metadata: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "ES256"
    key: Key = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one"}))
    published: list[Key] | None = None
    asked: list[str] = field(default_factory=list)
    secret: str = SECRET
    _away: dict[str, dict[str, str]] = field(default_factory=dict)

    def visit(self, location: str) -> str:
        """What the browser does that is sent here: its user signs in, and it is sent back, where to is returned."""
        parts = urlsplit(location)
        assert f"{parts.scheme}://{parts.netloc}" == self.issuer
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert asked["code_challenge_method"] == "S256"
        assert asked["redirect_uri"] == BASE + "/_domicile/sso/callback"
        assert asked["client_id"] == "domicile"
        code = f"code{len(self._away)}"
        self._away[code] = asked
        return f"{asked['redirect_uri']}?code={code}&state={asked['state']}"

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Called for each request."""
        method, path, _ = asked.line.split(" ")
        self.asked.append(path)
        status, body = self._answered(method, path, asked)
        text = orjson.dumps(body)
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    def _answered(self, method: str, path: str, asked: Asked) -> tuple[int, Any]:
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.issuer,
                "authorization_endpoint": self.issuer + "/authorize",
                "token_endpoint": self.issuer + "/token",
                "userinfo_endpoint": self.issuer + "/userinfo",
                "jwks_uri": self.issuer + "/keys",
                **self.metadata,
            }
        if path == "/keys":
            keys = [self.key] if self.published is None else self.published
            return 200, KeySet(keys).as_dict(private=False)
        if path == "/userinfo":
            return 200, self.claims if self.told is None else self.told
        assert (method, path) == ("POST", "/token")
        assert (asked.header("authorization") or "").startswith("Basic ")
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        begun = self._away.pop(form["code"])
        assert form["redirect_uri"] == begun["redirect_uri"]
        now = int(FakeClock().now_ms() / 1000)
        claims = {"iss": self.issuer, "aud": "domicile", "iat": now, "exp": now + 300, "nonce": begun["nonce"]}
        claims |= self.claims
        self.lie(claims)
        return 200, {"id_token": self._signed(claims), "access_token": "opaque", "token_type": "Bearer"}

    def _signed(self, claims: dict[str, Any]) -> str:
        header = {"alg": self.algorithm, "kid": self.key.kid}
        if self.algorithm == "none":
            parts = (urlsafe_b64encode(orjson.dumps(part)).decode().rstrip("=") for part in (header, claims))
            return ".".join((*parts, ""))
        key = OctKey.import_key(self.secret) if self.algorithm.startswith("HS") else self.key
        return jwt.encode(header, claims, key, algorithms=[self.algorithm])


@asynccontextmanager
async def providing(
    deploy: Deploy, tmp_path: Path, more: str = "", **kwargs: Any
) -> AsyncIterator[tuple[Deployment, Provider]]:
    """A deployment and its provider; ``more`` are further settings of the provider."""
    authority, provider = Authority(tmp_path), Provider()
    stranger = Stranger(authority.issue("127.0.0.1"), provider.answer)
    provider.issuer = f"https://127.0.0.1:{await stranger.open()}"
    (tmp_path / "provider.secret").write_text(SECRET)
    settings = kwargs.pop("settings", SETTINGS) + table(provider.issuer, tmp_path, more)
    made = await deploy(settings=settings, **kwargs)
    deployment = reaching(made, authority.ca_file)
    try:
        yield deployment, provider
    finally:
        await deployment.server.outbound.close()
        await stranger.close()


def table(issuer: str, directory: Path, more: str = "") -> str:
    """The settings of the provider."""
    return f"""
[[identity_providers]]
id = "university"
name = "Example University"
issuer = "{issuer}"
client_id = "domicile"
client_secret_file = "{directory}/provider.secret"
{more}
"""


def reaching(made: Deployment, ca_file: Path, *, allowed: str = "127.0.0.0/8") -> Deployment:
    """The deployment, whose outgoing connections may go to this machine and trust an authority."""
    clock = made.server.clock
    outbound = Outbound(SystemNames(), Trust(ca_file), clock, Telemetry(), [ip_network(allowed)])
    server = replace(made.server, outbound=outbound)
    site = Site(
        server,
        made.site.table,
        authenticate=lambda token: callers.authenticate(server, token),
        observer=made.observed,
        seconds=clock.monotonic,
    )
    return Deployment(server, site, made.observed)
