"""The bytes that cross borders are counted."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from homeserver import control
from homeserver.residency import traffic
from tests.federation import guests
from tests.federation.meetings import enter
from tests.federation.test_outgoing_edus import ABROAD, letting, meeting
from tests.federation.test_sender import ONE, TWO, sent
from tests.network import Exchange, Network
from tests.rooms.play import Play
from tests.support import aio


async def table(play: Play) -> dict[tuple[str, str], int]:
    """The bytes of each pair of jurisdictions, as the command line shows them."""
    shown = (await control.perform(play.server, "residency-traffic", {}))["traffic"]
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
    policy = ABROAD + "".join(
        f'[[flows]]\nfrom = "{here}"\nto = ["DE"]\nclasses = ["*"]\nconsent = false\n' for here in ("IR", "FR")
    )
    one, two = await network.found(ONE, policy=policy), await network.found(TWO)
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
