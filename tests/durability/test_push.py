"""`kill -9` loses no notification: whoever has a pusher is told of every message, in order, at least once.

The gateway is a real one; it is away for some of the rounds, so that what it is owed outlives the server.
"""

from __future__ import annotations

import json
import random
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.durability.test_kill import Sending
from tests.federation.authority import Authority
from tests.interop.api import Api
from tests.interop.deployment import Deployment
from tests.support import Databases

ROUNDS = 6
"""How often the server is killed on each engine."""

PATIENCE = 60.0
"""Seconds that a gateway waits for what it is owed."""


class Gateway:
    """A push gateway in threads of its own. ``told``: event ids in the order in which they came. ``away``: it takes
    nothing; ``refused`` is set when it was asked nevertheless."""

    def __init__(self, authority: Authority) -> None:
        gateway = self

        class Notify(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # called by the library
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = gateway.take(body["notification"])
                content = json.dumps({"rejected": []}).encode()
                self.send_response(answer)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Say nothing."""

        tls = authority.issue("127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Notify)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._more = threading.Condition()
        self.told: list[str] = []
        self.away = False
        self.refused = threading.Event()

    @property
    def url(self) -> str:
        """Where notifications are sent."""
        return f"https://127.0.0.1:{self._server.server_address[1]}/_matrix/push/v1/notify"

    def take(self, notification: dict[str, Any]) -> int:
        """Take a notification, or not; the status."""
        with self._more:
            if self.away:
                self.refused.set()
                return 503
            if "event_id" in notification:
                self.told.append(notification["event_id"])
                self._more.notify_all()
            return 200

    def hears(self, expected: set[str]) -> None:
        """Wait until it has been told of all of these."""
        with self._more:
            heard = self._more.wait_for(lambda: expected <= set(self.told), PATIENCE)
        assert heard, f"{len(expected - set(self.told))} of {len(expected)} were never told"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who vouches for the gateway."""
    return Authority(tmp_path)


@pytest.fixture
def gateway(authority: Authority) -> Iterator[Gateway]:
    """A gateway on this machine."""
    made = Gateway(authority)
    yield made
    made.close()


@pytest.fixture
def house(engines: Databases, tmp_path: Path, authority: Authority) -> Iterator[Deployment]:
    """The real product on either engine, which may ask what is on this machine."""
    urls = {} if engines.kind == "sqlite" else {node: engines.url(node) for node in ("tehran", "paris")}
    with Deployment(tmp_path, databases=urls, authority=authority) as house:
        yield house


def test_kill_loses_no_notification(house: Deployment, gateway: Gateway) -> None:
    """See the module."""
    chance = random.Random(8)
    alice = Api(house.base_url, house.add_user_by_secret("alice", "a long password", "tehran")["access_token"])
    bob = Api(house.base_url, house.add_user_by_secret("bob", "a long password", "tehran")["access_token"])
    wish = {"preset": "private_chat", "invite": [f"@alice:{house.server_name}"]}
    room = bob.client("POST", "/createRoom", wish)["room_id"]
    alice.client("POST", f"/join/{quote(room)}", {})
    pusher = {
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": "key",
        "app_display_name": "Example",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": gateway.url, "format": "event_id_only"},
    }
    alice.client("POST", "/pushers/set", pusher)
    sent: list[str] = []
    for number in range(ROUNDS):
        sending = Sending(bob.token, room, f"{number}")
        gateway.away = number % 2 == 0
        gateway.refused.clear()
        stop = threading.Event()
        thread = threading.Thread(target=sending.run, args=(house.base_url, stop))
        thread.start()
        if gateway.away:
            gateway.refused.wait(PATIENCE)
        stop.wait(chance.uniform(0.02, 0.1))  # the moment of the kill; nothing waits for it
        house.kill9()
        stop.set()
        thread.join()
        gateway.away = False
        house.start()
        sending.repeat(house.base_url)
        sent += [event_id for event_id in sending.answered.values() if event_id is not None]
        gateway.hears(set(sent))
    assert list(dict.fromkeys(gateway.told)) == sent  # what came twice is known by its event id
