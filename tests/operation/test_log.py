"""The log tells nothing of who said what: after a busy day at log level debug, none of what people gave is in it.

The day has its failures too: wrong passwords, broken bodies, and a database that loses a table under the server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.durability.test_kill import ciphertext
from tests.operation.product import Product


def marker(word: str) -> str:
    """A word that stands nowhere else."""
    return f"{word}{secrets.token_hex(6)}"


@dataclass
class Day:
    """What people did, and every secret word that they used or were given."""

    product: Product
    words: list[str] = field(default_factory=list)
    address: str = "203.0.113.77"
    user_agent: str = field(default_factory=lambda: marker("Agent"))

    def secret(self, word: str) -> str:
        """A new word to be looked for."""
        self.words.append(marker(word))
        return self.words[-1]

    def asks(self, method: str, path: str, body: object = None, token: str = "") -> tuple[int, dict[str, Any]]:
        """Make a request; a body that is not bytes is sent as JSON."""
        where = urlsplit(self.product.base_url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        headers = {"User-Agent": self.user_agent, "X-Forwarded-For": self.address, "Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request(method, path, raw, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        found: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            found = json.loads(content)
        for name in ("access_token", "refresh_token"):
            if isinstance(found.get(name), str):
                self.words.append(found[name])
                self.words.append(max(found[name].split("_"), key=len))  # what must be guessed of it, or most of that
        return answer.status, found

    def client(self, method: str, path: str, body: object = None, token: str = "") -> tuple[int, dict[str, Any]]:
        """The same, with a path of the client-server API."""
        return self.asks(method, f"/_matrix/client/v3{path}", body, token)


def register(day: Day, localpart: str, password: str) -> str:
    """Register as clients do, with a token; the access token."""
    day.words.append(day.product.registration_token("IR"))
    auth = {"type": "m.login.registration_token", "token": day.product.registration_token("IR")}
    wish = {"username": localpart, "password": password, "initial_device_display_name": day.secret("Device")}
    status, answer = day.client("POST", "/register", wish)
    assert status == 401
    status, answer = day.client("POST", "/register", {**wish, "auth": {**auth, "session": answer["session"]}})
    if status == 401:
        done = {"type": "m.login.dummy", "session": answer["session"]}
        status, answer = day.client("POST", "/register", {**wish, "auth": done})
    assert status == 200, answer
    token: str = answer["access_token"]
    return token


def work(day: Day) -> str:
    """What succeeds; the token of who did it."""
    password = day.secret("Password")
    token = register(day, "sara", password)
    phone = "+98912" + str(secrets.randbelow(10**7)).zfill(7)
    day.words += [phone, phone[1:]]
    done = day.product.run("user", "add", "mina", "--phone", phone, "--password-stdin", stdin=password + "\n")
    assert done.status == 0
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "sara"}, "password": password}
    status, session = day.client("POST", "/login", {**login, "refresh_token": True})
    assert status == 200
    assert day.client("POST", "/refresh", {"refresh_token": session["refresh_token"]})[0] == 200
    name = {"displayname": day.secret("Sara")}
    assert day.client("PUT", "/profile/@sara:domicile.test/displayname", name, token)[0] == 200
    wish = {"name": day.secret("Room"), "topic": day.secret("Topic"), "invite": ["@mina:domicile.test"]}
    status, room = day.client("POST", "/createRoom", wish, token)
    assert status == 200
    content = ciphertext()
    day.words += [content["ciphertext"], content["session_id"]]
    path = f"/rooms/{quote(room['room_id'])}/send/m.room.encrypted/{day.secret('txn')}"
    assert day.client("PUT", path, content, token)[0] == 200
    data = {"note": day.secret("Note"), "mail": day.secret("mail") + "@mail.example.net"}
    assert day.client("PUT", "/user/@sara:domicile.test/account_data/org.example.n", data, token)[0] == 200
    letter = {"messages": {"@mina:domicile.test": {"*": {"body": day.secret("Letter")}}}}
    assert day.client("PUT", f"/sendToDevice/m.dummy/{day.secret('txn')}", letter, token)[0] == 200
    upload = f"/_matrix/media/v3/upload?filename={day.secret('File')}.txt"
    assert day.asks("POST", upload, day.secret("Attachment").encode(), token)[0] == 200
    assert day.asks("GET", f"/_matrix/client/v3/account/whoami?access_token={token}")[0] == 200
    assert day.client("GET", f"/sync?filter={quote(json.dumps({'x': day.secret('Filter')}))}", token=token)[0] == 200
    return token


def failures(day: Day, token: str) -> None:
    """What is refused, and what fails by a fault of ours."""
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": day.secret("nobody")}}
    assert day.client("POST", "/login", {**login, "password": day.secret("wrong")})[0] == 403
    assert day.client("GET", "/account/whoami", token=day.secret("dom_guessed"))[0] == 401
    assert day.client("POST", "/login", b'{"password": "' + day.secret("broken").encode())[0] == 400
    assert day.client("POST", "/createRoom", {"name": [day.secret("wrongtype")]}, token)[0] == 400
    assert day.asks("GET", f"/_matrix/client/v3/{day.secret('unknown')}?email={day.secret('m')}@example.net")[0] == 404
    plain = f"/rooms/{quote(day.secret('!room'))}/send/m.room.message/1"
    assert day.client("PUT", plain, {"body": day.secret("plaintext")}, token)[0] in (403, 404)
    where = urlsplit(day.product.base_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.putrequest(day.secret("METHOD"), "/")
    connection.endheaders()
    assert connection.getresponse().read() is not None
    connection.close()
    database = sqlite3.connect(day.product.node_folder("tehran") / "node.db")
    for table in ("account_data", "profiles"):
        database.execute(f"ALTER TABLE {table} RENAME TO {table}_is_away")
    database.close()
    before = day.product.lines
    path = "/user/@sara:domicile.test/account_data/org.example." + day.secret("Type")
    assert day.client("PUT", path, {"note": day.secret("Lost")}, token)[0] == 500
    status = day.client("PUT", "/profile/@sara:domicile.test/displayname", {"displayname": day.secret("Gone")}, token)
    assert status[0] == 500
    day.product.logged("request failed", after=before)


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_people_gave_is_in_the_log(tmp_path: Path, form: str) -> None:
    product = Product(tmp_path)
    product.add(f'\n[log]\nlevel = "debug"\nformat = "{form}"\n')
    listener = 'resources = ["client", "console", "metrics"]'
    settings = product.settings.read_text()
    product.settings.write_text(settings.replace(listener, listener + '\ntrusted_proxies = ["127.0.0.1/32"]'))
    day = Day(product)
    with product:
        token = work(day)
        failures(day, token)
    log = product.log.read_text()
    assert len(day.words) > 30
    for word in (*day.words, day.address, day.user_agent):
        assert word not in log
    assert "PUT" in log
    assert "/_matrix/client/v3/user/{userId}/account_data/{type}" in log
    assert "no such table" in log
    assert "accounts/account_data.py" in log, "where it failed is not said"
    if form == "json":
        for line in log.splitlines():
            entry = json.loads(line)
            assert {"event", "level", "logger", "timestamp"} <= set(entry)


def test_secret_words_would_be_found(tmp_path: Path) -> None:
    """The words of the test above are really given to the server: they are in its databases."""
    product = Product(tmp_path)
    day = Day(product)
    with product:
        work(day)
    everything = b"".join(path.read_bytes() for path in product.node_folder("tehran").rglob("*") if path.is_file())
    kept = [word for word in day.words if word.encode() in everything]
    assert len(kept) >= 9, kept
