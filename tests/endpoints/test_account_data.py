"""Account data, tags and filters, over the routes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.storage import account_data as stored
from homeserver.storage.engine import Transaction
from homeserver.storage.streams import Stream
from tests.deployment import Deployment, User
from tests.support import aio

USER = "/_matrix/client/v3/user/@alice:example.org"
ROOM_ID = "!kitchen:example.org"
ROOM = f"{USER}/rooms/{ROOM_ID}"


async def enter(user: User) -> None:
    """Be a member of the room as far as the database knows."""
    caller = await user.caller()

    async def write(tx: Transaction) -> None:
        row = await tx.one("INSERT INTO rooms (room_id, version) VALUES (?, ?) RETURNING room_nid", ROOM_ID, "12")
        assert row is not None
        await tx.run("INSERT INTO memberships VALUES (?, ?, ?, ?, ?)", caller.user_nid, row[0], "join", 1, 1)

    await caller.node.write(write)


@pytest.mark.parametrize("base", [USER, ROOM])
@aio
async def test_setting_and_reading(deployment: Deployment, base: str) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    caller = await alice.caller()
    node = caller.node
    path = f"{base}/account_data/org.example.config"
    assert (await alice.asks("GET", path)).errcode == "M_NOT_FOUND"
    for content in ({"a": [1, 2.5, None, "ü"]}, {}):
        before = node.position
        with deployment.server.wakeups.listen([(node.name, caller.user_nid)]) as ear:
            assert (await alice.asks("PUT", path, content)).json == {}
            assert await ear.wait(1.0)
        assert node.position == before + 1
        assert node.changes.last(Stream.ACCOUNT_DATA, caller.user_nid) == node.position
        assert (await alice.asks("GET", path)).json == content


@pytest.mark.parametrize("base", [USER, ROOM])
@aio
async def test_what_is_deleted_is_gone_and_clients_see_it_become_empty(deployment: Deployment, base: str) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    path = f"{base}/account_data/org.example.config"
    gone = path.replace("/v3/", "/unstable/org.matrix.msc3391/")
    caller = await alice.caller()
    await alice.asks("PUT", path, {"a": 1})
    before = caller.node.position
    with deployment.server.wakeups.listen([(caller.node.name, caller.user_nid)]) as ear:
        assert (await alice.asks("DELETE", gone)).json == {}
        assert await ear.wait(1.0)
    assert (await alice.asks("GET", path)).errcode == "M_NOT_FOUND"
    entries = await caller.node.read(stored.since, caller.user_nid, before, caller.node.position)
    assert [(entry.type, orjson.loads(entry.content)) for entry in entries] == [("org.example.config", {})]
    assert await caller.node.read(stored.since, caller.user_nid, 0, caller.node.position) == []
    position = caller.node.position
    assert (await alice.asks("DELETE", gone)).json == {}
    assert caller.node.position == position
    await alice.asks("PUT", path, {"a": 2})
    assert (await alice.asks("GET", path)).json == {"a": 2}


@aio
async def test_what_cannot_be_deleted(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    base = USER.replace("/v3/", "/unstable/org.matrix.msc3391/")
    assert (await alice.asks("DELETE", f"{base}/account_data/m.push_rules")).status == 405
    assert (await alice.asks("DELETE", f"{base}/rooms/{ROOM_ID}/account_data/x")).errcode == "M_NOT_FOUND"
    assert (await alice.asks("DELETE", f"{base}/rooms/x/account_data/x")).errcode == "M_INVALID_PARAM"
    assert (await bob.asks("DELETE", f"{base}/account_data/x")).errcode == "M_FORBIDDEN"


@aio
async def test_a_room_and_the_account_are_apart(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    await alice.asks("PUT", f"{USER}/account_data/org.example", {"global": True})
    assert (await alice.asks("GET", f"{ROOM}/account_data/org.example")).status == 404
    await alice.asks("PUT", f"{ROOM}/account_data/org.example", {"global": False})
    assert (await alice.asks("GET", f"{USER}/account_data/org.example")).json == {"global": True}


@pytest.mark.parametrize("base", [USER, ROOM])
@pytest.mark.parametrize("kind", ["m.fully_read", "m.push_rules"])
@aio
async def test_what_the_server_alone_sets(deployment: Deployment, base: str, kind: str) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    answer = await alice.asks("PUT", f"{base}/account_data/{kind}", {})
    assert (answer.status, answer.errcode) == (405, "M_BAD_JSON")


@aio
async def test_push_rules_can_be_read_as_account_data(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    answer = await alice.asks("GET", f"{USER}/account_data/m.push_rules")
    rules = await alice.asks("GET", "/_matrix/client/v3/pushrules/")
    assert answer.json == rules.json
    assert (await alice.asks("GET", f"{ROOM}/account_data/m.push_rules")).status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "errcode"),
    [
        (f"{USER}/account_data/a", b"[]", 400, "M_BAD_JSON"),
        (f"{USER}/account_data/a", b"{", 400, "M_NOT_JSON"),
        (f"{USER}/account_data/a", {"x": "y" * 262_144}, 413, "M_TOO_LARGE"),
        (f"{USER}/account_data/{'a' * 256}", {}, 400, "M_INVALID_PARAM"),
        (f"{USER}/account_data/a%00b", {}, 400, "M_INVALID_PARAM"),
        ("/_matrix/client/v3/user/@bob:example.org/account_data/a", {}, 403, "M_FORBIDDEN"),
        (f"{USER}/rooms/kitchen/account_data/a", {}, 400, "M_INVALID_PARAM"),
        (f"{USER}/rooms/!elsewhere:example.org/account_data/a", {}, 404, "M_NOT_FOUND"),
        (f"{USER}/rooms/kitchen/tags/a", {}, 400, "M_INVALID_PARAM"),
        (f"{USER}/rooms/!elsewhere:example.org/tags/a", {}, 404, "M_NOT_FOUND"),
        (f"{ROOM}/tags/{'a' * 256}", {}, 400, "M_INVALID_PARAM"),
        (f"{ROOM}/tags/a", {"order": "first"}, 400, "M_INVALID_PARAM"),
        (f"{ROOM}/tags/a", {"order": True}, 400, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_what_is_refused(deployment: Deployment, path: str, body: Any, status: int, errcode: str) -> None:
    alice = await deployment.user("alice")
    await deployment.user("bob")
    await enter(alice)
    answer = await alice.asks("PUT", path, body)
    assert (answer.status, answer.errcode) == (status, errcode)


@aio
async def test_tags(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    tags = f"{ROOM}/tags"
    assert (await alice.asks("GET", tags)).json == {"tags": {}}
    assert (await alice.asks("PUT", f"{tags}/m.favourite", {"order": 0.25})).json == {}
    assert (await alice.asks("PUT", f"{tags}/u.کار", {})).json == {}
    both = {"tags": {"m.favourite": {"order": 0.25}, "u.کار": {}}}
    assert (await alice.asks("GET", tags)).json == both
    assert (await alice.asks("GET", f"{ROOM}/account_data/m.tag")).json == both
    assert (await alice.asks("DELETE", f"{tags}/m.favourite")).json == {}
    position = (await alice.caller()).node.position
    assert (await alice.asks("DELETE", f"{tags}/m.favourite")).json == {}
    assert (await alice.caller()).node.position == position
    assert (await alice.asks("GET", tags)).json == {"tags": {"u.کار": {}}}


@aio
async def test_tags_survive_nonsense_that_a_client_put_there(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    assert (await alice.asks("PUT", f"{ROOM}/account_data/m.tag", {"tags": 5})).status == 200
    assert (await alice.asks("GET", f"{ROOM}/tags")).json == {"tags": {}}
    assert (await alice.asks("PUT", f"{ROOM}/tags/a", {})).status == 200
    assert (await alice.asks("GET", f"{ROOM}/tags")).json == {"tags": {"a": {}}}


# -- filters

FILTER = {
    "event_fields": ["type", "content"],
    "event_format": "client",
    "presence": {"types": ["m.presence"], "not_senders": ["@alice:example.org"]},
    "account_data": {"limit": 5},
    "room": {
        "rooms": [ROOM_ID],
        "include_leave": True,
        "state": {"lazy_load_members": True, "types": ["m.room.*"]},
        "timeline": {"limit": 10, "contains_url": False, "org.example.unknown": {"x": 1}},
        "ephemeral": {"not_types": ["m.typing"]},
    },
}


@aio
async def test_filters(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    first = (await alice.asks("POST", f"{USER}/filter", FILTER)).json["filter_id"]
    assert not first.startswith("{")
    assert (await alice.asks("GET", f"{USER}/filter/{first}")).json == FILTER
    assert (await alice.asks("POST", f"{USER}/filter", FILTER)).json["filter_id"] == first
    assert (await alice.asks("POST", f"{USER}/filter", {})).json["filter_id"] != first
    for unknown in ("99", "x", "-1", "1" * 30, "٣"):
        assert (await alice.asks("GET", f"{USER}/filter/{unknown}")).errcode == "M_NOT_FOUND"
    bob = await deployment.user("bob")
    assert (await bob.asks("GET", f"{USER}/filter/{first}")).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    ("definition", "errcode"),
    [
        ({"room": []}, "M_BAD_JSON"),
        ({"room": {"timeline": 5}}, "M_BAD_JSON"),
        ({"room": {"timeline": {"limit": "10"}}}, "M_BAD_JSON"),
        ({"room": {"timeline": {"limit": True}}}, "M_BAD_JSON"),
        ({"room": {"timeline": {"limit": -1}}}, "M_INVALID_PARAM"),
        ({"room": {"state": {"lazy_load_members": "yes"}}}, "M_BAD_JSON"),
        ({"room": {"rooms": ["kitchen"]}}, "M_INVALID_PARAM"),
        ({"room": {"rooms": "!a:b"}}, "M_BAD_JSON"),
        ({"room": {"include_leave": 1}}, "M_BAD_JSON"),
        ({"presence": {"senders": ["alice"]}}, "M_INVALID_PARAM"),
        ({"account_data": {"types": [1]}}, "M_BAD_JSON"),
        ({"event_fields": "type"}, "M_BAD_JSON"),
        ({"event_format": "xml"}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_filters_that_are_refused(deployment: Deployment, definition: Any, errcode: str) -> None:
    alice = await deployment.user("alice")
    answer = await alice.asks("POST", f"{USER}/filter", definition)
    assert (answer.status, answer.errcode) == (400, errcode)


@aio
async def test_there_is_a_limit_of_filters(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    for number in range(200):
        assert (await alice.asks("POST", f"{USER}/filter", {"room": {"timeline": {"limit": number}}})).status == 200
    assert (await alice.asks("POST", f"{USER}/filter", {"room": {"timeline": {"limit": 5}}})).status == 200
    assert (await alice.asks("POST", f"{USER}/filter", {"event_fields": []})).errcode == "M_TOO_LARGE"


# -- numbers

EXACT = (
    *("0", "9007199254740993", "18446744073709551615", "-9223372036854775808"),
    *("0.5", "-1.25", "1e-7", "3.141592653589793", "1234567890.1234567"),
)
INEXACT = ("100000000000000000000", "18446744073709551616", "-9223372036854775809", "9" * 300)


@pytest.mark.parametrize("base", [USER, ROOM])
@aio
async def test_numbers_come_back_as_they_were_sent(deployment: Deployment, base: str) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    path = f"{base}/account_data/org.example.config"
    body = b'{"deep":[{"numbers":[%s]}],"text":"12345678901234567890123"}' % ",".join(EXACT).encode()
    assert (await alice.asks("PUT", path, body)).status == 200
    found = await deployment.site.call("GET", path, headers={"Authorization": f"Bearer {alice.token}"})
    assert found.body == body


@pytest.mark.parametrize("base", [USER, ROOM])
@aio
async def test_a_number_that_could_not_be_kept_is_refused(deployment: Deployment, base: str) -> None:
    alice = await deployment.user("alice")
    await enter(alice)
    path = f"{base}/account_data/org.example"
    for number in INEXACT:
        answer = await alice.asks("PUT", path, b'{"deep":[{"number":%s}]}' % number.encode())
        assert (answer.status, answer.errcode) == (400, "M_BAD_JSON"), number
    assert (await alice.asks("PUT", path, b'{"number":1e400}')).errcode == "M_NOT_JSON"
    assert (await alice.asks("GET", path)).status == 404
