"""`kill -9` at any moment of a move: exactly one node has the user, who stays logged in; nothing is lost or doubled.

Two users write to each other, in a room that spans both nodes and from device to device, while one of them is moved to
and fro and the server is killed without warning. What was not answered is sent again.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from homeserver import control_socket
from tests.durability.test_kill import CLIENT, Sending, ciphertext, events_seen, settled
from tests.interop.api import Api
from tests.interop.deployment import Deployment
from tests.support import Databases

ROUNDS = int(os.environ.get("DOMICILE_TEST_MOVES", "6"))
"""How often the user is moved, and the server killed, on each engine."""
PATIENCE = 60.0
"""Seconds that a move gets to come to its end."""


@dataclass
class Writing:
    """Messages from device to device: which were answered, and which may have arrived."""

    token: str
    user_id: str
    device_id: str
    prefix: str
    answered: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    def run(self, base_url: str, stop: threading.Event) -> None:
        """Write one after the other until told to stop, or until the server is gone."""
        address = urlsplit(base_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        try:
            while not stop.is_set():
                name = f"{self.prefix}-{len(self.tried)}"
                self.tried.append(name)
                body = {"messages": {self.user_id: {self.device_id: {**ciphertext(), "org.example.name": name}}}}
                headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
                connection.request("PUT", f"{CLIENT}/sendToDevice/m.room.encrypted/{name}", json.dumps(body), headers)
                answer = connection.getresponse()
                said = answer.read()
                assert answer.status == 200, said
                self.answered.append(name)
        except (OSError, http.client.HTTPException):
            pass  # it was killed
        finally:
            connection.close()


@pytest.fixture
def house(engines: Databases, tmp_path: Path) -> Iterator[Deployment]:
    """The real product on either engine."""
    urls = {} if engines.kind == "sqlite" else {node: engines.url(node) for node in ("tehran", "paris")}
    with Deployment(tmp_path, databases=urls) as house:
        yield house


def command(house: Deployment, name: str, **arguments: Any) -> dict[str, Any]:
    """Have the running server do what an operator asks."""
    answered = control_socket.ask_server(house.folder / "data", name, arguments)
    assert answered is not None
    status, answer = answered
    assert status == 200, answer
    return answer


def ask_to_move(house: Deployment, target: str) -> None:
    """Begin a move, unless the server is killed first."""
    with suppress(OSError, http.client.HTTPException, ValueError):
        control_socket.ask_server(house.folder / "data", "residency-move", {"user": "alice", "to": target})


def where(house: Deployment) -> str:
    """The node that has the user."""
    return str(command(house, "user-show", user="alice")["node"])


def at_rest(house: Deployment) -> None:
    """Wait until nobody is being moved any more."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE / 0.1)):
        moves = command(house, "residency-move-status")["moves"]
        if not moves:
            return
        assert all(move["halted"] is None for move in moves), moves
        waiting.wait(0.1)  # an operator has no other way than to look
    raise AssertionError(f"still under way: {moves}")


def letters_of(alice: Api, since: str, got: list[str]) -> str:
    """Take what is in the mailbox; returns the next token."""
    while True:
        answer = alice.client("GET", "/sync?timeout=0" + (f"&since={since}" if since else ""))
        more = answer.get("to_device", {}).get("events", [])
        got += [event["content"]["org.example.name"] for event in more]
        since = answer["next_batch"]
        if not more:
            return since


def test_kill_leaves_one_home(house: Deployment) -> None:
    """See the module."""
    chance = random.Random(11)
    session = house.add_user_by_secret("alice", "a long password", "tehran")
    alice = Api(house.base_url, session["access_token"])
    bob = Api(house.base_url, house.add_user_by_secret("bob", "a long password", "paris")["access_token"])
    wish = {"preset": "private_chat", "invite": ["@bob:domicile.test"]}
    room = alice.client("POST", "/createRoom", wish)["room_id"]
    bob.client("POST", f"/join/{quote(room)}", {})
    sendings: list[Sending] = []
    writings: list[Writing] = []
    got: list[str] = []
    since = ""
    homes = []
    for number in range(ROUNDS):
        target = "paris" if where(house) == "tehran" else "tehran"
        mine = [Sending(user.token, room, f"{number}-{n}") for user in (alice, bob) for n in range(2)]
        letters = Writing(bob.token, session["user_id"], session["device_id"], f"{number}")
        stop = threading.Event()
        threads = [threading.Thread(target=each.run, args=(house.base_url, stop)) for each in mine]
        threads.append(threading.Thread(target=letters.run, args=(house.base_url, stop)))
        threads.append(threading.Thread(target=ask_to_move, args=(house, target)))
        for thread in threads:
            thread.start()
        stop.wait(chance.uniform(0.05, 1.5))  # the moment of the kill; nothing waits for it
        house.kill9()
        stop.set()
        for thread in threads:
            thread.join()
        house.start()
        assert alice.client("GET", "/account/whoami")["user_id"] == session["user_id"]
        since = letters_of(alice, since, got)
        for sending in mine:
            sending.repeat(house.base_url)
        at_rest(house)
        homes.append(where(house))
        assert command(house, "residency-audit")["findings"] == []
        sendings += mine
        writings.append(letters)
        answered = {event_id for sending in mine for event_id in sending.answered.values() if event_id is not None}
        settled(house, [alice, bob], room, answered)
    assert len(set(homes)) == 2  # some moves came to their end
    sent = [event_id for sending in sendings for event_id in sending.answered.values()]
    assert len(set(sent)) == len(sent) > ROUNDS
    for user in (alice, bob):
        seen = [event["event_id"] for event in events_seen(user, room)]
        assert len(seen) == len(set(seen))
        assert set(seen) == set(sent)
    letters_of(alice, since, got)
    assert len(got) == len(set(got))
    assert (
        {name for each in writings for name in each.answered}
        <= set(got)
        <= {n for each in writings for n in each.tried}
    )
