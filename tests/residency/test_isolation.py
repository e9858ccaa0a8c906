"""Declared isolation: domestic service goes on, nothing crosses the border, nothing is lost, and what waits is judged
by the policy of the day on which it goes.
"""

from __future__ import annotations

from urllib.parse import quote

import pytest

from config.load import policy_from_text
from homeserver.protocol.errors import Conflict, InvalidParam
from homeserver.residency import isolation
from homeserver.storage import outbox
from tests.deployment import FLOWING, POLICY, Answer
from tests.e2ee.play import KeyPlay, message
from tests.e2ee.test_to_device import contents
from tests.federation.meetings import enter, kept_out
from tests.network import Network
from tests.rooms.play import CLIENT, Play, ciphertext
from tests.support import aio

REOPENED = 12.0
"""Seconds after which everybody has asked whether the border is open again."""


async def waiting(play: Play, source: str, destination: str) -> int:
    return (await play.node(source).read(outbox.depth)).get(destination, 0)


async def all_arrived(play: Play) -> None:
    """Wait until nothing waits between the nodes any more, however often it has to be asked whether it may go."""
    for source, destination in (("tehran", "paris"), ("paris", "tehran")):
        while await waiting(play, source, destination):
            await play.deployment.clock.advance(REOPENED)
    await play.settle()


@aio
async def test_rooms_go_on_on_both_sides_and_come_together(play: Play) -> None:
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.room_of(alice, bob, dora)
    await play.send(alice, room_id, "before")
    await play.settle()
    await isolation.declare(play.server, "IR", "links are cut")
    await play.send(alice, room_id, "in Tehran")
    await play.send(bob, room_id, "in Paris")
    await play.deployment.clock.advance(REOPENED)
    await play.settle()
    assert await play.texts(alice, room_id) == ["before", "in Tehran"]
    assert await play.texts(dora, room_id) == ["before", "in Paris"]
    assert await waiting(play, "tehran", "paris") > 0
    assert await waiting(play, "paris", "tehran") > 0
    await isolation.release(play.server, "IR")
    await all_arrived(play)
    await play.assert_equal(room_id, ordered=False)
    assert sorted(await play.texts(alice, room_id)) == ["before", "in Paris", "in Tehran"]
    assert await waiting(play, "tehran", "paris") == 0


@aio
async def test_no_relation_comes_to_be_over_the_border(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, preset="public_chat")
    await isolation.declare(play.server, "FR", "")
    for user, path, body in (
        (alice, f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id}),
        (bob, f"/join/{quote(room_id)}", {}),
    ):
        refused = await play.refused(user, "POST", path, body)
        assert (refused.status, refused.json["org.domicile.reason"]) == (403, "isolated")
        assert "France (FR) is isolated" in refused.json["error"]
    await isolation.release(play.server, "FR")
    await play.change(bob, room_id, "join")


