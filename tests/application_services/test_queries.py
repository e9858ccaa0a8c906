"""Asking a service: whether users and aliases of its should exist, what networks it leads to, whether it is there."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.application_services import ping, queries, third_party
from homeserver.application_services.third_party import Described
from tests.application_services.bridge import HS_TOKEN, Answering, Asked, Bridge
from tests.application_services.stage import SetUp, Stage
from tests.deployment import NAME
from tests.rooms.play import CLIENT
from tests.support import aio

APP = "/_matrix/app/v1"
PING = "/_matrix/client/v1/appservice/bridge/ping"


def asked_for(bridge: Bridge, part: str) -> list[Asked]:
    """The requests to paths with this part."""
    return [asked for asked in bridge.asked if part in asked.path]


@aio
async def test_an_unknown_user_is_asked_for_and_made(set_up: SetUp) -> None:
    stage = await set_up()
    alice = await stage.play.user("alice")

    async def make(asked: Asked) -> bool:
        if not asked.last.startswith("@_bridge_new"):
            return False
        return (await stage.register(asked.last[1:].partition(":")[0])).status == 200

    stage.bridge.on_query = make
    room_id = await stage.play.create(alice)
    await stage.play.change(alice, room_id, "invite", user_id=f"@_bridge_new1:{NAME}")
    shown = await alice.asks("GET", f"{CLIENT}/profile/{quote(f'@_bridge_new2:{NAME}')}")
    assert shown.status == 200
    invited = await stage.play.create(alice, invite=[f"@_bridge_new3:{NAME}"])
    assert invited
    assert [asked.path for asked in asked_for(stage.bridge, "/users/")] == [
        f"{APP}/users/{quote(f'@_bridge_new{n}:{NAME}', safe='')}" for n in (1, 2, 3)
    ]
    assert {asked.token for asked in stage.bridge.asked} == {HS_TOKEN}
    stage.bridge.asked.clear()
    for _ in range(2):
        unknown = await alice.asks("GET", f"{CLIENT}/profile/{quote(f'@_bridge_old:{NAME}')}")
        assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert len(asked_for(stage.bridge, "/users/")) == 1  # what it denied is remembered for a while
    assert (await alice.asks("GET", f"{CLIENT}/profile/{quote(f'@nobody:{NAME}')}")).status == 404
    assert len(asked_for(stage.bridge, "/users/")) == 1


@aio
async def test_an_unknown_alias_is_asked_for_and_made(set_up: SetUp) -> None:
    stage = await set_up()
    alice = await stage.play.user("alice")
    ghost = await stage.ghost("joe")

    async def make(asked: Asked) -> bool:
        if not asked.last.startswith("#_bridge_new"):
            return False
        localpart = asked.last[1:].partition(":")[0]
        return bool(await stage.play.create(ghost, room_alias_name=localpart, preset="public_chat"))

    stage.bridge.on_query = make
    joined = await alice.asks("POST", f"{CLIENT}/join/{quote(f'#_bridge_new:{NAME}', safe='')}", {})
    assert joined.status == 200
    both = await asyncio.gather(
        *(alice.asks("GET", f"{CLIENT}/directory/room/{quote(f'#_bridge_new2:{NAME}', safe='')}") for _ in range(2))
    )
    assert [answer.status for answer in both] == [200, 200]
    assert len(asked_for(stage.bridge, "new2")) == 1
    none = await alice.asks("GET", f"{CLIENT}/directory/room/{quote(f'#_bridge_none:{NAME}', safe='')}")
    assert (none.status, none.errcode) == (404, "M_NOT_FOUND")
    begun = len(stage.bridge.asked)
    other = await alice.asks("GET", f"{CLIENT}/directory/room/{quote(f'#ours:{NAME}', safe='')}")
    assert (other.status, other.errcode) == (404, "M_NOT_FOUND")
    assert len(stage.bridge.asked) == begun, "it is told of no alias that is none of its"
    stage.bridge.on_query = None
    stage.bridge.answers[f"{APP}/rooms"] = Answering(302)
    for _ in range(2):
        moved = await alice.asks("GET", f"{CLIENT}/directory/room/{quote(f'#_bridge_moved:{NAME}', safe='')}")
        assert (moved.status, moved.errcode) == (404, "M_NOT_FOUND")
    assert len(asked_for(stage.bridge, "moved")) == 1, "what is no success is a no"


@aio
async def test_a_service_that_does_not_say_is_a_timeout(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "BETWEEN", 0.01)
    stage = await set_up()
    alice = await stage.play.user("alice")
    stage.bridge.answers[f"{APP}/rooms"] = Answering(503)
    path = f"{CLIENT}/directory/room/{quote(f'#_bridge_new:{NAME}', safe='')}"
    for _ in range(2):
        timed_out = await alice.asks("GET", path)
        assert timed_out.status == 408
    assert len(asked_for(stage.bridge, "/rooms/")) == queries.ATTEMPTS  # it is left alone for a while
    await stage.bridge.close()
    gone = await alice.asks("GET", f"{CLIENT}/directory/room/{quote(f'#_bridge_gone:{NAME}', safe='')}")
    assert gone.status == 408


@aio
async def test_it_is_pinged_when_it_asks_for_that(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await set_up()
    answer = await stage.as_service("POST", PING, {"transaction_id": "meow"})
    assert answer.status == 200
    assert isinstance(answer.json["duration_ms"], int)
    [asked] = asked_for(stage.bridge, "/ping")
    assert (asked.method, asked.path, asked.body) == ("POST", f"{APP}/ping", {"transaction_id": "meow"})
    stage.bridge.answers[f"{APP}/ping"] = Answering(403, {"errcode": "M_FORBIDDEN"})
    bad = await stage.as_service("POST", PING, {})
    assert (bad.status, bad.errcode, bad.json["status"]) == (502, "M_BAD_STATUS", 403)
    assert bad.json["body"] == '{"errcode":"M_FORBIDDEN"}'
    alice = await stage.play.user("alice")
    assert (await alice.asks("POST", PING, {})).errcode == "M_FORBIDDEN"
    other = await stage.as_service("POST", PING.replace("bridge", "other"), {})
    assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
    assert (await stage.as_service("POST", PING, {"transaction_id": 5})).errcode == "M_BAD_JSON"
    monkeypatch.setattr(ping, "PATIENCE", 0.05)
    waits = asyncio.Event()

    async def wait(request: Any, asked: Asked) -> None:
        await waits.wait()

    monkeypatch.setattr(stage.bridge, "_answer", wait)
    late = await stage.as_service("POST", PING, {})
    assert (late.status, late.errcode) == (504, "M_CONNECTION_TIMEOUT")
    waits.set()
    await stage.bridge.close()
    gone = await stage.as_service("POST", PING, {})
    assert (gone.status, gone.errcode) == (502, "M_CONNECTION_FAILED")
    silent = await set_up(registration={"url": None}, bridges=[Bridge("silent")])
    unset = await silent.as_service("POST", PING.replace("bridge", "silent"), {})
    assert (unset.status, unset.errcode) == (400, "M_URL_NOT_SET")


IRC = {
    "user_fields": ["network", "nickname"],
    "location_fields": ["network", "channel"],
    "icon": "mxc://example.org/irc",
    "field_types": {"network": {"regexp": ".*", "placeholder": "irc.example.org"}, "broken": {"regexp": 5}},
    "instances": [
        {"network_id": "town", "desc": "Town", "fields": {"network": "town"}, "icon": "mxc://example.org/town"},
        {"desc": "has no id"},
        "nonsense",
    ],
    "more": "than is specified",
}
PLACES = [
    {"alias": f"#_bridge_market:{NAME}", "protocol": "irc", "fields": {"channel": "#market"}},
    {"alias": 5, "protocol": "irc", "fields": {}},
    "nonsense",
]
PEOPLE = [{"userid": f"@_bridge_joe:{NAME}", "protocol": "irc", "fields": {"nickname": "joe"}}]


async def networked(set_up: SetUp) -> Stage:
    """Two services that lead to IRC, one of which answers with nonsense to all but the question for its networks."""
    one, two = Bridge("bridge"), Bridge("second", "the-token-of-the-second")
    stage = await set_up(bridges=[one, two], registration={"protocols": ["irc"]})
    one.answers[f"{APP}/thirdparty/protocol/irc"] = Answering(200, IRC)
    one.answers[f"{APP}/thirdparty/location"] = Answering(200, PLACES)
    one.answers[f"{APP}/thirdparty/user"] = Answering(200, PEOPLE)
    second = {**IRC, "instances": [{"network_id": "town", "desc": "The other town", "fields": {}}]}
    two.answers[f"{APP}/thirdparty/protocol/irc"] = Answering(200, second)
    two.answers[f"{APP}/thirdparty/location"] = Answering(500, b"<html>")
    two.answers[f"{APP}/thirdparty/user"] = Answering(200, b"not JSON")
    return stage


@aio
async def test_networks_are_merged_over_services(set_up: SetUp) -> None:
    stage = await networked(set_up)
    alice = await stage.play.user("alice")
    found = await alice.asks("GET", f"{CLIENT}/thirdparty/protocols")
    assert list(found.json) == ["irc"]
    protocol = found.json["irc"]
    assert protocol["user_fields"] == ["network", "nickname"]
    assert list(protocol["field_types"]) == ["network"]
    assert [each["instance_id"] for each in protocol["instances"]] == ["bridge|town", "second|town"]
    assert (await alice.asks("GET", f"{CLIENT}/thirdparty/protocol/irc")).json == protocol
    unknown = await alice.asks("GET", f"{CLIENT}/thirdparty/protocol/pigeons")
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert len(asked_for(stage.bridge, "/protocol/")) == 1  # what it said is remembered


@aio
async def test_nobody_waits_for_a_service_that_is_silent(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Bridge("bridge"), Bridge("second", "the-token-of-the-second")
    stage = await set_up(bridges=[one, two], registration={"protocols": ["irc"]})
    for bridge in (one, two):
        bridge.answers[f"{APP}/thirdparty/protocol/irc"] = Answering(200, IRC)
    alice = await stage.play.user("alice")

    async def towns() -> list[str]:
        found = (await alice.asks("GET", f"{CLIENT}/thirdparty/protocols")).json
        return [each["instance_id"] for each in found["irc"]["instances"]]

    assert await towns() == ["bridge|town", "second|town"]
    waits = asyncio.Event()

    async def wait(request: Any, asked: Asked) -> None:
        await waits.wait()

    monkeypatch.setattr(two, "_answer", wait)
    monkeypatch.setattr(third_party, "DESCRIBING", 0.05)
    held = stage.play.server.nodes.directory.memory(Described).held
    _, said = held["second", "irc"]
    held["second", "irc"] = (0.0, said)
    assert await towns() == ["bridge|town", "second|town"], "what it said last"
    del held["second", "irc"]
    assert await towns() == ["bridge|town"], "what is there"
    waits.set()


async def listed(stage: Stage, user: Any, path: str) -> Any:
    """An answer that is an array."""
    headers = {"Authorization": f"Bearer {user.token}"}
    response = await stage.play.deployment.site.call("GET", f"{CLIENT}/thirdparty{path}", headers=headers)
    assert response.status == 200
    assert isinstance(response.body, bytes)
    return orjson.loads(response.body)


@aio
async def test_places_and_people_are_looked_up(set_up: SetUp) -> None:
    stage = await networked(set_up)
    alice = await stage.play.user("alice")
    assert await listed(stage, alice, "/location/irc?channel=%23market&network=town") == PLACES[:1]
    [asked] = asked_for(stage.bridge, "/location/irc")
    assert asked.args == {"channel": ["#market"], "network": ["town"]}
    assert await listed(stage, alice, "/user/irc?nickname=joe") == PEOPLE
    assert await listed(stage, alice, f"/location?alias={quote(f'#_bridge_market:{NAME}')}") == PLACES[:1]
    assert asked_for(stage.bridge, "/location")[-1].args == {"alias": [f"#_bridge_market:{NAME}"]}
    assert await listed(stage, alice, f"/user?userid={quote(f'@_bridge_joe:{NAME}')}") == PEOPLE
    assert asked_for(stage.bridge, "/user")[-1].args == {"userid": [f"@_bridge_joe:{NAME}"]}
    for path in ("/location/pigeons", "/user/pigeons"):
        assert (await alice.asks("GET", f"{CLIENT}/thirdparty{path}")).status == 404
    for path in ("/location", "/user", "/location?alias=nonsense", "/user?userid=nonsense"):
        assert (await alice.asks("GET", f"{CLIENT}/thirdparty{path}")).status == 400


@aio
async def test_without_services_there_are_no_networks(set_up: SetUp) -> None:
    stage = await set_up()
    alice = await stage.play.user("alice")
    assert (await alice.asks("GET", f"{CLIENT}/thirdparty/protocols")).json == {}


@aio
async def test_services_have_directories_of_their_own(set_up: SetUp) -> None:
    stage = await networked(set_up)
    alice = await stage.play.user("alice")
    ghost = await stage.ghost("joe")
    public = await stage.play.create(alice, visibility="public", name="in the directory of the server")
    room_id = await stage.play.create(ghost, name="the market")
    foreign = await stage.play.create(alice)

    async def publish(network: str, room: str, visibility: object = "public") -> Any:
        path = f"{CLIENT}/directory/list/appservice/{network}/{quote(room, safe='')}"
        return await stage.as_service("PUT", path, {"visibility": visibility})

    async def found(**body: Any) -> set[str]:
        answer = await alice.asks("POST", f"{CLIENT}/publicRooms", body)
        assert answer.status == 200
        return {room["room_id"] for room in answer.json["chunk"]}

    assert (await publish("town", room_id)).status == 200
    assert await found(third_party_instance_id="bridge|town") == {room_id}
    assert await found(third_party_instance_id="second|town") == set()
    assert await found() == {public}
    assert await found(include_all_networks=True) == {room_id, public}
    refused = await publish("town", foreign)
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert (await publish("town", "!nowhere:example.org")).status == 404
    assert (await publish("town", room_id, "secret")).errcode == "M_INVALID_PARAM"
    assert (await publish("town", room_id, None)).errcode == "M_MISSING_PARAM"
    path = f"{CLIENT}/directory/list/appservice/town/{quote(room_id, safe='')}"
    assert (await alice.asks("PUT", path, {"visibility": "public"})).errcode == "M_FORBIDDEN"
    assert (await publish("town", room_id, "private")).status == 200
    assert await found(third_party_instance_id="bridge|town") == set()
