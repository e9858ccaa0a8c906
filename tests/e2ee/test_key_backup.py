"""Backups of room keys: versions, the better key stays, and nobody else's."""

from __future__ import annotations

from typing import Any

from tests.deployment import Answer, Deployment, User
from tests.rooms.play import CLIENT
from tests.support import aio

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
ROOM, OTHER_ROOM = "!room:example.org", "!other:example.org"
VERSION = {"algorithm": ALGORITHM, "auth_data": {"public_key": "abc", "signatures": {}}}


def key(index: int = 0, forwarded: int = 0, verified: bool = False, text: str = "x") -> dict[str, Any]:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": text},
    }


async def ask(user: User, method: str, path: str, body: object = None, **query: str) -> Answer:
    return await user.asks(method, f"{CLIENT}/room_keys{path}", body, **query)


async def get(user: User, method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
    answer = await ask(user, method, path, body, **query)
    assert answer.status == 200, answer
    return answer.json


@aio
async def test_versions(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    assert (await ask(alice, "GET", "/version")).errcode == "M_NOT_FOUND"
    assert await get(alice, "POST", "/version", VERSION) == {"version": "1"}
    shown = {**VERSION, "version": "1", "count": 0, "etag": "0"}
    assert await get(alice, "GET", "/version") == shown
    assert await get(alice, "GET", "/version/1") == shown
    changed = {"algorithm": ALGORITHM, "auth_data": {"public_key": "def"}}
    assert await get(alice, "PUT", "/version/1", changed) == {}
    assert (await get(alice, "GET", "/version"))["auth_data"] == {"public_key": "def"}
    assert await get(alice, "POST", "/version", VERSION) == {"version": "2"}
    assert (await get(alice, "GET", "/version"))["version"] == "2"
    assert await get(alice, "DELETE", "/version/2") == {}
    assert await get(alice, "DELETE", "/version/2") == {}
    assert (await get(alice, "GET", "/version"))["version"] == "1"
    assert (await ask(alice, "GET", "/version/2")).errcode == "M_NOT_FOUND"
    assert (await ask(alice, "DELETE", "/version/7")).errcode == "M_NOT_FOUND"
    assert await get(alice, "POST", "/version", VERSION) == {"version": "3"}  # no number twice


@aio
async def test_storing_and_reading_in_all_three_forms(deployment: Deployment) -> None:
    alice = await deployment.user("alice", "paris")
    await get(alice, "POST", "/version", VERSION)
    one = await get(alice, "PUT", f"/keys/{ROOM}/s1", key(text="a"), version="1")
    assert one == {"count": 1, "etag": "1"}
    two = await get(alice, "PUT", f"/keys/{ROOM}", {"sessions": {"s2": key(text="b")}}, version="1")
    assert two == {"count": 2, "etag": "2"}
    body = {"rooms": {OTHER_ROOM: {"sessions": {"s/3": key(text="c"), "s4": key(text="d")}}}}
    three = await get(alice, "PUT", "/keys", body, version="1")
    assert three == {"count": 4, "etag": "3"}
    assert await get(alice, "GET", f"/keys/{ROOM}/s1", version="1") == key(text="a")
    assert await get(alice, "GET", f"/keys/{OTHER_ROOM}/s%2F3", version="1") == key(text="c")
    in_room = {"sessions": {"s1": key(text="a"), "s2": key(text="b")}}
    assert await get(alice, "GET", f"/keys/{ROOM}", version="1") == in_room
    assert await get(alice, "GET", "/keys", version="1") == {"rooms": {ROOM: in_room, **body["rooms"]}}
    assert await get(alice, "GET", "/version") == {**VERSION, "version": "1", **three}
    assert await get(alice, "GET", "/keys/!empty:x", version="1") == {"sessions": {}}
    assert (await ask(alice, "GET", f"/keys/{ROOM}/none", version="1")).errcode == "M_NOT_FOUND"


@aio
async def test_deleting_in_all_three_forms(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await get(alice, "POST", "/version", VERSION)
    sessions = {"sessions": {f"s{n}": key() for n in range(3)}}
    await get(alice, "PUT", "/keys", {"rooms": {ROOM: sessions, OTHER_ROOM: sessions}}, version="1")
    assert await get(alice, "DELETE", f"/keys/{ROOM}/s0", version="1") == {"count": 5, "etag": "2"}
    assert await get(alice, "DELETE", f"/keys/{ROOM}/s0", version="1") == {"count": 5, "etag": "2"}
    assert await get(alice, "DELETE", f"/keys/{ROOM}", version="1") == {"count": 3, "etag": "3"}
    assert await get(alice, "DELETE", "/keys", version="1") == {"count": 0, "etag": "4"}
    assert await get(alice, "GET", "/keys", version="1") == {"rooms": {}}


@aio
async def test_the_better_key_stays(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await get(alice, "POST", "/version", VERSION)
    etag = 0
    held = None
    for new, better in [
        (key(5, 5, text="first"), True),
        (key(5, 5, text="same"), False),
        (key(5, 6, text="more forwarded"), False),
        (key(6, 0, text="later"), False),
        (key(5, 4, text="less forwarded"), True),
        (key(4, 9, text="earlier"), True),
        (key(9, 9, True, text="verified"), True),
        (key(0, 0, False, text="not verified"), False),
        (key(9, 8, True, text="verified, less forwarded"), True),
    ]:
        answer = await get(alice, "PUT", "/keys", {"rooms": {ROOM: {"sessions": {"s": new}}}}, version="1")
        held, etag = (new, etag + 1) if better else (held, etag)
        assert answer == {"count": 1, "etag": str(etag)}, new
        assert await get(alice, "GET", f"/keys/{ROOM}/s", version="1") == held


@aio
async def test_only_the_current_version_is_written_to(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    body = {"rooms": {ROOM: {"sessions": {"s": key()}}}}
    assert (await ask(alice, "PUT", "/keys", body, version="1")).errcode == "M_NOT_FOUND"
    await get(alice, "POST", "/version", VERSION)
    await get(alice, "PUT", "/keys", body, version="1")
    await get(alice, "POST", "/version", VERSION)
    for version in ("1", "3", "x", "02"):
        answer = await ask(alice, "PUT", "/keys", body, version=version)
        assert (answer.status, answer.errcode) == (403, "M_WRONG_ROOM_KEYS_VERSION")
        assert answer.json["current_version"] == "2"
    assert await get(alice, "GET", "/keys", version="1") == body  # the old one can still be read
    assert await get(alice, "GET", "/keys", version="2") == {"rooms": {}}
    await get(alice, "DELETE", "/version/1")
    for method in ("GET", "DELETE"):
        assert (await ask(alice, method, "/keys", version="1")).errcode == "M_NOT_FOUND"


@aio
async def test_a_backup_is_its_owners_alone(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    await get(alice, "POST", "/version", VERSION)
    await get(alice, "PUT", f"/keys/{ROOM}/s", key(), version="1")
    for method, path in (("GET", "/version/1"), ("DELETE", "/version/1"), ("GET", "/version")):
        assert (await ask(bob, method, path)).errcode == "M_NOT_FOUND"
    assert (await ask(bob, "GET", "/keys", version="1")).errcode == "M_NOT_FOUND"
    await get(bob, "POST", "/version", VERSION)
    assert await get(bob, "GET", "/keys", version="1") == {"rooms": {}}
    await get(bob, "DELETE", "/version/1")
    assert (await get(alice, "GET", "/version"))["count"] == 1


@aio
async def test_thousands_of_keys_in_a_few_trips(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await get(alice, "POST", "/version", VERSION)
    sessions = {f"s{n}": key(text="x" * 200) for n in range(2500)}
    trips = deployment.node("tehran").engine.trips
    answer = await get(alice, "PUT", "/keys", {"rooms": {ROOM: {"sessions": sessions}}}, version="1")
    assert answer == {"count": 2500, "etag": "1"}
    assert deployment.node("tehran").engine.trips - trips <= 7
    assert (await get(alice, "GET", "/keys", version="1"))["rooms"][ROOM]["sessions"] == sessions


@aio
async def test_malformed_requests(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await get(alice, "POST", "/version", VERSION)
    for method, path, body, errcode in [
        ("POST", "/version", {}, "M_MISSING_PARAM"),
        ("POST", "/version", {"algorithm": 5, "auth_data": {}}, "M_BAD_JSON"),
        ("POST", "/version", {"algorithm": "a", "auth_data": []}, "M_BAD_JSON"),
        ("POST", "/version", {"algorithm": "a", "auth_data": {"x": "y" * 70_000}}, "M_TOO_LARGE"),
        ("PUT", "/version/1", {"algorithm": "other", "auth_data": {}}, "M_INVALID_PARAM"),
        ("PUT", "/version/1", {**VERSION, "version": "2"}, "M_INVALID_PARAM"),
        ("PUT", "/version/9", VERSION, "M_NOT_FOUND"),
        ("PUT", "/keys?version=1", {}, "M_MISSING_PARAM"),
        ("PUT", "/keys", {"rooms": {}}, "M_MISSING_PARAM"),
        ("GET", "/keys", None, "M_MISSING_PARAM"),
        ("PUT", "/keys?version=1", {"rooms": []}, "M_BAD_JSON"),
        ("PUT", "/keys?version=1", {"rooms": {ROOM: []}}, "M_BAD_JSON"),
        ("PUT", "/keys?version=1", {"rooms": {ROOM: {}}}, "M_MISSING_PARAM"),
        ("PUT", "/keys?version=1", {"rooms": {ROOM: {"sessions": {"s": 5}}}}, "M_BAD_JSON"),
        ("PUT", "/keys?version=1", {"rooms": {"room": {"sessions": {"s": key()}}}}, "M_INVALID_PARAM"),
        ("PUT", "/keys?version=1", {"rooms": {ROOM: {"sessions": {"": key()}}}}, "M_INVALID_PARAM"),
        ("PUT", f"/keys/{ROOM}/s?version=1", key(index=-1), "M_INVALID_PARAM"),
        ("PUT", f"/keys/{ROOM}/s?version=1", key(index=2**60), "M_INVALID_PARAM"),
        ("PUT", f"/keys/{ROOM}/s?version=1", {**key(), "is_verified": 1}, "M_BAD_JSON"),
        ("PUT", f"/keys/{ROOM}/s?version=1", {**key(), "session_data": "x"}, "M_BAD_JSON"),
        ("PUT", f"/keys/{ROOM}/s?version=1", {**key(), "first_message_index": True}, "M_BAD_JSON"),
        ("PUT", f"/keys/{ROOM}/s?version=1", {"session_data": {}}, "M_MISSING_PARAM"),
    ]:
        answer = await ask(alice, method, path, body)
        assert answer.errcode == errcode, (method, path, body)
    assert await get(alice, "GET", "/keys", version="1") == {"rooms": {}}
