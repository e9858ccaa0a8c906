"""What administrators do with accounts, and what a locked or suspended user may still do."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.web.routes import Auth, Table
from tests.conformance import endpoint_modules
from tests.deployment import Deployment, User
from tests.endpoints.test_account import NEW, proof
from tests.rooms.play import ciphertext
from tests.support import aio

CLIENT = "/_matrix/client/v3"
ADMIN = "/_matrix/client/v1/admin"


async def people(deployment: Deployment) -> tuple[User, User]:
    """An administrator, and somebody on another node."""
    return await deployment.user("grace", admin=True), await deployment.user("alice", "paris")


@pytest.mark.parametrize(("what", "name"), [("lock", "locked"), ("suspend", "suspended")])
@aio
async def test_asking_and_saying(deployment: Deployment, what: str, name: str) -> None:
    grace, alice = await people(deployment)
    path = f"{ADMIN}/{what}/{alice.user_id}"
    assert (await grace.asks("GET", path)).json == {name: False}
    assert (await grace.asks("PUT", path, {name: True})).json == {name: True}
    assert (await grace.asks("GET", path)).json == {name: True}
    assert (await grace.asks("PUT", path, {name: False})).json == {name: False}
    assert (await grace.asks("GET", path)).json == {name: False}
    assert (await alice.asks("GET", CLIENT + "/capabilities")).status == 200


@pytest.mark.parametrize(("what", "name"), [("lock", "locked"), ("suspend", "suspended")])
@aio
async def test_who_may_and_on_whom(deployment: Deployment, what: str, name: str) -> None:
    grace, alice = await people(deployment)
    other = await deployment.user("hopper", admin=True)
    closed = await deployment.user("carol")
    await closed.asks("POST", CLIENT + "/account/deactivate", {"auth": proof(closed)})
    for method, body in (("GET", None), ("PUT", {name: True})):
        for user_id in (grace.user_id, "@nobody:example.org", "@bob:elsewhere.org", "x"):  # told before it is looked up
            answer = await alice.asks(method, f"{ADMIN}/{what}/{user_id}", body)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        for user_id, status in (
            ("@bob:elsewhere.org", 400),
            ("x", 400),
            ("@nobody:example.org", 404),
            (closed.user_id, 404),
            (other.user_id, 403),
            (grace.user_id, 200 if method == "GET" else 403),
        ):
            assert (await grace.asks(method, f"{ADMIN}/{what}/{user_id}", body)).status == status
    assert (await grace.asks("PUT", f"{ADMIN}/{what}/{alice.user_id}", {})).errcode == "M_MISSING_PARAM"
    assert (await grace.asks("PUT", f"{ADMIN}/{what}/{alice.user_id}", {name: "yes"})).errcode == "M_BAD_JSON"


@aio
async def test_who_is_told_that_they_may(deployment: Deployment) -> None:
    grace, alice = await people(deployment)
    capabilities = (await grace.asks("GET", CLIENT + "/capabilities")).json["capabilities"]
    assert capabilities["m.account_moderation"] == {"suspend": True, "lock": True}
    assert "m.account_moderation" not in (await alice.asks("GET", CLIENT + "/capabilities")).json["capabilities"]


@aio
async def test_a_locked_account_can_only_log_out(deployment: Deployment) -> None:
    grace, alice = await people(deployment)
    refreshing = (await deployment.login(alice, refresh_token=True)).json
    assert (await grace.asks("PUT", f"{ADMIN}/lock/{alice.user_id}", {"locked": True})).status == 200
    table: Table[Any] = Table.of(*(m for m in endpoint_modules() if m.__name__.startswith("homeserver.")))
    for route in table.routes:
        if route.auth not in (Auth.NONE, Auth.SIGNED) and not route.path.startswith("/_domicile"):
            answer = await alice.asks(route.method, route.path.replace("{", "").replace("}", ""), {})
            assert (answer.status, answer.errcode, answer.json["soft_logout"]) == (401, "M_USER_LOCKED", True), route
    assert (await deployment.login(alice)).errcode == "M_USER_LOCKED"
    refreshed = {"refresh_token": refreshing["refresh_token"]}
    assert (await deployment.asked("POST", CLIENT + "/refresh", refreshed)).errcode == "M_USER_LOCKED"
    for path, body in (("password", {"new_password": NEW}), ("deactivate", {})):
        answer = await deployment.asked("POST", f"{CLIENT}/account/{path}", {**body, "auth": proof(alice)})
        assert answer.errcode == "M_USER_LOCKED"
    await grace.asks("PUT", f"{ADMIN}/lock/{alice.user_id}", {"locked": False})
    assert (await alice.asks("GET", CLIENT + "/account/whoami")).status == 200  # the session was kept
    await grace.asks("PUT", f"{ADMIN}/lock/{alice.user_id}", {"locked": True})
    assert (await alice.asks("POST", CLIENT + "/logout/all", {})).status == 200
    await grace.asks("PUT", f"{ADMIN}/lock/{alice.user_id}", {"locked": False})
    assert (await alice.asks("GET", CLIENT + "/account/whoami")).errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_what_a_suspended_user_may_not(deployment: Deployment) -> None:
    grace, _ = await people(deployment)
    bob, carol = await deployment.user("bob"), await deployment.user("carol")
    room_id = (await bob.asks("POST", CLIENT + "/createRoom", {"preset": "public_chat"})).json["room_id"]
    second = (await bob.asks("POST", CLIENT + "/createRoom", {})).json["room_id"]
    room = f"{CLIENT}/rooms/{room_id}"
    await carol.asks("POST", room + "/join", {})
    mine, mine_too = [
        (await bob.asks("PUT", f"{room}/send/m.room.encrypted/{n}", ciphertext(f"mine {n}"))).json["event_id"]
        for n in (0, 1)
    ]
    hers = (await carol.asks("PUT", room + "/send/m.room.encrypted/1", ciphertext("hers"))).json["event_id"]
    uri = (await bob.asks("POST", "/_matrix/media/v1/create")).json["content_uri"].removeprefix("mxc://")
    membership = f"{room}/state/m.room.member/{quote(bob.user_id)}"
    assert (await grace.asks("PUT", f"{ADMIN}/suspend/{bob.user_id}", {"suspended": True})).status == 200
    profile = f"{CLIENT}/profile/{bob.user_id}/displayname"
    for method, path, body in (
        ("POST", CLIENT + "/createRoom", {}),
        ("POST", room + "/join", {}),
        ("POST", f"{CLIENT}/join/{room_id}", {}),
        ("POST", f"{CLIENT}/knock/{room_id}", {}),
        ("POST", room + "/invite", {"user_id": grace.user_id}),
        ("POST", room + "/kick", {"user_id": carol.user_id}),
        ("POST", room + "/ban", {"user_id": carol.user_id}),
        ("POST", room + "/unban", {"user_id": carol.user_id}),
        ("PUT", room + "/send/m.room.encrypted/2", ciphertext("more")),
        ("PUT", room + "/state/m.room.name", {"name": "x"}),
        ("PUT", f"{room}/redact/{hers}/1", {}),
        ("PUT", profile, {"displayname": "x"}),
        ("DELETE", profile, None),
        ("POST", CLIENT + "/account/3pid/delete", {"medium": "email", "address": "a@b.example"}),
        ("PUT", room + "/send/m.room.redaction/3", {"redacts": hers}),
        ("PUT", room + "/send/m.room.redaction/4", {}),
        ("PUT", room + "/send/m.room.redaction/5?org.matrix.msc4140.delay=1000", {"redacts": mine}),
        ("POST", room + "/upgrade", {"new_version": "12"}),
        ("PUT", CLIENT + "/directory/room/%23ours:example.org", {"room_id": room_id}),
        ("DELETE", CLIENT + "/directory/room/%23ours:example.org", None),
        ("PUT", f"{CLIENT}/directory/list/room/{room_id}", {"visibility": "public"}),
        ("PUT", membership, {"membership": "join", "displayname": "x"}),
        ("PUT", f"{room}/state/m.room.member/{quote(carol.user_id)}", {"membership": "leave"}),
        ("PUT", membership + "?org.matrix.msc4140.delay=1000", {"membership": "leave"}),
        ("POST", "/_matrix/media/v3/upload", {}),
        ("POST", "/_matrix/media/v1/create", None),
        ("PUT", f"/_matrix/media/v3/upload/{uri}", {}),
        ("PUT", f"{room}/typing/{bob.user_id}", {"typing": True}),
        ("PUT", f"{CLIENT}/presence/{bob.user_id}/status", {"presence": "online", "status_msg": "x"}),
    ):
        answer = await bob.asks(method, path, body)
        assert (answer.status, answer.errcode) == (403, "M_USER_SUSPENDED"), path
    seen = await bob.asks("GET", room + "/messages", dir="b")
    assert hers in [event["event_id"] for event in seen.json["chunk"]]
    assert (await bob.asks("GET", CLIENT + "/sync", timeout="0")).status == 200
    assert (await bob.asks("PUT", f"{room}/redact/{mine}/2", {})).status == 200
    assert (await bob.asks("PUT", room + "/send/m.room.redaction/6", {"redacts": mine_too})).status == 200
    login = await deployment.login(bob)
    assert login.status == 200
    other = User(deployment, bob.user_id, login.json["device_id"], login.json["access_token"])
    assert (await other.asks("POST", CLIENT + "/createRoom", {})).errcode == "M_USER_SUSPENDED"
    assert (await bob.asks("PUT", membership, {"membership": "leave"})).status == 200
    assert (await bob.asks("POST", f"{CLIENT}/rooms/{second}/leave", {})).status == 200
    assert (await grace.asks("PUT", f"{ADMIN}/suspend/{bob.user_id}", {"suspended": False})).status == 200
    assert (await bob.asks("POST", room + "/join", {})).status == 200


@aio
async def test_whois(deployment: Deployment) -> None:
    grace, alice = await people(deployment)
    path = CLIENT + "/admin/whois/"
    for asking in (grace, alice):
        assert (await asking.asks("GET", path + alice.user_id)).json == {
            "user_id": alice.user_id,
            "devices": {alice.device_id: {"sessions": [{"connections": []}]}},
        }
    assert (await alice.asks("GET", path + grace.user_id)).errcode == "M_FORBIDDEN"
    assert (await alice.asks("GET", path + "@nobody:example.org")).errcode == "M_FORBIDDEN"
    assert (await grace.asks("GET", path + "@nobody:example.org")).errcode == "M_NOT_FOUND"
    assert (await grace.asks("GET", path + "@bob:elsewhere.org")).errcode == "M_INVALID_PARAM"
