"""Profiles of other servers' users."""

from __future__ import annotations

import pytest

from federation import remote
from federation.profiles import KEPT, NO_KEPT
from tests.deployment import FLOWING
from tests.network import Network
from tests.rooms.play import CLIENT, Play
from tests.support import aio

BOB = "/profile/@bob:there.test"
QUERY = "/_matrix/federation/v1/query/profile"


async def towns(network: Network) -> tuple[Play, Play]:
    here, there = await network.found("here.test"), await network.found("there.test")
    bob = await there.user("bob", "paris")
    for name, value in (("displayname", "Bob"), ("m.tz", "Europe/Paris"), ("org.example.x", {"y": 1})):
        await there.ask(bob, "PUT", f"{BOB}/{name}", {name: value})
    return here, there


@aio
async def test_a_profile_of_another_server(network: Network) -> None:
    here, _ = await towns(network)
    alice = await here.user("alice")
    whole = {"displayname": "Bob", "m.tz": "Europe/Paris", "org.example.x": {"y": 1}}
    assert await here.ask(alice, "GET", BOB) == whole
    assert await here.ask(alice, "GET", f"{BOB}/displayname") == {"displayname": "Bob"}
    assert (await here.refused(alice, "GET", f"{BOB}/avatar_url")).status == 404
    assert sum(exchange.target.startswith(QUERY) for exchange in network.exchanges) == 1
    anybody = await here.deployment.asked("GET", CLIENT + BOB)
    assert anybody.status == 404, "nobody makes us ask others who is not our user"


@aio
async def test_what_was_answered_is_remembered_for_a_while(network: Network) -> None:
    here, there = await towns(network)
    alice = await here.user("alice")
    await here.ask(alice, "GET", BOB)
    before = len(network.exchanges)
    await network.clock.advance(KEPT - 1)
    await here.ask(alice, "GET", BOB)
    assert len(network.exchanges) == before
    await network.clock.advance(2)
    await here.ask(alice, "GET", BOB)
    assert len(network.exchanges) == before + 1
    for _ in range(2):
        assert (await here.refused(alice, "GET", "/profile/@carol:there.test")).errcode == "M_NOT_FOUND"
    assert len(network.exchanges) == before + 2
    await there.user("carol")
    await network.clock.advance(NO_KEPT + 1)
    assert await here.ask(alice, "GET", "/profile/@carol:there.test") == {}


@aio
async def test_a_server_out_of_reach(network: Network) -> None:
    here, _ = await towns(network)
    alice = await here.user("alice")
    network.cut("here.test", "there.test")
    for path in (BOB, "/profile/@x:nowhere.test", "/profile/@x:HERE.test"):
        assert (await here.refused(alice, "GET", path)).status == 502


@aio
async def test_one_field_is_told_alone(network: Network) -> None:
    here, _ = await towns(network)

    for query, expected in (
        ("user_id=@bob:there.test&field=displayname", {"displayname": "Bob"}),
        ("user_id=@bob:there.test&field=none", {}),
    ):
        answer = await remote.ask(here.server, "there.test", "GET", f"{QUERY}?{query}", most=1000)
        assert answer == expected
    for query, status in (
        ("x=y", 400),
        ("user_id=bob", 400),
        ("user_id=@x:here.test", 404),
        ("user_id=@x:there.test", 404),
    ):
        with pytest.raises(remote.RemoteRefusal) as refusal:
            await remote.ask(here.server, "there.test", "GET", f"{QUERY}?{query}", most=1000)
        assert refusal.value.status == status
    with pytest.raises(remote.RemoteRefusal) as refusal:
        await remote.ask(here.server, "there.test", "GET", "/_matrix/federation/v1/query/other", most=1000)
    assert (refusal.value.status, refusal.value.errcode) == (404, "M_UNRECOGNIZED")


@aio
async def test_no_profile_comes_in_where_no_flow_leads(network: Network) -> None:
    here, _ = await network.found("here.test", policy=FLOWING), await network.found("there.test")
    answer = await here.refused(await here.user("alice"), "GET", BOB)
    assert answer.json["org.domicile.flow"] == {"from": "unknown", "to": "IR", "class": "profile"}
    assert network.exchanges == []
