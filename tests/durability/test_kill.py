"""`kill -9` at any moment loses no event whose send was answered with 200, and a repeated request doubles none.

Two users on two nodes send concurrently to a room that spans both, the server is killed without warning while they
do, started again, and asked. What was not answered is sent again under its transaction id. In the end each node's
user sees every event exactly once, and both see the same.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.interop.api import Api
from tests.interop.deployment import Deployment
from tests.support import Databases

ROUNDS = int(os.environ.get("DOMICILE_TEST_KILLS", "15"))
"""How often the server is killed on each engine."""
SENDERS = 4
"""Concurrent senders of each user."""

CLIENT = "/_matrix/client/v3"


def ciphertext() -> dict[str, str]:
    """Content of the shape of an encrypted message."""

    def text(raw: bytes) -> str:
        return base64.b64encode(raw).decode().rstrip("=")

    message = b"\x03\x08\x01\x12\x40" + os.urandom(0x40 + 8 + 64)
    return {
        "algorithm": "m.megolm.v1.aes-sha2",
        "session_id": text(os.urandom(32)),
        "ciphertext": text(message),
    }


@dataclass
class Sending:
    """What one device sent: transaction id to event id, None while no answer has come."""

    token: str
    room: str
    prefix: str
    answered: dict[str, str | None] = field(default_factory=dict)
    contents: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self, base_url: str, stop: threading.Event) -> None:
        """Send one after the other until told to stop, or until the server is gone."""
        address = urlsplit(base_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        try:
            while not stop.is_set():
                self.send(connection, f"{self.prefix}-{len(self.answered)}")
        except (OSError, http.client.HTTPException):
            pass  # it was killed
        finally:
            connection.close()

    def send(self, connection: http.client.HTTPConnection, txn_id: str) -> None:
        """Send, or repeat, one message; raises OSError or HTTPException when no answer comes."""
        self.answered.setdefault(txn_id, None)
        content = self.contents.setdefault(txn_id, ciphertext())
        path = f"{CLIENT}/rooms/{quote(self.room)}/send/m.room.encrypted/{txn_id}"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request("PUT", path, json.dumps(content), headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == 200, (answer.status, body)
        event_id: str = body["event_id"]
        assert self.answered[txn_id] in (None, event_id), "a repeated request made another event"
        self.answered[txn_id] = event_id

    def repeat(self, base_url: str) -> None:
        """Repeat everything that has no answer, and one thing that has."""
        address = urlsplit(base_url)
        last = list(self.answered)[-1:]
        with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)) as connection:
            for txn_id in [txn for txn, event_id in self.answered.items() if event_id is None] + last:
                self.send(connection, txn_id)


def events_seen(api: Api, room: str) -> list[dict[str, Any]]:
    """All encrypted events of a room, oldest first."""
    seen: list[dict[str, Any]] = []
    since = ""
    while True:
        page = api.client("GET", f"/rooms/{quote(room)}/messages?dir=b&limit=1000{since}")
        seen += [event for event in page["chunk"] if event["type"] == "m.room.encrypted"]
        if "end" not in page:
            return seen[::-1]
        since = "&from=" + quote(page["end"])


@pytest.fixture
def house(engines: Databases, tmp_path: Path) -> Iterator[Deployment]:
    """The real product on either engine."""
    urls = {} if engines.kind == "sqlite" else {node: engines.url(node) for node in ("tehran", "paris")}
    with Deployment(tmp_path, databases=urls) as house:
        yield house


def settled(house: Deployment, users: list[Api], room: str, expected: set[str]) -> None:
    """Wait until every user's own node has everything: each asks `/sync` to be told of more."""
    for user in users:
        since = ""
        seen: set[str] = set()
        while not expected <= seen:
            answer = user.client("GET", f"/sync?timeout=20000{since}")
            assert not since or answer.get("rooms"), f"missing: {len(expected - seen)} of {len(expected)}"
            since = "&since=" + answer["next_batch"]
            seen = {event["event_id"] for event in events_seen(user, room)}


def test_kill_loses_nothing_and_doubles_nothing(house: Deployment) -> None:
    """See the module."""
    chance = random.Random(8)
    alice = Api(house.base_url, house.add_user_by_secret("alice", "a long password", "tehran")["access_token"])
    bob = Api(house.base_url, house.add_user_by_secret("bob", "a long password", "paris")["access_token"])
    room = alice.client("POST", "/createRoom", {"preset": "private_chat", "invite": ["@bob:domicile.test"]})["room_id"]
    bob.client("POST", f"/join/{quote(room)}", {})
    sendings: list[Sending] = []
    for number in range(ROUNDS):
        mine = [Sending(user.token, room, f"{number}-{n}") for user in (alice, bob) for n in range(SENDERS)]
        stop = threading.Event()
        threads = [threading.Thread(target=sending.run, args=(house.base_url, stop)) for sending in mine]
        for thread in threads:
            thread.start()
        stop.wait(chance.uniform(0.05, 0.4))  # the moment of the kill; nothing waits for it
        house.kill9()
        stop.set()
        for thread in threads:
            thread.join()
        house.start()
        answered = {event_id for sending in mine for event_id in sending.answered.values() if event_id is not None}
        found = {event["event_id"] for event in events_seen(alice, room)}
        assert answered <= found, f"round {number}: {len(answered - found)} answered events are gone"
        for sending in mine:
            sending.repeat(house.base_url)
        sendings += mine
    sent = [event_id for sending in sendings for event_id in sending.answered.values()]
    assert len(sent) > ROUNDS  # there was load
    assert len(set(sent)) == len(sent)
    settled(house, [alice, bob], room, {event_id for event_id in sent if event_id is not None})
    for user in (alice, bob):
        seen = [event["event_id"] for event in events_seen(user, room)]
        assert len(seen) == len(set(seen))
        assert set(seen) == set(sent)
