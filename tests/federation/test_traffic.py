"""The bytes that cross borders are counted."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.control import commands
from homeserver.residency import traffic
from tests.federation import guests
from tests.federation.meetings import enter
from tests.federation.test_outgoing_edus import ABROAD, letting, meeting
from tests.federation.test_sender import ONE, TWO, sent
from tests.federation.test_spaces import put
from tests.federation.test_third_party import ON_BIND, invite_by_address, notice
from tests.network import Exchange, Network
from tests.rooms.play import Play
from tests.support import aio

BOTH = ABROAD + "".join(
    f'[[flows]]\nfrom = "{here}"\nto = ["DE"]\nclasses = ["*"]\nconsent = false\n' for here in ("IR", "FR")
)


async def table(play: Play) -> dict[tuple[str, str], int]:
    """The bytes of each pair of jurisdictions, as the command line shows them."""
    shown = (await commands.perform(play.server, "residency-traffic", {}))["traffic"]
    return {(each["from"], each["to"]): each["bytes"] for each in shown}


@aio
async def test_what_is_sent_is_counted_between_its_jurisdictions(network: Network) -> None:
    one, alice, _, room_id = await meeting(network, letting("*"))
    await one.send(alice, room_id, "hello")
    await network.settle()
    (transaction,) = sent(network, ONE, TWO)
    pairs = await table(one)
    assert pairs["IR", "DE"] == len(transaction.body)
    assert pairs["DE", "IR"] == len(transaction.answer)
    theirs = await table(network.plays[TWO])
    assert theirs["unknown", "deployment"] >= len(transaction.body), "it has no such room, so no node is concerned"


def asked(network: Network, since: int, source: str, destination: str) -> list[Exchange]:
    """What one server has asked of another under its signature after the first ``since`` exchanges."""
    return [
        each
        for each in network.exchanges[since:]
        if (each.source, each.destination) == (source, destination) and "/key/" not in each.target
    ]


@pytest.mark.parametrize(("node", "place"), [("tehran", "IR"), ("paris", "FR")])
@aio
async def test_what_another_server_asks_and_is_answered_is_counted_where_its_node_is(
    network: Network, node: str, place: str
) -> None:
    one, two = await network.found(ONE, policy=BOTH), await network.found(TWO)
    alice, bob = await one.user("alice", node), await two.user("bob")
    room_id = await one.create(alice, preset="public_chat")
    await enter(two, bob, room_id, ONE)  # the answer of which is a stream
    event_id = await two.send(bob, room_id, "hello")
    await network.settle()
    await guests.asks(two, ONE, "GET", f"/event/{quote(event_id)}")
    await guests.asks(two, ONE, "GET", f"/state_ids/{quote(room_id)}", event_id=event_id)
    await guests.asks(two, ONE, "GET", "/query/profile", user_id=alice.user_id)
    await guests.asks(two, ONE, "GET", f"/user/devices/{alice.user_id}")
    await guests.asks(two, ONE, "POST", "/user/keys/query", {"device_keys": {alice.user_id: []}})
    inward, outward = asked(network, 0, TWO, ONE), asked(network, 0, ONE, TWO)
    assert [each.status for each in inward] == [200] * len(inward)
    pairs = await table(one)
    assert pairs[place, "DE"] == sum(len(each.answer) for each in inward) + sum(len(each.body) for each in outward)
    assert pairs["DE", place] == sum(len(each.body) for each in inward) + sum(len(each.answer) for each in outward)


@aio
async def test_what_concerns_nodes_of_several_jurisdictions_is_the_deployment_s(network: Network) -> None:
    one, _, _, _ = await meeting(network, letting("*"))
    await one.user("dora", "paris")
    two = network.plays[TWO]
    await guests.asks(two, ONE, "POST", "/user/keys/query", {"device_keys": {f"@alice:{ONE}": []}})
    before = await table(one)
    wanted: dict[str, list[str]] = {f"@{name}:{ONE}": [] for name in ("alice", "dora")}
    await guests.asks(two, ONE, "POST", "/user/keys/query", {"device_keys": wanted})
    first, second = asked(network, 0, TWO, ONE)
    pairs = await table(one)
    assert pairs["IR", "DE"] == before["IR", "DE"] == len(first.answer)
    assert pairs[traffic.DEPLOYMENT, "DE"] == len(second.answer)
    assert pairs["DE", traffic.DEPLOYMENT] == before["DE", traffic.DEPLOYMENT] + len(second.body)


@aio
async def test_what_did_not_leave_is_not_counted(network: Network) -> None:
    one, alice, _, room_id = await meeting(network, letting("*"))
    network.cut(ONE, TWO)
    await one.send(alice, room_id, "hello")
    await network.settle()
    assert await table(one) == {}


@aio
async def test_answers_about_rooms_are_counted_where_they_come_from(network: Network) -> None:
    one, two = await network.found(ONE, policy=BOTH), await network.found(TWO)
    alice, dora = await one.user("alice"), await one.user("dora", "paris")
    wish: dict[str, Any] = {"preset": "public_chat", "visibility": "public"}
    hers = await one.create(alice, **wish, creation_content={"type": "m.space"}, room_alias_name="hers")
    await guests.asks(two, ONE, "GET", "/publicRooms")
    await guests.asks(two, ONE, "POST", "/publicRooms", {"filter": {"room_types": ["m.space"]}})
    await guests.asks(two, ONE, "GET", "/query/directory", room_alias=f"#hers:{ONE}")
    await guests.asks(two, ONE, "GET", f"/hierarchy/{quote(hers)}")
    first = asked(network, 0, TWO, ONE)
    pairs = await table(one)
    assert pairs["IR", "DE"] == sum(len(each.answer) for each in first)
    assert pairs["DE", "IR"] == sum(len(each.body) for each in first)
    his = await one.create(dora, **wish, name="his")
    await put(one, alice, hers, his)
    seen = len(network.exchanges)
    for path in ("/publicRooms", f"/hierarchy/{quote(hers)}"):
        await guests.asks(two, ONE, "GET", path)
    second = asked(network, seen, TWO, ONE)
    rooms = [each for answer in second for each in parts(orjson.loads(answer.answer))]
    grown = {pair: size - pairs.get(pair, 0) for pair, size in (await table(one)).items()}
    for room_id, place in ((hers, "IR"), (his, "FR")):
        told = sum(len(orjson.dumps(each)) for each in rooms if each["room_id"] == room_id)
        assert grown[place, "DE"] == told > 0
    assert sum(grown.values()) == sum(len(each.answer) for each in second)


def parts(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The rooms of which an answer tells."""
    return [*answer.get("chunk", ()), *([answer["room"]] if "room" in answer else []), *answer.get("children", ())]