@aio
async def test_what_waits_is_judged_by_the_policy_of_the_day(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    await isolation.declare(play.server, "IR", "")
    await play.send(alice, room_id, "not any more")
    play.server.policy.now = policy_from_text(POLICY, "residency.toml", play.server.name)
    assert play.server.policy.now.isolated == {"IR"}  # whichever policy is in force
    await isolation.release(play.server, "IR")
    await play.deployment.clock.advance(REOPENED)
    await play.settle()
    assert await play.texts(bob, room_id) == []
    play.server.policy.now = policy_from_text(FLOWING, "residency.toml", play.server.name)
    await play.deployment.clock.advance(REOPENED)
    await all_arrived(play)
    assert await play.texts(bob, room_id) == ["not any more"]


@aio
async def test_messages_to_devices_wait(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await isolation.declare(play.server, "IR", "")
    assert (await alice.send("t1", {bob.user_id: {bob.device_id: message("hi")}})).status == 200
    await alice.send("t1", {bob.user_id: {bob.device_id: message("hi")}})
    await play.settle()
    assert contents(await bob.sync()) == []
    await isolation.release(play.server, "IR")
    await all_arrived(play)
    assert contents(await bob.sync()) == [message("hi")]


@aio
async def test_other_servers_get_everything_later_and_nothing_now(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    other = await network.found("other.test")
    alice, carol, bob = await here.user("alice"), await here.user("carol", "paris"), await there.user("bob")
    iranian, french = await here.create(alice, preset="public_chat"), await here.create(carol, preset="public_chat")
    for room_id in (iranian, french):
        await enter(there, bob, room_id, "here.test")
    await network.settle()
    before = len(network.exchanges)
    await isolation.declare(here.server, "IR", "")
    await here.send(alice, iranian, "Salaam")
    await here.send(carol, french, "Salut")
    await there.send(bob, iranian, "Hallo")  # it has crossed: it is taken in
    await network.clock.advance(60)
    await network.settle()
    sent = b"".join(each.body for each in network.exchanges[before:] if each.source == "here.test")
    assert await here.texts(alice, iranian) == ["Salaam", "Hallo"]
    assert await there.texts(bob, french) == ["Salut"]
    assert await there.texts(bob, iranian) == ["Hallo"]
    assert iranian.encode() not in sent
    assert french.encode() in sent
    await kept_out(await other.user("eve"), iranian, "here.test")
    await isolation.release(here.server, "IR")
    await network.clock.advance(REOPENED)
    await network.settle()
    assert sorted(await there.texts(bob, iranian)) == ["Hallo", "Salaam"]


@aio
async def test_it_lasts_over_a_restart(play: Play) -> None:
    await isolation.declare(play.server, "IR", "links are cut")
    play.server.policy.isolated = frozenset()
    await isolation.load(play.server)
    assert play.server.policy.isolated == {"IR"}
    (declared,) = await isolation.declared(play.server)
    assert (declared.jurisdiction, declared.reason) == ("IR", "links are cut")


@aio
async def test_what_cannot_be_declared(play: Play) -> None:
    with pytest.raises(InvalidParam, match="nodes stand in FR, IR"):
        await isolation.declare(play.server, "DE", "")
    with pytest.raises(Conflict):
        await isolation.release(play.server, "IR")
    await isolation.declare(play.server, "IR", "")
    with pytest.raises(Conflict):
        await isolation.declare(play.server, "IR", "")


@aio
async def test_a_repeated_request_finds_its_event_on_either_side(play: Play) -> None:
    """A send whose answer was lost is repeated when there is no way to the node that may have ordered it."""
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(bob, room_id, "once", "t1")
    await isolation.declare(play.server, "IR", "")
    again = await bob.asks("PUT", f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.encrypted/t1", ciphertext("once"))
    assert again.status == 503 or again.json["event_id"] == event_id
    await isolation.release(play.server, "IR")
    await all_arrived(play)
    assert await play.send(bob, room_id, "once", "t1") == event_id
    assert await play.texts(alice, room_id) == ["once"]


@aio
async def test_the_command_line_declares_and_releases_it(play: Play) -> None:
    async def asked(command: str, **arguments: str) -> Answer:
        return await play.deployment.asked("POST", f"/_domicile/v1/control/isolation-{command}", arguments)

    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    assert (await asked("on", jurisdiction="IR", reason="links are cut")).json["jurisdiction"] == "IR"
    assert (await asked("on", jurisdiction="IR")).status == 409
    assert (await asked("on")).errcode == "M_MISSING_PARAM"
    await play.send(alice, room_id, "waits")
    status = (await asked("status")).json
    assert [each["reason"] for each in status["isolated"]] == ["links are cut"]
    assert {each["node"]: each["rows_for_nodes"] for each in status["waiting"]} == {"tehran": {"paris": 1}, "paris": {}}
    assert (await asked("off", jurisdiction="IR")).status == 200
    await all_arrived(play)
    assert (await asked("status")).json["isolated"] == []
