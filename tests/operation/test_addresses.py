"""After a busy day no file holds from where people came, or by which program: not in any form that could be read.

Databases and what stands beside them, media, keys, the log at its most talkative, the metrics. The records are there,
as the custodians see who open them.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from homeserver.protocol import epochs
from homeserver.protocol.epochs import Epoch, SealedShare, SessionRecord
from homeserver.protocol.signing import decode_base64
from tests.interop.api import Api
from tests.operation.product import Product
from tests.operation.test_log import Day, failures, work
from tests.sealing.play import KEYS, custodians
from tests.sealing.traces import found_below, found_in

FOUR = ["203.0.113.77", "198.51.100.201", "192.0.2.113", "203.0.113.191"]
SIX = ["2001:db8:5ca1:ab1e:7f3a:91c2:4d5e:6f70", "2001:db8:c0de:f00d:1aa7:b3c9:e2f4:5d68"]


@dataclass
class Travels(Day):
    """A day on which each request comes from elsewhere."""

    places: Iterator[str] = field(default_factory=lambda: itertools.cycle([*FOUR, *SIX]))

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
    product = product_in(tmp_path)
    day = Travels(product)
    with product:
        token = work(day)
        hostile(day)
        failures(day, token)
        limits = Path(f"/proc/{product.pid}/limits").read_text()
        metrics = Api(product.base_url).fetch("GET", "/metrics").decode()
        while_running = found_below(tmp_path, [*FOUR, *SIX], [day.user_agent])
    assert while_running == found_below(tmp_path, [*FOUR, *SIX], [day.user_agent]) == []
    assert found_in(metrics.encode(), [*FOUR, *SIX], [day.user_agent]) == []
    assert "domicile_http_requests" in metrics
    assert re.search(r"Max core file size +1 +1 ", limits), "a crash would leave a copy of the memory"
    assert "accounts/account_data.py" in product.log.read_text(), "nothing has failed"
    records = opened(product.node_folder("tehran") / "node.db")
    assert {record.address for record in records} <= {*FOUR, *SIX}
    assert {record.user_agent for record in records} == {day.user_agent}
    assert len(records) > 4
