"""Sending to other servers: whole, in order, when it can be, and not what a server was not there for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation.reach import SOON
from federation.sender import FIRST_PAUSE, SAVED_AFTER
from federation.transactions import MOST_PDUS
from homeserver.rooms.outgoing import MOST_WAITING, Lines
from homeserver.storage import peers
from homeserver.web.messages import Response
from tests.deployment import User
from tests.federation import guests
from tests.network import Exchange, Network
from tests.rooms.play import Play
from tests.support import aio

ONE, TWO, THREE = "one.test", "two.test", "three.test"
LONG = 3 * 3600.0
"""Seconds that are longer than any pause."""


def sent(network: Network, source: str, destination: str) -> list[Exchange]:
    """The transactions that a server has sent to another, also those that were not answered."""
    return [
        each
        for each in network.exchanges
        if (each.source, each.destination) == (source, destination) and "/send/" in each.target
    ]


def contents(exchange: Exchange) -> dict[str, Any]:
    """What a transaction says."""
    found: dict[str, Any] = orjson.loads(exchange.body)
    return found


def texts(network: Network, source: str, destination: str) -> list[str]:
    """The ciphertexts that have been taken, in order."""
    return [
        pdu["content"]["ciphertext"]
        for each in sent(network, source, destination)
        if each.status == 200
        for pdu in contents(each)["pdus"]
        if pdu["type"] == "m.room.encrypted"
    ]


def kinds(network: Network, source: str, destination: str) -> list[str]:
    """The types of the events that have been taken, in order."""
    found = [contents(each)["pdus"] for each in sent(network, source, destination) if each.status == 200]
    return [pdu["type"] for pdus in found for pdu in pdus]


async def said(play: Play, user: User, room_id: str, count: int) -> list[str]:
    """Send so many messages; returns their ciphertexts."""
    for number in range(count):
        await play.send(user, room_id, f"message {number}")
    page = await play.timeline(user, room_id)
    return [event["content"]["ciphertext"] for event in page if event["type"] == "m.room.encrypted"][-count:]


async def meeting(network: Network) -> tuple[Play, User, str]:
    """A room of alice on the first server, of which the second believes to have a member there; settled."""
    one, two = await network.found(ONE), await network.found(TWO)
    alice, bob = await one.user("alice"), await two.user("bob")
    room_id = await one.create(alice, preset="public_chat")
    await guests.member(network, one, room_id, bob, "join")
    return one, alice, room_id


@pytest.fixture(params=["from memory", "from the database"])
def sending(request: pytest.FixtureRequest) -> Callable[[Play], AbstractAsyncContextManager[None]]:
    """While it is entered things happen on a server, which are sent as they happen; or afterwards, after a restart."""

    @asynccontextmanager
    async def entered(play: Play) -> AsyncIterator[None]:
        if request.param == "from memory":
            yield
        else:
            await play.end()
            yield
            await play.begin()

    return entered


Sending = Callable[[Play], AbstractAsyncContextManager[None]]


@aio
async def test_a_server_is_sent_what_comes_after_it_has_come(network: Network, sending: Sending) -> None:
    one, two = await network.found(ONE), await network.found(TWO)
    alice, bob = await one.user("alice"), await two.user("bob")
    cleo = await (await network.found(THREE)).user("cleo")
    room_id, other = await one.create(alice, preset="public_chat"), await one.create(alice)
    async with sending(one):
        await guests.member(network, one, room_id, cleo, "join")
        await one.send(alice, room_id, "before")
        await one.send(alice, other, "elsewhere")
        await guests.invitation(network, one, room_id, alice, bob)
        await guests.member(network, one, room_id, bob, "join")
        after = await said(one, alice, room_id, 3)
    await network.settle()
    assert texts(network, ONE, TWO) == after
    assert texts(network, ONE, THREE)[1:] == after
    assert kinds(network, ONE, TWO) == ["m.room.encrypted"] * 3
    assert [line for node in one.server.nodes for line in node.memory(Lines).held] == []


@aio
async def test_a_server_is_told_who_was_thrown_out_and_nothing_more(network: Network, sending: Sending) -> None:
    one, alice, room_id = await meeting(network)
    carol = await network.plays[TWO].user("carol")
    cleo = await (await network.found(THREE)).user("cleo")
    async with sending(one):
        await guests.member(network, one, room_id, cleo, "join")
        await one.send(alice, room_id, "there")
        await guests.member(network, one, room_id, carol, "join")
        await one.change(alice, room_id, "kick", user_id=carol.user_id)
        await one.change(alice, room_id, "kick", user_id=f"@bob:{TWO}")
        await one.send(alice, room_id, "gone")
        await guests.member(network, one, room_id, carol, "join")
        await one.send(alice, room_id, "back")
    await network.settle()
    assert len(texts(network, ONE, THREE)) == 3
    assert kinds(network, ONE, TWO) == ["m.room.encrypted", "m.room.member", "m.room.member", "m.room.encrypted"]


@aio
async def test_that_an_invitation_is_taken_back_reaches_a_server_outside(network: Network, sending: Sending) -> None:
    one, two = await network.found(ONE), await network.found(TWO)
    alice, bob = await one.user("alice"), await two.user("bob")
    room_id = await one.create(alice)
    async with sending(one):
        await guests.invitation(network, one, room_id, alice, bob)
        await one.send(alice, room_id, "not for bob")
        await one.change(alice, room_id, "kick", user_id=bob.user_id)
        await one.send(alice, room_id, "nor this")
    await network.settle()
    (transaction,) = sent(network, ONE, TWO)
    (pdu,) = contents(transaction)["pdus"]
    assert (pdu["type"], pdu["state_key"], pdu["content"]["membership"]) == ("m.room.member", bob.user_id, "leave")


@aio
async def test_what_waits_for_long_arrives_whole_and_in_order(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    network.cut(ONE, TWO)
    written = await said(one, alice, room_id, MOST_WAITING + 75)
    await network.settle()
    assert texts(network, ONE, TWO) == []
    network.mend(ONE, TWO)
    await network.clock.advance(LONG)
    await network.settle()
    assert texts(network, ONE, TWO) == written
    assert max(len(contents(each)["pdus"]) for each in sent(network, ONE, TWO)) == MOST_PDUS


@aio
async def test_what_was_written_before_a_restart_is_sent_after_it(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    await one.end()
    written = await said(one, alice, room_id, 60)
    assert sent(network, ONE, TWO) == []
    await one.begin()
    await network.settle()
    assert texts(network, ONE, TWO) == written


@aio
async def test_an_answer_that_was_lost_is_asked_for_with_the_same_transaction(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    network.lose_answers(ONE, TWO)
    await one.send(alice, room_id, "once")
    await network.settle()
    await one.send(alice, room_id, "later")
    network.mend(ONE, TWO)
    await network.clock.advance(LONG)
    await network.settle()
    first, second, third = sent(network, ONE, TWO)
    assert (first.target, first.body) == (second.target, second.body)
    assert (first.status, second.status) == (None, 200)
    assert third.target != second.target
    assert len(contents(third)["pdus"]) == 1


@aio
async def test_a_server_that_is_away_costs_a_timer_and_longer_pauses(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    network.cut(ONE, TWO)
    node = one.node("tehran")
    pauses = []
    await one.send(alice, room_id, "hello")
    for _ in range(4):
        await network.settle()
        line = node.memory(Lines).held[TWO]
        assert (line.task, len(line.queue)) == (None, 0)
        began, tries = network.clock.monotonic(), line.failures
        while line.failures == tries:
            await network.clock.advance(0.25)
            await network.settle()
        pauses.append(network.clock.monotonic() - began)
    assert all(later > 1.3 * earlier for earlier, later in pairwise(pauses))
    assert 0.5 * FIRST_PAUSE <= pauses[0] <= 1.5 * FIRST_PAUSE


@aio
async def test_a_pause_outlives_a_restart(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    network.cut(ONE, TWO)
    await one.send(alice, room_id, "hello")
    for _ in range(8):
        await network.clock.advance(60)
        await network.settle()
    node = one.node("tehran")
    failures = node.memory(Lines).held[TWO].failures
    assert failures > 5
    await one.end()
    assert (await node.read(peers.find, TWO)).failures == failures
    network.mend(ONE, TWO)
    await one.begin()
    await network.settle()
    assert sent(network, ONE, TWO) == []
    await network.clock.advance(LONG)
    await network.settle()
    assert len(texts(network, ONE, TWO)) == 1


@aio
async def test_a_server_that_is_heard_from_is_tried_at_once(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    assert await guests.refusal(network.plays[TWO], ONE, "GET", "/event/$nothing")  # from here on its key is known
    network.cut(ONE, TWO)
    await one.send(alice, room_id, "hello")
    for _ in range(8):
        await network.clock.advance(60)
        await network.settle()
    line = one.node("tehran").memory(Lines).held[TWO]
    while network.clock.monotonic() - line.tried < SOON:
        await network.clock.advance(SOON)
        await network.settle()
    network.mend(ONE, TWO)
    assert await guests.refusal(network.plays[TWO], ONE, "GET", "/event/$nothing")
    await network.settle()
    assert len(texts(network, ONE, TWO)) == 1


@aio
async def test_what_was_taken_is_not_sent_again(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    await said(one, alice, room_id, 3)
    await network.settle()
    await network.clock.advance(SAVED_AFTER)
    await one.end()
    taken = len(sent(network, ONE, TWO))
    await one.begin()
    await network.settle()
    assert len(sent(network, ONE, TWO)) == taken
    await one.send(alice, room_id, "new")
    await network.settle()
    assert len(texts(network, ONE, TWO)) == 4


@aio
async def test_each_event_is_sent_by_one_node_and_not_to_where_it_came_from(network: Network) -> None:
    one, two = await network.found(ONE), await network.found(TWO)
    alice, claire, bob = await one.user("alice"), await one.user("claire", "paris"), await two.user("bob")
    room_id = await one.create(alice, preset="public_chat")
    await guests.member(network, one, room_id, bob, "join")
    await one.change(claire, room_id, "join")
    await one.settle()
    await one.send(claire, room_id, "from paris")
    await guests.message(network, one, room_id, bob, "from afar")
    await one.send(alice, room_id, "from tehran")
    await network.settle()
    assert kinds(network, ONE, TWO) == ["m.room.member", "m.room.encrypted", "m.room.encrypted"]
    paris = await one.replica("paris", room_id)
    assert dict(paris.now.servers) == {TWO: 1}


@aio
async def test_while_the_home_of_a_room_is_down_another_node_sends(network: Network) -> None:
    one, two = await network.found(ONE, breakable=True), await network.found(TWO)
    alice, claire, bob = await one.user("alice"), await one.user("claire", "paris"), await two.user("bob")
    room_id = await one.create(alice, preset="public_chat")
    await guests.member(network, one, room_id, bob, "join")
    await one.change(claire, room_id, "join")
    await network.settle()
    await one.end()
    databases = network.databases_of(ONE)
    await databases.take_away("tehran")
    await one.node("tehran").engine.probe()
    await one.begin()
    event_id = await one.send(claire, room_id, "from paris")
    await one.ask(claire, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})
    await network.settle()
    assert kinds(network, ONE, TWO) == ["m.room.member", "m.room.encrypted"]
    assert [edu["edu_type"] for each in sent(network, ONE, TWO) for edu in contents(each)["edus"]] == ["m.receipt"]
    await databases.bring_back("tehran")


@aio
async def test_a_transaction_at_which_a_server_takes_offence_stops_nothing_else(network: Network) -> None:
    one, alice, room_id = await meeting(network)
    network.cut(ONE, TWO)
    written = await said(one, alice, room_id, 7)
    await network.settle()
    network.mend(ONE, TWO)
    site = network.plays[TWO].deployment.site
    call = site.call

    async def offended(method: str, target: str, **rest: Any) -> Response:
        if written[3].encode() in rest["body"]:
            return Response(400, b'{"errcode":"M_BAD_JSON","error":"No"}')
        return await call(method, target, **rest)

    site.call = offended  # type: ignore[method-assign]
    await network.clock.advance(LONG)
    await network.settle()
    assert texts(network, ONE, TWO) == [*written[:3], *written[4:]]
    refused = one.server.telemetry.counter("domicile_federation_not_taken", "", ["kind"])
    assert refused.value("event") >= 1
