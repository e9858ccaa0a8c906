"""How an application service acts: as which users and devices, what it may make, and what nobody else may."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.application_services.bridge import Bridge
from tests.application_services.stage import NODE, SetUp, path_of
from tests.deployment import NAME, POLICY, SETTINGS
from tests.rooms.play import CLIENT, ciphertext
from tests.support import aio

SEND = "send/m.room.encrypted/1"


@aio
async def test_it_acts_as_its_own_user_unless_it_names_another(set_up: SetUp) -> None:
    stage = await set_up()
    ghost = await stage.ghost("joe", "GHOST")
    own = await stage.as_service("GET", f"{CLIENT}/account/whoami")
    assert own.json == {"user_id": f"@_bridge_bot:{NAME}", "is_guest": False}
    named = await stage.as_service("GET", f"{CLIENT}/account/whoami", user_id=ghost.user_id)
    assert named.json == {"user_id": ghost.user_id, "is_guest": False}
    on_device = await stage.as_service("GET", f"{CLIENT}/account/whoami", user_id=ghost.user_id, device_id="GHOST")
    assert on_device.json["device_id"] == "GHOST"
    older = {"user_id": ghost.user_id, "org.matrix.msc3202.device_id": "GHOST"}
    assert (await stage.as_service("GET", f"{CLIENT}/account/whoami", **older)).json["device_id"] == "GHOST"


@aio
async def test_it_acts_as_nobody_else(set_up: SetUp) -> None:
    stage = await set_up()
    alice = await stage.play.user("alice")
    ghost = await stage.ghost("joe")
    for user_id in (alice.user_id, f"@_bridge_unknown:{NAME}", "@_bridge_joe:elsewhere.example", "nonsense"):
        refused = await stage.as_service("GET", f"{CLIENT}/account/whoami", user_id=user_id)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    unknown = await stage.as_service("GET", f"{CLIENT}/account/whoami", user_id=ghost.user_id, device_id="NONE")
    assert (unknown.status, unknown.errcode) == (400, "M_UNKNOWN_DEVICE")
    ordinary = await alice.asks("GET", f"{CLIENT}/account/whoami", user_id=ghost.user_id, device_id="NONE")
    assert ordinary.json["user_id"] == alice.user_id
    nonsense = await stage.play.deployment.asked("GET", f"{CLIENT}/account/whoami", token="no-such-token")
    assert (nonsense.status, nonsense.errcode) == (401, "M_UNKNOWN_TOKEN")


@aio
async def test_users_are_made_on_its_node_without_a_password(set_up: SetUp) -> None:
    stage = await set_up(place='node = "paris"\n', settings=SETTINGS.replace('mode = "open"', 'mode = "closed"'))
    ghost = await stage.ghost("joe")
    node = await stage.server.nodes.of_user(ghost.user_id)
    own = await stage.server.nodes.of_user(stage.bot.user_id)
    assert node is not None
    assert own is not None
    assert node.name == own.name == "paris"
    again = await stage.register("_bridge_joe")
    assert (again.status, again.errcode) == (400, "M_USER_IN_USE")
    foreign = await stage.register("joe")
    assert (foreign.status, foreign.errcode) == (400, "M_EXCLUSIVE")
    nameless = await stage.register(None)  # type: ignore[arg-type]
    assert (nameless.status, nameless.errcode) == (400, "M_MISSING_PARAM")
    body = {"type": "m.login.application_service", "username": "_bridge_ann"}
    for token, errcode in ((None, "M_MISSING_TOKEN"), ("wrong", "M_UNKNOWN_TOKEN")):
        refused = await stage.play.deployment.asked("POST", f"{CLIENT}/register", body, token=token)
        assert (refused.status, refused.errcode) == (401, errcode)
    by_password = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": ghost.user_id}}
    refused = await stage.play.deployment.asked("POST", f"{CLIENT}/login", {**by_password, "password": ""})
    assert refused.status == 403


@aio
async def test_a_registration_without_inhibit_login_and_a_login_open_sessions(set_up: SetUp) -> None:
    stage = await set_up()
    made = await stage.register("_bridge_ann", inhibit_login=False, device_id="ANN")
    assert made.json["device_id"] == "ANN"
    seen = await stage.play.deployment.asked("GET", f"{CLIENT}/account/whoami", token=made.json["access_token"])
    assert seen.json["user_id"] == f"@_bridge_ann:{NAME}"
    flows = await stage.play.deployment.asked("GET", f"{CLIENT}/login")
    assert {"type": "m.login.application_service"} in flows.json["flows"]

    async def login(user: str, token: str | None) -> Any:
        body = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": user}}
        return await stage.play.deployment.asked("POST", f"{CLIENT}/login", body, token=token)

    done = await login("_bridge_ann", stage.bridge.as_token)
    assert done.json["user_id"] == f"@_bridge_ann:{NAME}"
    alice = await stage.play.user("alice")
    assert (await login("alice", stage.bridge.as_token)).errcode == "M_EXCLUSIVE"
    assert (await login("_bridge_nobody", stage.bridge.as_token)).errcode == "M_FORBIDDEN"
    assert (await login("_bridge_ann", alice.token)).errcode == "M_UNKNOWN_TOKEN"
    assert (await login("_bridge_ann", None)).errcode == "M_MISSING_TOKEN"


@aio
async def test_names_of_its_namespace_are_for_nobody_else(set_up: SetUp) -> None:
    other = Bridge("other", "the-token-of-another-service")
    stage = await set_up(bridges=[Bridge(), other])
    alice = await stage.play.user("alice")
    body = {"username": "_bridge_eve", "password": "correct horse battery", "auth": {"type": "m.login.dummy"}}
    refused = await stage.play.deployment.asked("POST", f"{CLIENT}/register", body)
    assert (refused.status, refused.errcode) == (400, "M_EXCLUSIVE")
    free = await stage.play.deployment.asked("GET", f"{CLIENT}/register/available?username=_bridge_eve")
    assert (free.status, free.errcode) == (400, "M_EXCLUSIVE")
    own = {**body, "username": "_bridge_bot"}
    assert (await stage.play.deployment.asked("POST", f"{CLIENT}/register", own)).errcode == "M_EXCLUSIVE"
    assert (await stage.register("_bridge_eve", other)).errcode == "M_EXCLUSIVE"
    created = await alice.asks("POST", f"{CLIENT}/createRoom", {"room_alias_name": "_bridge_square"})
    assert (created.status, created.errcode) == (400, "M_EXCLUSIVE")
    room_id = await stage.play.create(alice)
    alias = quote(f"#_bridge_square:{NAME}", safe="")
    named = await alice.asks("PUT", f"{CLIENT}/directory/room/{alias}", {"room_id": room_id})
    assert (named.status, named.errcode) == (400, "M_EXCLUSIVE")
    assert (await stage.bot.asks("PUT", f"{CLIENT}/directory/room/{alias}", {"room_id": room_id})).status == 200
    removed = await alice.asks("DELETE", f"{CLIENT}/directory/room/{alias}")
    assert (removed.status, removed.errcode) == (400, "M_EXCLUSIVE")
    outside = quote(f"#square:{NAME}", safe="")
    beyond = await stage.bot.asks("PUT", f"{CLIENT}/directory/room/{outside}", {"room_id": room_id})
    assert (beyond.status, beyond.errcode) == (400, "M_EXCLUSIVE")
    assert (await stage.bot.asks("DELETE", f"{CLIENT}/directory/room/{alias}")).status == 200


@pytest.mark.parametrize("form", ["unstable/org.matrix.simplified_msc3575", "v4"])
@aio
async def test_sliding_sync_is_of_a_device(set_up: SetUp, form: str) -> None:
    stage = await set_up()
    path = f"/_matrix/client/{form}/sync"
    without = await (await stage.ghost("joe")).asks("POST", path, {})
    assert (without.status, without.errcode) == (400, "M_MISSING_PARAM")
    assert (await (await stage.ghost("jim", "DEVICE")).asks("POST", path, {})).status == 200


@aio
async def test_it_says_when_something_happened(set_up: SetUp) -> None:
    stage = await set_up()
    alice = await stage.play.user("alice")
    ghost = await stage.ghost("joe")
    room_id = await stage.room(ghost, alice)
    sent = await ghost.asks("PUT", CLIENT + path_of(room_id, *SEND.split("/")), ciphertext("long ago"), ts="1234567890")
    state = CLIENT + path_of(room_id, "state", "m.room.topic")
    assert (await ghost.asks("PUT", state, {"topic": "then"}, ts="1234567891")).status == 200
    timeline = {event["type"]: event for event in await stage.play.timeline(alice, room_id)}
    assert timeline["m.room.encrypted"]["event_id"] == sent.json["event_id"]
    assert timeline["m.room.encrypted"]["origin_server_ts"] == 1234567890
    assert timeline["m.room.topic"]["origin_server_ts"] == 1234567891
    for ts in ("-1", "soon", str(2**53)):
        refused = await ghost.asks(
            "PUT", CLIENT + path_of(room_id, "send", "m.room.encrypted", ts), ciphertext("x"), ts=ts
        )
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    path = CLIENT + path_of(room_id, "send", "m.room.encrypted", "2")
    mine = await alice.asks("PUT", path, ciphertext("now"), ts="1234567890")
    shown = await alice.asks("GET", CLIENT + path_of(room_id, "event", mine.json["event_id"]))
    assert shown.json["origin_server_ts"] > 1234567890


@aio
async def test_what_it_sends_in_the_clear_is_refused_as_of_anyone(set_up: SetUp) -> None:
    stage = await set_up()
    alice = await stage.play.user("alice")
    ghost = await stage.ghost("joe")
    room_id = await stage.room(ghost, alice)
    for kind, content in (
        ("m.room.message", {"msgtype": "m.text", "body": "readable"}),
        ("m.sticker", {"body": "readable", "url": "mxc://example.org/x", "info": {}}),
        ("m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "readable"}),
    ):
        for sender in (ghost, stage.bot):
            refused = await sender.asks("PUT", CLIENT + path_of(room_id, "send", kind, "1"), content, ts="1")
            assert refused.status in (400, 403), refused
    own = await ghost.asks("PUT", CLIENT + path_of(room_id, "send", "m.room.message", "2"), {"body": "readable"})
    assert own.json["org.domicile.plaintext_refused"] is True
    assert {event["type"] for event in await stage.play.timeline(alice, room_id)}.isdisjoint(
        {"m.room.message", "m.sticker", "m.room.encrypted"}
    )


@aio
async def test_devices_come_and_go_and_need_no_password(set_up: SetUp) -> None:
    stage = await set_up()
    ghost = await stage.ghost("joe")
    path = f"{CLIENT}/devices/BRIDGE"
    assert (await ghost.asks("PUT", path, {"display_name": "the bridge"})).status == 201
    assert (await ghost.asks("PUT", path, {"display_name": "its second name"})).status == 200
    assert (await ghost.asks("GET", path)).json["display_name"] == "its second name"
    on_device = stage.ghost_of("_bridge_joe", "BRIDGE")
    assert (await on_device.asks("GET", f"{CLIENT}/account/whoami")).json["device_id"] == "BRIDGE"
    assert (await ghost.asks("DELETE", path)).status == 200
    gone = await on_device.asks("GET", f"{CLIENT}/account/whoami")
    assert (gone.status, gone.errcode) == (400, "M_UNKNOWN_DEVICE")
    assert (await ghost.asks("PUT", path, {})).status == 201
    assert (await ghost.asks("POST", f"{CLIENT}/delete_devices", {"devices": ["BRIDGE"]})).status == 200
    assert (await ghost.asks("GET", f"{CLIENT}/devices")).json["devices"] == []
    impossible = await ghost.asks("PUT", f"{CLIENT}/devices/{'x' * 600}", {})
    assert (impossible.status, impossible.errcode) == (400, "M_INVALID_PARAM")
    alice = await stage.play.user("alice")
    assert (await alice.asks("PUT", path, {})).status == 404


@aio
async def test_what_needs_a_device_is_refused_without_one(set_up: SetUp) -> None:
    stage = await set_up()
    ghost = await stage.ghost("joe")
    refused = await ghost.asks("POST", f"{CLIENT}/keys/upload", {})
    assert (refused.status, refused.errcode) == (400, "M_MISSING_PARAM")


LIMITED = SETTINGS.replace("enabled = false", "message = { per_second = 0.001, burst = 1 }")


@pytest.mark.parametrize("limited", [False, True])
@aio
async def test_rate_limits_hold_where_the_registration_says_so(set_up: SetUp, limited: bool) -> None:
    settings = LIMITED + "registration = { per_second = 0.001, burst = 1 }\n"
    stage = await set_up(settings=settings, registration={"rate_limited": limited})
    made = [(await stage.register(f"_bridge_{name}")).status for name in ("joe", "ann", "jim")]
    assert made == ([200, 429, 429] if limited else [200, 200, 200])
    ghost = stage.ghost_of("_bridge_joe")
    room_id = await stage.play.create(ghost, invite=[stage.bot.user_id])
    await stage.play.change(stage.bot, room_id, "join")
    for sender, unlimited in ((ghost, not limited), (stage.bot, True)):
        paths = [CLIENT + path_of(room_id, "send", "m.room.encrypted", str(n)) for n in range(3)]
        statuses = [(await sender.asks("PUT", path, ciphertext("one more"))).status for path in paths]
        assert (429 not in statuses) == unlimited


ABROAD = NODE + 'jurisdiction = "FR"\n'


@aio
async def test_who_may_not_be_known_where_it_runs_cannot_be_acted_as(set_up: SetUp) -> None:
    stage = await set_up(place=ABROAD, policy=POLICY, sending=False)
    refused = await stage.as_service("GET", f"{CLIENT}/account/whoami")
    assert (refused.status, refused.json["org.domicile.reason"]) == (403, "flow_denied")


@aio
async def test_users_of_other_nodes_can_be_acted_as_where_that_may_flow(set_up: SetUp) -> None:
    namespaces = {"users": [{"exclusive": False, "regex": "@.*"}]}
    abroad, puppets = Bridge("abroad", "the-token-of-another-service"), Bridge("puppets")
    registration = {"url": None, "namespaces": namespaces}
    stage = await set_up(registration=registration, place='node = "paris"\n', bridges=[abroad])
    bob = f"@bob:{NAME}"
    assert (await stage.register("bob")).json["user_id"] == bob
    stage = await set_up(registration=registration, bridges=[puppets])
    seen = await stage.as_service("GET", f"{CLIENT}/account/whoami", user_id=bob)
    assert seen.json["user_id"] == bob
    closed = await set_up(registration=registration, policy=POLICY, bridges=[puppets])
    refused = await closed.as_service("GET", f"{CLIENT}/account/whoami", user_id=bob)
    assert (refused.status, refused.json["org.domicile.reason"]) == (403, "flow_denied")


@aio
async def test_a_locked_user_is_not_acted_as(set_up: SetUp) -> None:
    stage = await set_up()
    ghost = await stage.ghost("joe")
    admin = await stage.play.deployment.user("root", admin=True)
    assert (await ghost.asks("GET", f"{CLIENT}/account/whoami")).status == 200
    locked = await admin.asks("PUT", f"/_matrix/client/v1/admin/lock/{quote(ghost.user_id)}", {"locked": True})
    assert locked.status == 200
    refused = await ghost.asks("GET", f"{CLIENT}/account/whoami")
    assert (refused.status, refused.errcode) == (401, "M_USER_LOCKED")
