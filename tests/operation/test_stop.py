"""SIGTERM: the server ends by itself with status 0, whoever waits, and what was answered is kept."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from homeserver.app import SHUTDOWN
from tests.durability.test_kill import ciphertext, events_seen
from tests.interop.api import Api
from tests.operation.product import Product


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """A deployment that is served."""
    running = Product(tmp_path)
    running.start()
    yield running
    if running.serving:
        running.kill9()


def connection_to(product: Product) -> http.client.HTTPConnection:
    address = urlsplit(product.base_url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)


class LongPoll(threading.Thread):
    """One who waits for news for five minutes."""

    def __init__(self, product: Product, user: Api, since: str) -> None:
        super().__init__(daemon=True)
        self.since = since
        self.answer: dict[str, object] = {}
        self._connection = connection_to(product)
        path = f"/_matrix/client/v3/sync?timeout=300000&since={quote(since)}"
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {user.token}"})

    def run(self) -> None:
        """Wait."""
        answer = self._connection.getresponse()
        self.answer = {"status": answer.status, **json.loads(answer.read())}
        self._connection.close()


def position(user: Api) -> str:
    """Where a sync waits: once the user has been told of their own presence."""
    answer = user.client("GET", "/sync")
    while "presence" in answer:
        answer = user.client("GET", f"/sync?since={quote(answer['next_batch'])}")
    since: str = answer["next_batch"]
    return since


def waiting(product: Product) -> int:
    """How many requests are being answered, that of the metrics among them."""
    text = Api(product.base_url).fetch("GET", "/metrics").decode()
    (line,) = [line for line in text.splitlines() if line.startswith("domicile_requests_under_way ")]
    return int(float(line.split()[1]))


def wait_until_waiting(product: Product, many: int) -> None:
    """Until that many requests wait: each question is a round trip, and the limit is in time."""
    end = time.monotonic() + 60
    while waiting(product) < many + 1:
        assert time.monotonic() < end


def test_stop_while_long_polls_hang_and_a_slow_upload_runs(product: Product) -> None:
    alice, bob = product.user("alice", "tehran"), product.user("bob", "paris")
    polls = [LongPoll(product, user, position(user)) for user in (alice, bob) for _ in "ab"]
    for poll in polls:
        poll.start()
    address = urlsplit(product.base_url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as slow:
        head = f"POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n"
        slow.sendall(f"{head}Content-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 1000)
        wait_until_waiting(product, len(polls) + 1)
        began = time.monotonic()
        product.send(signal.SIGTERM)
        for poll in polls:
            poll.join()
        polled = time.monotonic() - began
        assert product.end() == 0
        assert time.monotonic() - began < SHUTDOWN + 5, "longer than the grace"
    assert polled < SHUTDOWN, "long polls were not let go at once"
    for poll in polls:
        assert poll.answer["status"] == 200
        assert poll.answer["next_batch"]
    log = product.log.read_text()
    assert "stopped" in log
    assert "Traceback" not in log
    leftovers = [path for path in product.folder.rglob("media/**/*") if path.is_file()]
    assert leftovers == [], "what was uploaded by half is still there"


def test_what_was_answered_is_there_after_a_stop(product: Product) -> None:
    """Requests run until the end: each is answered and kept, or it is not answered with 200."""
    alice = product.user("alice", "tehran")
    room = alice.client("POST", "/createRoom", {})["room_id"]
    answered: list[str] = []
    refused: list[object] = []
    enough = threading.Semaphore(0)

    def send(name: int) -> None:
        connection = connection_to(product)
        headers = {"Authorization": f"Bearer {alice.token}", "Content-Type": "application/json"}
        for number in range(100_000):
            path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.encrypted/{name}-{number}"
            try:
                connection.request("PUT", path, json.dumps(ciphertext()), headers)
                answer = connection.getresponse()
                body = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                return
            if answer.status != 200:
                refused.append(body)
                return
            answered.append(body["event_id"])
            enough.release()

    senders = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for sender in senders:
        sender.start()
    for _ in range(60):
        assert enough.acquire(timeout=60), refused
    product.send(signal.SIGTERM)
    for sender in senders:
        sender.join()
    assert product.end() == 0
    assert refused == []
    assert "Traceback" not in product.log.read_text()
    product.start()
    assert set(answered) <= {event["event_id"] for event in events_seen(alice, room)}
    product.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_an_idle_server_stops_at_once(product: Product, number: signal.Signals) -> None:
    began = time.monotonic()
    product.send(number)
    assert product.end() == 0
    assert time.monotonic() - began < SHUTDOWN / 2
    assert not (product.folder / "data" / "control.sock").exists()
    assert list(product.folder.rglob("*.db-wal")) == [], "a database was not closed"
