"""Room directories of other servers, and servers in a room of which an alias is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.rooms import state
from homeserver.runtime.exchange import Answer
from homeserver.runtime.outbound import Place
from tests.deployment import FLOWING
from tests.network import Network
from tests.rooms.play import CLIENT, Play
from tests.support import aio


async def towns(network: Network) -> tuple[Play, Play]:
    here, there = await network.found("here.test"), await network.found("there.test")
    bob, pierre = await there.user("bob"), await there.user("pierre", "paris")
    for user, name in ((bob, "one"), (bob, "two"), (pierre, "three")):
        await there.create(user, visibility="public", name=name)
    await there.create(bob, visibility="public", name="space", creation_content={"type": "m.space"})
    await there.create(bob, name="hidden")
    return here, there


def names(page: dict[str, Any]) -> set[str]:
    return {entry["name"] for entry in page["chunk"]}


@aio
async def test_the_directory_of_another_server(network: Network) -> None:
    here, _ = await towns(network)
    alice = await here.user("alice")
    whole = await here.ask(alice, "GET", "/publicRooms", server="there.test")
    assert names(whole) == {"one", "two", "three", "space"}
    assert whole["total_room_count_estimate"] == 4
    first = await here.ask(alice, "GET", "/publicRooms", server="there.test", limit="3")
    assert len(first["chunk"]) == 3
    rest = await here.ask(alice, "GET", "/publicRooms", server="there.test", limit="3", since=first["next_batch"])
    assert names(first) | names(rest) == names(whole)
    assert "next_batch" not in rest
    assert names(await here.ask(alice, "GET", "/publicRooms", server="here.test")) == set()
    found = await here.ask(
        alice, "POST", "/publicRooms", {"filter": {"generic_search_term": "TW"}}, server="there.test"
    )
    assert names(found) == {"two"}
    found = await here.ask(
        alice, "POST", "/publicRooms", {"filter": {"room_types": ["m.space"]}, "limit": 5}, server="there.test"
    )
    assert names(found) == {"space"}


@aio
async def test_who_may_not_look(network: Network) -> None:
    here, _ = await towns(network)
    alice = await here.user("alice")
    anybody = await here.deployment.asked("GET", f"{CLIENT}/publicRooms?server=there.test")
    assert (anybody.status, anybody.errcode) == (401, "M_MISSING_TOKEN")
    assert (await here.refused(alice, "GET", "/publicRooms?server=a/b")).errcode == "M_INVALID_PARAM"
    assert (await here.refused(alice, "GET", "/publicRooms?server=there.test&since=x")).errcode == "M_INVALID_PARAM"
    network.cut("here.test", "there.test")
    assert (await here.refused(alice, "GET", "/publicRooms?server=there.test")).status == 502


@aio
async def test_what_is_no_entry_is_not_shown(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, _ = await towns(network)
    alice = await here.user("alice")
    carry = network.carry
    told: dict[str, Any] = {
        "chunk": [
            {"room_id": "!a:there.test", "num_joined_members": "many", "name": 5, "topic": "t", "evil": "<b>"},
            {"room_id": "a"},
            "nonsense",
        ],
        "next_batch": 5,
        "total_room_count_estimate": -1,
    }

    async def lie(source: str, place: Place, method: str, target: str, *rest: Any) -> Answer:
        answer = await carry(source, place, method, target, *rest)
        return replace(answer, body=orjson.dumps(told)) if "publicRooms" in target else answer

    monkeypatch.setattr(network, "carry", lie)
    assert await here.ask(alice, "GET", "/publicRooms", server="there.test") == {
        "chunk": [
            {
                "room_id": "!a:there.test",
                "num_joined_members": 0,
                "world_readable": False,
                "guest_can_join": False,
                "topic": "t",
            }
        ]
    }
    told["chunk"] = {}
    assert await here.ask(alice, "GET", "/publicRooms", server="there.test") == {"chunk": []}


@aio
async def test_nothing_comes_in_where_no_flow_leads(network: Network) -> None:
    here, _ = await network.found("here.test", policy=FLOWING), await network.found("there.test")
    answer = await here.refused(await here.user("alice"), "GET", "/publicRooms?server=there.test")
    assert answer.json["org.domicile.flow"] == {"from": "unknown", "to": "IR", "class": "events"}
    assert network.exchanges == []


@aio
async def test_servers_in_a_room_are_named(network: Network) -> None:
    here, there = await towns(network)
    alice, carol = await here.user("alice"), await there.user("carol")
    room_id = await there.create(carol, room_alias_name="hall")
    room = await state.get(there.node("tehran"), room_id)
    others = room.now.servers.update({"far.test": 3, "near.test": 1})
    room.now = room.head = replace(room.now, servers=others)
    found = await here.ask(alice, "GET", f"/directory/room/{quote('#hall:there.test')}")
    assert found["servers"] == ["there.test", "far.test", "near.test"]
