"""After a busy day no file holds from where people came, or by which program: not in any form that could be read.

Databases and what stands beside them, media, keys, the log at its most talkative, the metrics. The records are there,
as the custodians see who open them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from homeserver.protocol import epochs
from homeserver.protocol.epochs import Epoch, SealedShare, SessionRecord
from homeserver.protocol.signing import decode_base64
from homeserver.web.routes import Route, Table
from tests.conformance import endpoint_modules
from tests.interop.api import Api
from tests.interop.deployment import free_port
from tests.operation.product import Product
from tests.operation.test_log import Day, failures, register, work
from tests.operation.test_tls import Authority
from tests.sealing.play import KEYS, custodians
from tests.sealing.traces import found_below, found_in

FOUR = ["203.0.113.77", "198.51.100.201", "192.0.2.113", "203.0.113.191"]
SIX = ["2001:db8:5ca1:ab1e:7f3a:91c2:4d5e:6f70", "2001:db8:c0de:f00d:1aa7:b3c9:e2f4:5d68"]
PEER = "127.77.88.99"
"""From where somebody comes who is behind no proxy."""
ALL = [*FOUR, *SIX, PEER]
SAID = [*FOUR, *SIX, f"{FOUR[0]}:50123", f"[{SIX[0]}]:443", f"[{SIX[1].upper()}]", f"::ffff:{FOUR[2]}"]
"""As proxies say it."""
LEAVING = ("/logout", "/delete_devices", "/_domicile/v1/users/")


LISTENER = """
[[listeners]]
address = "127.0.0.1"
port = {port}
resources = ["client"]
tls = {{ certificate = "tls.crt", key = "tls.key" }}
"""


@dataclass
class Travels(Day):
    """A day on which each request comes from elsewhere."""

    places: Iterator[str] = field(default_factory=lambda: itertools.cycle(SAID))

    def asks(self, method: str, path: str, body: object = None, token: str = "") -> tuple[int, dict[str, Any]]:
        """Make a request from the next place."""
        self.address = next(self.places)
        return super().asks(method, path, body, token)


def product_in(folder: Path) -> Product:
    """A deployment with custodians everywhere, behind a proxy, which tells what it can in its log."""
    product = Product(folder)
    product.add('\n[log]\nlevel = "debug"\n')
    settings = product.settings.read_text()
    listener = 'resources = ["client", "console", "metrics"'
    settings = settings.replace(listener + "]", listener + ', "federation"]\ntrusted_proxies = ["127.0.0.1/32"]')
    settings = settings.replace("[federation]\nenabled = false", "[federation]\nenabled = true")
    settings = settings.replace(
        "[rate_limits]\nenabled = false", "[rate_limits]\nregistration = { per_second = 0.001, burst = 9 }"
    )
    product.settings.write_text(settings)
    for code in ("IR", "FR"):
        product.add("\n" + custodians(*KEYS, code=code), product.policy)
    return product


def everywhere(day: Travels, token: str) -> None:
    """A request to each route that there is, most of which are refused: each door sees who comes."""
    routes: tuple[Route[Any], ...] = Table.of(*endpoint_modules()).routes
    seen: set[int] = set()
    for route in sorted(routes, key=lambda each: any(word in each.path for word in LEAVING)):
        path = re.sub(r"\{\w+\}", "x", route.path)
        body: object = None if route.method in ("GET", "HEAD", "OPTIONS") else {}
        seen.add(day.asks(route.method, f"{path}?timeout=0", body, token)[0])
    assert seen >= {200, 400, 401, 403, 404}, seen
    assert len(routes) > 300


def unmediated(product: Product, tls_port: int) -> None:
    """What is no request, and no handshake, from somebody who is behind no proxy."""
    port = int(product.base_url.rpartition(":")[2])
    for where, said in (
        (port, b"GET / HTTP/1.1\r\n\x00: y\r\n\r\n"),
        (port, b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"),
        (port, b"GET /_matrix/client/v3/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n"),
        (port, b"PUT /_matrix/federation/v1/send/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"),
        (port, b"GET " + b"/y" * 40_000),
        (tls_port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (tls_port, b"\x16\x03\x01\x00\x05hello"),
    ):
        with socket.create_connection(("127.0.0.1", where), timeout=30, source_address=(PEER, 0)) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset


def hostile(day: Travels) -> None:
    """Too many requests from everywhere, and other servers that are none."""
    refused = [day.client("POST", "/register", {"username": "x"})[0] for _ in range(80)]
    assert 429 in refused
    assert day.asks("GET", "/_matrix/federation/v1/version")[0] == 200
    assert day.asks("PUT", "/_matrix/federation/v1/send/1", {"pdus": []})[0] == 401
    assert day.asks("GET", "/_matrix/client/v3/sync", token="dom_" + "x" * 40)[0] == 401
    assert day.asks("GET", "/" + "y" * 20_000)[0] >= 400
    assert day.asks("POST", "/_matrix/media/v3/upload", b"z" * 10)[0] == 401


def opened(file: Path) -> list[SessionRecord]:
    """What the custodians find in the database of tehran."""
    database = sqlite3.connect(file)
    (row,) = database.execute("SELECT number, public_key, threshold, shares FROM epochs").fetchall()
    boxes = [box for (box,) in database.execute("SELECT box FROM sessions")]
    database.close()
    shares = {
        name: SealedShare(*(decode_base64(each[part]) for part in ("key", "box", "digest")))
        for name, each in orjson.loads(row[3]).items()
    }
    epoch = Epoch("tehran", row[0], row[1], row[2], shares)
    words = [epochs.open_share(shares[name].box, bytes(KEYS[name])).words for name in ("shirin", "leila")]
    with epochs.combine(epoch, words) as secret:
        return [secret.open(box) for box in boxes]


def test_nothing_says_from_where_or_by_what_people_came(tmp_path: Path) -> None:
    product, tls_port = product_in(tmp_path), free_port()
    Authority.new().write(product.folder)
    product.add(LISTENER.format(port=tls_port))
    day = Travels(product)
    with product:
        token = work(day)
        everywhere(day, register(day, "nomad", day.secret("Password")))
        unmediated(product, tls_port)
        hostile(day)
        failures(day, token)
        limits = Path(f"/proc/{product.pid}/limits").read_text()
        metrics = Api(product.base_url).fetch("GET", "/metrics").decode()
        while_running = found_below(tmp_path, ALL, [day.user_agent])
    assert while_running == found_below(tmp_path, ALL, [day.user_agent]) == []
    assert found_in(metrics.encode(), ALL, [day.user_agent]) == []
    assert "domicile_http_requests" in metrics
    assert re.search(r"Max core file size +1 +1 ", limits), "a crash would leave a copy of the memory"
    assert "accounts/account_data.py" in product.log.read_text(), "nothing has failed"
    records = opened(product.node_folder("tehran") / "node.db")
    assert {record.address.lower().removeprefix("::ffff:") for record in records} <= {*FOUR, *SIX}
    assert {record.user_agent for record in records} == {day.user_agent}
    assert len(records) > 4
