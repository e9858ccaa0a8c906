"""A mail server and a gateway of text messages on 127.0.0.1, real ones, that keep what they are given."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.support import finish


@dataclass
class Letter:
    """A message as the mail server took it over."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    user: str | None
    over_tls: bool

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.message.get_content())

    @property
    def link(self) -> str:
        """Path and query of the link in it."""
        found = re.search(r"https?://\S+", self.text)
        assert found
        parts = urlsplit(found[0])
        return f"{parts.path}?{parts.query}"

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the link."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.link).query).items()}


@dataclass
class Text:
    """A request that the gateway got."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Its body."""
        read: dict[str, Any] = orjson.loads(self.body)
        return read

    @property
    def code(self) -> str:
        """The code in its text."""
        found = re.search(r"[0-9]{6}", self.json["text"])
        assert found
        return found[0]


@dataclass
class Post:
    """Both. ``refusing``: they take nothing over."""

    letters: list[Letter] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    refusing: bool = False
    smtp_port: int = 0
    sms_port: int = 0
    _servers: list[asyncio.Server] = field(default_factory=list)
    _listening: list[Any] = field(default_factory=list)

    async def open(self) -> None:
        """Listen, the mail server in the clear."""
        self.smtp_port = await self.serve_mail()
        from twisted.internet import reactor as installed

        reactor: Any = installed  # typed as a module, and is an object
        site: Any = Site
        port = reactor.listenTCP(0, site(_Gateway(self)), interface="127.0.0.1")
        self._listening.append(port)
        self.sms_port = port.getHost().port

    async def serve_mail(self, context: ssl.SSLContext | None = None, *, user: str = "", password: str = "") -> int:
        """One more mail server: with STARTTLS it demands it, with a user it demands to log in. Returns its port."""

        def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
            session.who = data.login.decode()
            return AuthResult(success=(session.who, data.password.decode()) == (user, password))

        def protocol() -> SMTP:
            return SMTP(
                Mailbox(self),
                hostname="localhost",
                tls_context=context,
                require_starttls=context is not None,
                auth_required=bool(user),
                authenticator=authenticate,
                loop=asyncio.get_running_loop(),
            )

        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop."""
        for server in self._servers:
            server.close()
            await server.wait_closed()
        for port in self._listening:
            await port.stopListening().asFuture(asyncio.get_running_loop())

    @property
    def settings(self) -> str:
        """The tables of settings that lead here."""
        return f"""
[email]
server = "127.0.0.1"
port = {self.smtp_port}
security = "none"
sender = "noreply@example.org"
[sms]
url = "http://127.0.0.1:{self.sms_port}/messages"
"""


class Mailbox:
    """Puts what a mail server takes over among the letters. Called by aiosmtpd."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        if self._post.refusing:
            return "451 Not now"
        message = BytesParser(policy=default).parsebytes(envelope.content or b"")  # type: ignore[arg-type]
        assert isinstance(message, EmailMessage)
        user, over_tls = getattr(session, "who", None), session.ssl is not None
        letter = Letter(str(envelope.mail_from), [*map(str, envelope.rcpt_tos)], message, user, over_tls)
        self._post.letters.append(letter)
        return "250 Taken"


class _Gateway(Resource):
    """Called by Twisted."""

    isLeaf = True  # noqa: N815

    def __init__(self, post: Post) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._post = post

    def render(self, request: Request) -> bytes:
        """Keep the request."""
        if self._post.refusing:
            request.setResponseCode(503)
            return b"not now"
        raw = request.requestHeaders.getAllRawHeaders()
        headers = {name.decode().lower(): b", ".join(values).decode() for name, values in raw}
        body = request.content.read() if request.content else b""
        self._post.texts.append(Text(request.method.decode(), request.uri.decode(), headers, body))
        return b"{}"


@pytest.fixture
def post() -> Iterator[Post]:
    """Both, listening."""
    made = Post()
    finish(made.open())
    yield made
    finish(made.close())
