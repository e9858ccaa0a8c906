"""A push gateway on 127.0.0.1, a real one that speaks TLS, which keeps what it is told and answers as a test wants."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from config.sections.serving import Tls

PATH = b"/_matrix/push/v1/notify"


@dataclass
class Gateway:
    """``told``: the notifications that it took. ``status``: what it answers; ``rejects``: which pushkeys it knows no
    more. ``tried``: how often it was asked."""

    host: str
    told: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    rejects: list[str] = field(default_factory=list)
    tried: int = 0
    faults: list[str] = field(default_factory=list)
    port: int = 0
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _listening: Any = None

    @property
    def url(self) -> str:
        """Where notifications are sent."""
        return f"https://{self.host}{PATH.decode()}"

    def pusher(self, pushkey: str = "key", **data: Any) -> dict[str, Any]:
        """What a client sets."""
        return {
            "kind": "http",
            "app_id": "org.example.app",
            "pushkey": pushkey,
            "app_display_name": "Example",
            "device_display_name": "Phone",
            "lang": "fa",
            "data": {"url": self.url, **data},
        }

    async def open(self, tls: Tls) -> None:
        """Listen."""
        from twisted.internet import reactor as installed

        reactor: Any = installed  # typed as a module, and is an object
        site: Any = Site
        context: Any = DefaultOpenSSLContextFactory
        contexts = context(str(tls.key), str(tls.certificate))
        self._listening = reactor.listenSSL(0, site(_Notify(self)), contexts, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    async def close(self) -> None:
        """Stop."""
        await self._listening.stopListening().asFuture(asyncio.get_running_loop())

    def answer(self, request: Request) -> tuple[int, bytes]:
        """Take a notification, or not."""
        self.tried += 1
        self._asked.set()
        content: Any = request.content
        body = content.read()
        if request.method != b"POST" or request.path != PATH:
            self.faults.append(f"{request.method!r} {request.path!r}")
        if request.getHeader("content-type") != "application/json":
            self.faults.append(f"content type {request.getHeader('content-type')}")
        if self.status != 200:
            return self.status, b"{}"
        self.told.append(orjson.loads(body)["notification"])
        return 200, orjson.dumps({"rejected": self.rejects})

    async def was_tried(self, times: int) -> None:
        """Wait until it was asked so often, all in all."""
        while self.tried < times:
            self._asked.clear()
            await self._asked.wait()

    async def hears(self, count: int) -> list[dict[str, Any]]:
        """Wait until it has taken so many notifications; all of them."""
        while len(self.told) < count:
            self._asked.clear()
            await self._asked.wait()
        return self.told

    @property
    def events(self) -> list[str]:
        """The event ids of what it was told, in order."""
        return [each["event_id"] for each in self.told if "event_id" in each]


class _Notify(Resource):
    """Called by Twisted."""

    isLeaf = True  # noqa: N815

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gateway = gateway

    def render(self, request: Request) -> bytes:
        """Answer."""
        status, body = self._gateway.answer(request)
        request.setResponseCode(status)
        return body
