"""An application service on loopback: an HTTP server in the test's own process that notes what it is asked."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import orjson
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

HS_TOKEN = "the-token-of-the-homeserver"
AS_TOKEN = "the-token-of-the-service"


@dataclass(frozen=True)
class Asked:
    """A request that the service had. ``path`` is percent-encoded, without the query."""

    method: str
    path: str
    args: dict[str, list[str]]
    token: str
    body: Any

    @property
    def last(self) -> str:
        """The last segment of the path, decoded."""
        return unquote(self.path.rpartition("/")[2])


@dataclass
class Answering:
    """How requests to paths that begin in a certain way are answered."""

    status: int = 200
    body: Any = field(default_factory=dict)


class _Root(Resource):
    isLeaf = True  # noqa: N815  # Twisted's spelling

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge

    def render(self, request: Any) -> int | bytes:
        """Called by Twisted."""
        return self._bridge.take(request)


class Bridge:
    """The service. ``transactions`` are those that it has answered with success, in order."""

    def __init__(self, name: str = "bridge", as_token: str = AS_TOKEN) -> None:
        self.name = name
        self.as_token = as_token
        self.asked: list[Asked] = []
        self.attempts: list[Asked] = []
        self.transactions: list[Asked] = []
        self.answers: dict[str, Answering] = {}
        self.outcomes: deque[int] = deque()
        """The statuses of the next transactions; 200 when there is none."""
        self.under_way = 0
        self.most_under_way = 0
        self.held: asyncio.Event | None = None
        self.on_query: Any = None
        self.port = 0
        self._listening: Any = None
        self._news = asyncio.Event()

    # being there

    def open(self) -> None:
        """Listen, on the port as before."""
        from twisted.internet import reactor

        make: Any = Site
        made = make(_Root(self))
        made.noisy = False
        self._listening = cast(Any, reactor).listenTCP(self.port, made, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    async def close(self) -> None:
        """Be gone, with all connections."""
        if self._listening is not None:
            listening, self._listening = self._listening, None
            factory = listening.factory
            done = listening.stopListening()
            for channel in list(getattr(factory, "channels", ())):
                channel.abortConnection()
            if done is not None:
                await done.asFuture(asyncio.get_running_loop())

    def registration(self, **more: Any) -> dict[str, Any]:
        """What stands in its registration file."""
        return {
            "id": self.name,
            "url": f"http://127.0.0.1:{self.port}",
            "as_token": self.as_token,
            "hs_token": HS_TOKEN,
            "sender_localpart": f"_{self.name}_bot",
            "namespaces": {
                "users": [{"exclusive": True, "regex": f"@_{self.name}_.*"}],
                "aliases": [{"exclusive": True, "regex": f"#_{self.name}_.*"}],
                "rooms": [],
            },
            "rate_limited": False,
            **more,
        }

    def write(self, directory: Path, **more: Any) -> str:
        """Write the registration file (JSON is YAML); returns what the settings say of it."""
        path = directory / f"{self.name}.yaml"
        path.write_bytes(orjson.dumps(self.registration(**more)))
        return f'[[application_services]]\nregistration = "{path}"\n'

    # being asked

    def take(self, request: Any) -> int | bytes:
        """Answer a request."""
        raw = request.content.read()
        path = request.uri.decode().partition("?")[0]
        token = (request.getHeader("authorization") or "").removeprefix("Bearer ")
        args = {k.decode(): [each.decode() for each in v] for k, v in request.args.items()}
        asked = Asked(request.method.decode(), path, args, token, orjson.loads(raw) if raw else None)
        self.asked.append(asked)
        if "/transactions/" in path:
            task = asyncio.ensure_future(self._transaction(request, asked))
        else:
            task = asyncio.ensure_future(self._answer(request, asked))
        request.notifyFinish().addErrback(lambda _: task.cancel())
        return NOT_DONE_YET

    async def _transaction(self, request: Any, asked: Asked) -> None:
        self.attempts.append(asked)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self._news.set()
        try:
            if self.held is not None:
                await self.held.wait()
            status = self.outcomes.popleft() if self.outcomes else self._find(asked.path).status
            if status == 200:
                self.transactions.append(asked)
        finally:
            self.under_way -= 1
        self._finish(request, status, {})
        self._news.set()

    async def _answer(self, request: Any, asked: Asked) -> None:
        if self.on_query is not None and ("/users/" in asked.path or "/rooms/" in asked.path):
            found = await self.on_query(asked)
            self._finish(request, 200 if found else 404, {} if found else {"errcode": "ORG.EXAMPLE.NONE"})
        else:
            answering = self._find(asked.path)
            self._finish(request, answering.status, answering.body)
        self._news.set()

    def _find(self, path: str) -> Answering:
        best = max((start for start in self.answers if path.startswith(start)), key=len, default="")
        return self.answers.get(best, Answering())

    @staticmethod
    def _finish(request: Any, status: int, body: Any) -> None:
        request.setResponseCode(status)
        request.setHeader("Content-Type", "application/json")
        request.write(body if isinstance(body, bytes) else orjson.dumps(body))
        request.finish()

    # what it has been told

    async def until(self, enough: Any) -> Any:
        """Wait until ``enough()`` is true; returns that."""
        while not (found := enough()):
            self._news.clear()
            await self._news.wait()
        return found

    def events(self) -> list[dict[str, Any]]:
        """All events of its transactions."""
        return [event for asked in self.transactions for event in asked.body["events"]]

    def event_ids(self) -> list[str]:
        """Their ids."""
        return [event["event_id"] for event in self.events()]

    def ephemeral(self, kind: str) -> list[dict[str, Any]]:
        """The ephemeral events of a type."""
        found = [event for asked in self.transactions for event in asked.body.get("ephemeral", ())]
        return [event for event in found if event["type"] == kind]

    def letters(self) -> list[dict[str, Any]]:
        """The messages to devices."""
        key = "de.sorunome.msc2409.to_device"
        return [event for asked in self.transactions for event in asked.body.get(key, ())]

    async def has(self, *event_ids: str) -> None:
        """Wait until it has been told of these events."""
        await self.until(lambda: set(event_ids) <= set(self.event_ids()))


__all__ = ["AS_TOKEN", "HS_TOKEN", "Answering", "Asked", "Bridge"]
