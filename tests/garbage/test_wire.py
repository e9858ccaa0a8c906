"""Bad input to the whole server, from a socket to the database: each is an error that the specification knows.

What bytes do to the HTTP layer alone is tested in tests/web.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.sections.serving import Listener
from homeserver.protocol.errors import Refusal
from homeserver.storage import tables
from homeserver.storage.engine import Transaction
from homeserver.web.connections import Connections, Patience
from homeserver.web.server import Listening
from tests import openapi
from tests.deployment import Deployment, User, start
from tests.garbage.values import TEN_THOUSAND_KEYS, encoded, fresh
from tests.rooms.play import CLIENT, ciphertext
from tests.support import POSTGRES, Databases, aio, finish
from tests.web.stage import Answer, Client, request

LARGEST_EVENT = 65_536
MEDIA = "/_matrix/client/v1/media"


class Front:
    """The deployment behind a socket: Alice and Bob are in a room, Mallory is not."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.patience = Patience()
        self.connections = Connections(deployment.clock, self.patience)
        self.listening = Listening(deployment.site, self.connections)
        self.listening.open([Listener(port=0)])
        self._port = int(self.listening.addresses[0].rpartition(":")[2])
        self._clients: list[Client] = []
        self.alice: User
        self.bob: User
        self.mallory: User
        self.room = ""

    async def settle_in(self) -> None:
        """Make the people and their room."""
        self.alice, self.bob, self.mallory = [await self.deployment.user(name) for name in ("alice", "bob", "mallory")]
        self.room = (await self.alice.asks("POST", CLIENT + "/createRoom", {"invite": [self.bob.user_id]})).json[
            "room_id"
        ]
        assert (await self.bob.asks("POST", f"{CLIENT}/rooms/{quote(self.room)}/join", {})).status == 200

    async def client(self) -> Client:
        """A connection."""
        made = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        self._clients.append(made)
        return made

    async def ask(self, method: str, path: str, body: bytes | None = None, *, user: User | None = None) -> Answer:
        """Ask on a connection of its own. The answer must have the form that is specified."""
        client = await self.client()
        await client.send(request(method, path, body, token=(user or self.alice).token))
        answer = await client.answer()
        self.check(method, path, answer)
        return answer

    def check(self, method: str, path: str, answer: Answer) -> None:
        """The answer has the form that is specified, and shows nothing of the program."""
        try:
            route, _ = self.deployment.site.table.match(method, path.partition("?")[0])
        except Refusal:
            operation = None
        else:
            operation = openapi.operation(route.method, route.path)
        kind = answer.headers["content-type"]
        assert openapi.answer_faults(operation, answer.status, kind, answer.body) == []

    def in_room(self, rest: str) -> str:
        """An address of the room."""
        return f"{CLIENT}/rooms/{quote(self.room)}/{rest}"

    async def still_works(self) -> None:
        """Alice writes to Bob."""
        sent = await self.ask("PUT", self.in_room(f"send/m.room.encrypted/{fresh()}"), encoded(ciphertext("works")))
        assert sent.status == 200
        synced = await self.ask("GET", CLIENT + "/sync", user=self.bob)
        event_id = orjson.loads(sent.body)["event_id"].encode()
        assert event_id in synced.body

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.vanish()
        await self.listening.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A deployment that listens."""
    url = os.environ.get(POSTGRES, "")
    if request.param == "postgres" and not url:
        pytest.skip(f"{POSTGRES} is not set")
    databases = Databases(request.param, tmp_path_factory.mktemp("wire"), url)

    async def begin() -> Front:
        made = Front(await start(databases))
        await made.settle_in()
        return made

    made = finish(begin())
    yield made
    finish(made.close())
    finish(databases.close())


@pytest.fixture
def front(stage: Front) -> Iterator[Front]:
    """A deployment that listens, and works when the test has ended, without a fault on the way."""
    yield stage
    finish(stage.still_works())
    faults, stage.deployment.observed.faults = stage.deployment.observed.faults, []
    assert faults == []


def error(answer: Answer) -> tuple[int, str]:
    """Status and error code."""
    return answer.status, orjson.loads(answer.body)["errcode"]


BODIES = [
    (b"", "M_NOT_JSON"),
    (b"{", "M_NOT_JSON"),
    (b'{"algorithm":', "M_NOT_JSON"),
    (b"{'a': 1}", "M_NOT_JSON"),
    (b'{"a":1,}', "M_NOT_JSON"),
    (b'{"a":"\xff"}', "M_NOT_JSON"),
    (b'{"a":"\xed\xa0\x80"}', "M_NOT_JSON"),
    (b'{"a":"\\ud800"}', "M_NOT_JSON"),
    (b'{"a":NaN}', "M_NOT_JSON"),
    (b'{"a":1}{}', "M_NOT_JSON"),
    (b"[]", "M_BAD_JSON"),
    (b"null", "M_BAD_JSON"),
    (b'"text"', "M_BAD_JSON"),
    (b"17", "M_BAD_JSON"),
    (b'{"a":' * 300 + b"1" + b"}" * 300, "M_BAD_JSON"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "M_NOT_JSON"),
]


@aio
async def test_what_is_no_json_object(front: Front) -> None:
    user = quote(front.alice.user_id)
    for method, path in (
        ("PUT", front.in_room("send/m.room.encrypted/t")),
        ("PUT", front.in_room("state/org.example.x/")),
        ("POST", CLIENT + "/createRoom"),
        ("POST", CLIENT + "/keys/upload"),
        ("PUT", f"{CLIENT}/user/{user}/account_data/org.example.x"),
        ("PUT", f"{CLIENT}/sendToDevice/org.example.x/t"),
        ("POST", CLIENT + "/login"),
    ):
        for body, errcode in BODIES:
            assert error(await front.ask(method, path, body)) == (400, errcode), (method, path, body)


NUMBERS = ("1.5", "1.0", "-0.5", "1e3", str(2**53), str(-(2**53)), str(2**63), str(2**64), "9" * 400, "1e400")


@aio
async def test_numbers_that_no_event_may_have(front: Front) -> None:
    refused = ((400, "M_BAD_JSON"), (400, "M_NOT_JSON"))
    plain = (403, "M_FORBIDDEN")  # a number where none belongs may be something to read
    for number in (number.encode() for number in NUMBERS):
        for body in (b'{"a":%s}', b'{"a":[{"b":%s}]}'):
            answer = await front.ask("PUT", front.in_room("state/org.example.x/"), body % number)
            assert error(answer) in refused, number
        encrypted = encoded(ciphertext("x"))[:-1] + b',"org.example":%s}' % number
        answer = await front.ask("PUT", front.in_room("send/m.room.encrypted/t"), encrypted)
        assert error(answer) in (*refused, plain), number
        answer = await front.ask("POST", CLIENT + "/createRoom", b'{"creation_content":{"org.example":%s}}' % number)
        assert error(answer) in refused, number


@aio
async def test_the_largest_numbers_that_an_event_may_have_come_back_as_they_were(front: Front) -> None:
    content = {"most": 2**53 - 1, "least": -(2**53) + 1, "null": None, "nothing": 0}
    path = front.in_room("state/org.example.x/")
    assert (await front.ask("PUT", path, encoded(content))).status == 200
    assert orjson.loads((await front.ask("GET", path)).body) == content


@aio
async def test_an_event_may_have_65536_bytes(front: Front) -> None:
    path = front.in_room("state/org.example.x/")

    async def outcome(size: int) -> tuple[int, str]:
        """Of an event whose content has so many bytes; ids, hashes and a signature come on top."""
        answer = await front.ask("PUT", path, orjson.dumps({"padding": "x" * (size - len('{"padding":""}'))}))
        return (200, "") if answer.status == 200 else error(answer)

    assert await outcome(LARGEST_EVENT - 3000) == (200, "")
    low, high = LARGEST_EVENT - 3000, LARGEST_EVENT
    while low + 1 < high:
        middle = (low + high) // 2
        done = await outcome(middle)
        assert done in ((200, ""), (413, "M_TOO_LARGE"))
        low, high = (middle, high) if done[0] == 200 else (low, middle)
    assert low < LARGEST_EVENT - 300
    shown = await front.ask("GET", path)
    assert len(shown.body) == low
    for size in (LARGEST_EVENT, LARGEST_EVENT + 1, 3_000_000):
        assert await outcome(size) == (413, "M_TOO_LARGE")
    long = {**ciphertext("x"), "session_id": "x" * LARGEST_EVENT}
    answer = await front.ask("PUT", front.in_room("send/m.room.encrypted/t"), encoded(long))
    assert answer.status in (403, 413)


@aio
async def test_types_and_state_keys_may_have_255_bytes(front: Front) -> None:
    body = encoded({})
    for place in ("state/%s/", "state/org.example.x/%s", "send/%s/t"):
        for part in ("x" * 256, "%C3%A9" * 128, "x" * 10_000):
            answer = await front.ask("PUT", front.in_room(place % part), body)
            assert answer.status in ((403, 400, 413) if place.startswith("send") else (400, 413)), place
    for place in ("state/%s/", "state/org.example.x/%s"):
        assert (await front.ask("PUT", front.in_room(place % ("x" * 255)), body)).status == 200


ROOMS = (
    "!unknown:example.org", "!" + "A" * 43, "!", "nonsense", "#a:example.org", "../../..", "!a%00b:example.org", "!%FF",
)  # fmt: skip


@aio
async def test_rooms_that_do_not_exist(front: Front) -> None:
    empty = encoded({})
    for method, rest, body in (
        ("PUT", "/send/m.room.encrypted/t", encoded(ciphertext("x"))),
        ("PUT", "/state/m.room.name/", encoded({"name": "x"})),
        ("PUT", "/redact/$x/t", empty),
        ("POST", "/join", empty),
        ("POST", "/leave", empty),
        ("POST", "/forget", empty),
        ("POST", "/invite", encoded({"user_id": front.bob.user_id})),
        ("POST", "/ban", encoded({"user_id": front.bob.user_id})),
        ("POST", "/receipt/m.read/$x", empty),
        ("PUT", f"/typing/{quote(front.alice.user_id)}", encoded({"typing": True})),
        ("GET", "/state", None),
        ("GET", "/members", None),
        ("GET", "/messages?dir=b", None),
        ("GET", "/event/$x", None),
        ("GET", "/context/$x", None),
    ):
        for room in ROOMS:
            at = f"{CLIENT}/rooms/{quote(room, safe='%')}"
            status, errcode = error(await front.ask(method, at + rest, body))
            assert status in (400, 403, 404), (method, rest, room)
            assert errcode in ("M_FORBIDDEN", "M_NOT_FOUND", "M_INVALID_PARAM", "M_UNKNOWN"), (method, rest, room)


@aio
async def test_the_token_of_somebody_else_opens_nothing(front: Front) -> None:
    alice, mallory = quote(front.alice.user_id), front.mallory
    secret = f"{CLIENT}/user/{alice}/account_data/org.example.secret"
    assert (await front.ask("PUT", secret, encoded({"a": "secret"}))).status == 200
    made = await front.ask("POST", f"{CLIENT}/user/{alice}/filter", encoded({}))
    filter_id = orjson.loads(made.body)["filter_id"]
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "A" * 43}}
    assert (await front.ask("POST", CLIENT + "/room_keys/version", encoded(backup))).status == 200
    name = encoded({"display_name": "x", "displayname": "x", "name": "x"})
    room = f"{CLIENT}/user/{alice}/rooms/{quote(front.room)}"
    for method, path, body in (
        ("GET", secret, None),
        ("PUT", secret, encoded({})),
        ("GET", f"{room}/account_data/org.example.x", None),
        ("PUT", f"{room}/tags/u.x", encoded({})),
        ("GET", f"{room}/tags", None),
        ("GET", f"{CLIENT}/user/{alice}/filter/{filter_id}", None),
        ("POST", f"{CLIENT}/user/{alice}/filter", encoded({})),
        ("GET", f"{CLIENT}/devices/{front.alice.device_id}", None),
        ("PUT", f"{CLIENT}/devices/{front.alice.device_id}", name),
        ("PUT", f"{CLIENT}/profile/{alice}/displayname", name),
        ("PUT", f"{CLIENT}/presence/{alice}/status", encoded({"presence": "online"})),
        ("PUT", front.in_room(f"typing/{alice}"), encoded({"typing": True})),
        ("GET", CLIENT + "/room_keys/version", None),
        ("GET", front.in_room("state"), None),
        ("GET", front.in_room("messages?dir=b"), None),
        ("GET", front.in_room("members"), None),
        ("PUT", front.in_room("send/m.room.encrypted/t"), encoded(ciphertext("x"))),
        ("PUT", front.in_room("state/m.room.name/"), name),
        ("POST", front.in_room("kick"), encoded({"user_id": front.alice.user_id})),
    ):
        answer = await front.ask(method, path, body, user=mallory)
        assert answer.status in (403, 404), (method, path, answer.body)
        assert b"secret" not in answer.body
    assert orjson.loads((await front.ask("GET", secret)).body) == {"a": "secret"}


MEDIA_IDS = (
    "..", "%2e%2e", "..%2f..%2fnode.db", "%2e%2e%2f%2e%2e%2fnode.db", "..%5c..%5cnode.db", "%2Fetc%2Fpasswd",
    "a%00.png", "x%2F..%2F..%2Fnode.db", "%FF%FE", "%C0%AE%C0%AE%C0%AF", "..%252f..%252fnode.db", "~", ".", "%20",
    "a" * 10_000, "💥", "node.db", "..;", "file:%2F%2F%2Fetc%2Fpasswd", "%0d%0aSet-Cookie:a", "../../node.db", "",
)  # fmt: skip
SERVERS = ("example.org", "..", "%2e%2e", "example.org%2F..", "a" * 300, "[::1]:x", "example.org%00", "")


@aio
async def test_no_media_id_leads_out_of_the_media_folder(front: Front) -> None:
    for server in SERVERS:
        for media_id in MEDIA_IDS:
            place = f"{server}/{quote(media_id, safe='%')}"
            download, thumbnail = f"{MEDIA}/download/{place}", f"{MEDIA}/thumbnail/{place}?width=9&height=9"
            for path in (download, f"{download}/x", thumbnail):
                assert error(await front.ask("GET", path))[0] in (400, 404), path
            assert error(await front.ask("PUT", f"/_matrix/media/v3/upload/{place}", b"x"))[0] in (400, 403, 404), place


@aio
async def test_ten_thousand_keys(front: Front) -> None:
    keys = encoded(TEN_THOUSAND_KEYS)
    people: dict[str, Any] = {f"@user{number}:example.org": {"DEVICE": {}} for number in range(10_000)}
    empty: dict[str, list[str]] = {user_id: [] for user_id in people}
    alice = quote(front.alice.user_id)
    expected: list[tuple[str, str, bytes, tuple[int, ...]]] = [
        ("PUT", front.in_room("send/m.room.encrypted/t"), keys, (403, 413)),
        ("PUT", front.in_room("state/org.example.x/"), keys, (413,)),
        ("PUT", front.in_room("state/m.room.power_levels/"), encoded({"users": dict.fromkeys(people, 0)}), (400, 413)),
        ("POST", CLIENT + "/createRoom", keys, (200,)),
        ("POST", CLIENT + "/createRoom", encoded({"creation_content": TEN_THOUSAND_KEYS}), (400, 413)),
        ("PUT", f"{CLIENT}/user/{alice}/account_data/org.example.x", keys, (200, 413)),
        ("POST", f"{CLIENT}/user/{alice}/filter", keys, (200, 413)),
        ("POST", CLIENT + "/login", keys, (400, 413)),
        ("POST", CLIENT + "/register", keys, (400, 401, 413)),
        ("POST", CLIENT + "/keys/upload", encoded({"one_time_keys": TEN_THOUSAND_KEYS}), (400, 413)),
        ("POST", CLIENT + "/keys/query", encoded({"device_keys": empty}), (200, 400, 413)),
        ("POST", CLIENT + "/keys/claim", encoded({"one_time_keys": {u: {"D": "a"} for u in people}}), (200, 400, 413)),
        ("PUT", f"{CLIENT}/sendToDevice/org.example.x/t", encoded({"messages": people}), (200, 400, 413)),
        ("POST", CLIENT + "/pushers/set", keys, (400, 413)),
        ("PUT", f"{CLIENT}/profile/{alice}/org.example.x", encoded({"org.example.x": TEN_THOUSAND_KEYS}), (400, 413)),
    ]
    for method, path, body, statuses in expected:
        answer = await front.ask(method, path, body)
        assert answer.status in statuses, (method, path, answer.body[:200])


# on the wire


@aio
async def test_slow_senders_hold_up_nobody_and_are_given_up(front: Front) -> None:
    whole = request(
        "PUT", front.in_room("send/m.room.encrypted/slow"), encoded(ciphertext("slow")), token=front.alice.token
    )
    slow = [await front.client() for _ in range(200)]
    for number, client in enumerate(slow):
        await client.send(whole[: 10 + number * (len(whole) - 20) // 200])
    await front.still_works()
    await front.deployment.clock.advance(front.patience.receive + 2)
    for client in slow:
        ended = await client.ended()
        assert ended.startswith(b"HTTP/1.1 408 ")
        assert b'"M_UNKNOWN"' in ended
    synced = await front.ask("GET", CLIENT + "/sync", user=front.bob)
    assert b"slow" not in synced.body


@aio
async def test_what_breaks_off_has_not_been_said(front: Front) -> None:
    before = await count(front, "events")
    for name in ("send/m.room.encrypted/t", "state/m.room.name/", "leave"):
        method = "POST" if name == "leave" else "PUT"
        body = encoded({"name": "x", **ciphertext("cut")})
        whole = request(method, front.in_room(name), body, token=front.alice.token)
        for length in (len(whole) - 1, len(whole) - len(body), len(whole) - len(body) // 2):
            client = await front.client()
            await client.send(whole[:length])
            client.writer.write_eof()
            answered = await client.ended()
            assert b" 200 " not in answered.partition(b"\r\n")[0]
    assert await count(front, "events") == before


@aio
async def test_chunks_that_end_too_soon_have_not_been_said(front: Front) -> None:
    before = await count(front, "events")
    head = request(
        "PUT", front.in_room("send/m.room.encrypted/t"), token=front.alice.token, headers=["Transfer-Encoding: chunked"]
    )
    body = encoded(ciphertext("cut"))
    for rest in (b"", b"5\r\nab", b"%x\r\n%b\r\n" % (len(body), body), b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n"):
        client = await front.client()
        await client.send(head + rest)
        client.writer.write_eof()
        assert b" 200 " not in (await client.ended()).partition(b"\r\n")[0]
    assert await count(front, "events") == before


@aio
async def test_a_body_over_the_limit(front: Front) -> None:
    size = 4 * 1024 * 1024 + 1
    for chunked, (path, user) in itertools.product(
        (False, True), ((CLIENT + "/createRoom", front.alice), (CLIENT + "/login", None))
    ):
        client = await front.client()
        token = None if user is None else user.token
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        await client.send(request("POST", path, token=token, headers=[length]))
        sending = asyncio.ensure_future(_fill(client, size, chunked))
        answer = await client.answer()
        front.check("POST", path, answer)
        assert error(answer) == (413, "M_TOO_LARGE")
        await sending


async def _fill(client: Client, size: int, chunked: bool) -> None:
    piece = b"x" * 65536
    try:
        for _ in range(0, size, len(piece)):
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    except ConnectionError:
        pass  # it has been refused


@aio
async def test_the_largest_body_is_read(front: Front) -> None:
    rest = json.dumps({"filler": ""})
    body = json.dumps({"filler": "x" * (4 * 1024 * 1024 - len(rest))}).encode()
    assert (await front.ask("POST", CLIENT + "/createRoom", body)).status == 200
    assert error(await front.ask("POST", CLIENT + "/createRoom", body + b" ")) == (413, "M_TOO_LARGE")


@aio
async def test_tokens_that_are_none(front: Front) -> None:
    for token in ("", "x" * 10_000, "\xff\xfe", "a b", "é", "Bearer", "'; --", "\x7f"):
        client = await front.client()
        lines = f"GET {CLIENT}/account/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        await client.send(lines.encode("latin-1"))
        expected = ((401, "M_MISSING_TOKEN"), (401, "M_UNKNOWN_TOKEN"), (400, "M_UNKNOWN"))
        assert error(await client.answer()) in expected, token


async def count(front: Front, table: str) -> int:
    """Rows of a table on Alice's node."""
    assert table in tables.TABLES

    async def ask(tx: Transaction) -> int:
        row = await tx.one(f"SELECT COUNT(*) FROM {table}")
        assert row is not None
        return int(row[0])

    return await front.deployment.node("tehran").read(ask)