@pytest.mark.parametrize(("node", "place"), [("tehran", "IR"), ("paris", "FR")])
@aio
async def test_what_a_user_asks_elsewhere_is_counted_where_they_are_at_home(
    network: Network, node: str, place: str
) -> None:
    one, two = await network.found(ONE, policy=BOTH), await network.found(TWO)
    alice, bob = await one.user("alice", node), await two.user("bob")
    room_id = await two.create(bob, preset="public_chat", visibility="public", room_alias_name="far")
    await one.ask(alice, "GET", "/publicRooms", server=TWO)
    await one.ask(alice, "GET", f"/directory/room/{quote(f'#far:{TWO}')}")
    summary = await alice.asks("GET", f"/_matrix/client/v1/room_summary/{quote(room_id)}", via=TWO)
    assert summary.status == 200
    await invite_by_address(two, bob, room_id)
    answer = await one.deployment.asked("PUT", ON_BIND, notice(room_id, bob, alice))
    assert answer.status == 200
    outward, inward = asked(network, 0, ONE, TWO), asked(network, 0, TWO, ONE)
    assert {each.target.partition("?")[0].split("/")[4] for each in outward} == {
        "publicRooms",
        "query",
        "hierarchy",
        "exchange_third_party_invite",
    }
    assert [each.target.split("/")[4] for each in inward] == ["invite"]
    pairs = await table(one)
    assert pairs[place, "DE"] == sum(len(each.body) for each in outward) + sum(len(each.answer) for each in inward)
    assert pairs["DE", place] == sum(len(each.answer) for each in outward) + sum(len(each.body) for each in inward)
    theirs = await table(two)
    assert theirs["IR", "unknown"] == sum(len(each.answer) for each in outward) + sum(len(each.body) for each in inward)
