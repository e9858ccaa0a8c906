"""Servers that could not be reached a short while ago: users' questions to them wait for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest

from federation import asking_rooms, backfill, directory, gaps, reach
from federation.reach import Absences
from homeserver.protocol.errors import ServerUnreachable
from homeserver.rooms import state
from homeserver.rooms.outgoing import Lines
from homeserver.runtime.exchange import Answer, Fault, Unreachable
from homeserver.runtime.outbound import Place
from homeserver.storage import events, peers
from tests.deployment import User
from tests.e2ee.play import Device
from tests.federation import guests
from tests.federation.forging import scene, third
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

HERE, THERE = "here.test", "there.test"


class Dead:
    """Servers that take requests and never answer; ``asked`` are those that were tried, by name."""

    def __init__(self, network: Network, *names: str) -> None:
        self.asked: list[str] = []
        self.names = set(names)
        self.arrivals: asyncio.Queue[str] = asyncio.Queue()
        self.answers: int | None = None
        self.says = b"{}"
        self._carry = network.carry
        network.carry = self.carry  # type: ignore[method-assign]

    async def carry(
        self, source: str, place: Place, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """`Network.carry`, but for those."""
        name = place.targets[0].host
        if name not in self.names:
            return await self._carry(source, place, method, target, headers, body)
        if "/.well-known/" in target:
            raise Unreachable(Fault.CONNECTION, "nobody listens there")
        self.asked.append(name)
        self.arrivals.put_nowait(name)
        if self.answers is not None:
            return Answer(self.answers, {}, self.says)
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def has_been_asked(self, names: set[str]) -> None:
        """Wait until each of these has been asked once more."""
        left = set(names)
        while left:
            left.discard(await self.arrivals.get())


async def query(user: Device, *names: str, wait_ms: int = 10_000) -> dict[str, Any]:
    """Ask for the keys of a user of each of these servers, and wait so many milliseconds for them."""
    wanted = {f"@x:{name}": list[str]() for name in names}
    return await user.gets("POST", "/keys/query", {"device_keys": wanted, "timeout": wait_ms})


async def wait_in_vain(network: Network, dead: Dead, user: Device, seconds: float = 10.0) -> None:
    """Ask the dead servers, and wait for so long."""
    asking = asyncio.ensure_future(query(user, *dead.names, wait_ms=200))
    await dead.has_been_asked(dead.names)
    await network.clock.advance(seconds)
    assert set((await asking)["failures"]) == dead.names


def absence(play: Play, name: str) -> reach.Absence | None:
    """What is remembered of a server."""
    return play.server.nodes.directory.memory(Absences).held.get(name)


async def away(network: Network) -> tuple[Play, Play, User]:
    """Two servers of which the first knows the keys of the other, has found it to be away, and has a user."""
    here, there = await network.found(HERE), await network.found(THERE)
    await guests.refusal(there, HERE, "GET", "/event/$nothing")
    alice = await here.user("alice")
    network.cut(HERE, THERE)
    assert set((await query(Device(alice), THERE))["failures"]) == {THERE}
    return here, there, alice


def mend(network: Network) -> None:
    """Let the servers reach each other, of which nobody knows yet."""
    network._cut.clear()


@aio
async def test_twenty_servers_that_are_silent_are_waited_for_once(network: Network) -> None:
    here = await network.found(HERE)
    alice = Device(await here.user("alice"))
    names = [f"dead{number}.test" for number in range(20)]
    dead = Dead(network, *names)
    await wait_in_vain(network, dead, alice)
    assert sorted(dead.asked) == sorted(names)
    for _ in range(3):
        answer = await query(alice, *names, wait_ms=60_000)
        assert set(answer["failures"]) == set(names)
        assert answer["failures"]["dead0.test"]["error"] == "dead0.test could not be reached a short while ago"
    claim = {"one_time_keys": {f"@x:{name}": {"D": "signed_curve25519"} for name in names}}
    assert set((await alice.gets("POST", "/keys/claim", claim))["failures"]) == set(names)
    profile = await here.refused(alice.user, "GET", f"/profile/{quote('@x:dead0.test')}")
    alias = await here.refused(alice.user, "GET", f"/directory/room/{quote('#x:dead1.test')}")
    assert (profile.status, alias.status) == (502, 502)
    assert len(dead.asked) == 20, "nobody was asked again"
    assert here.server.telemetry.counter("domicile_federation_not_asked", "").value() == 82


@aio
async def test_who_waits_for_a_moment_only_says_nothing_about_a_server(network: Network) -> None:
    here = await network.found(HERE)
    alice = Device(await here.user("alice"))
    dead = Dead(network, "dead.test")
    await wait_in_vain(network, dead, alice, seconds=reach.LONG_ENOUGH - 1)
    assert absence(here, "dead.test") is None
    await wait_in_vain(network, dead, alice, seconds=reach.LONG_ENOUGH)
    assert absence(here, "dead.test") is not None


@aio
async def test_one_question_finds_out_whether_a_server_is_back(network: Network) -> None:
    here = await network.found(HERE)
    alice = Device(await here.user("alice"))
    dead = Dead(network, "dead.test")
    pauses = []
    for tries in range(1, 5):
        if tries == 1:
            await wait_in_vain(network, dead, alice)
        held = absence(here, "dead.test")
        assert held is not None
        pauses.append(held.until - network.clock.monotonic())
        await network.clock.advance(pauses[-1])
        asking = asyncio.ensure_future(query(alice, "dead.test", wait_ms=200))
        await dead.has_been_asked(dead.names)
        assert set((await query(alice, "dead.test", wait_ms=60_000))["failures"]) == {"dead.test"}
        assert len(dead.asked) == tries + 1, "one at a time"
        await network.clock.advance(10)
        await asking
    assert pauses == [10.0, 20.0, 40.0, 80.0]
    for _ in range(20):
        reach.failed(here.server, "dead.test", network.clock.monotonic(), Fault.CONNECTION)
    held = absence(here, "dead.test")
    assert held is not None
    assert held.until - network.clock.monotonic() == reach.LONGEST_PAUSE


@aio
async def test_a_server_that_answers_is_back_for_all(network: Network) -> None:
    here, _, alice = await away(network)
    phone = Device(alice)
    mend(network)
    assert set((await query(phone, THERE))["failures"]) == {THERE}
    await network.clock.advance(reach.FIRST_PAUSE)
    assert (await query(phone, THERE))["failures"] == {}
    assert absence(here, THERE) is None


@aio
async def test_a_server_that_is_heard_from_is_asked(network: Network) -> None:
    here, there, alice = await away(network)
    mend(network)
    await network.clock.advance(reach.SOON)
    await guests.refusal(there, HERE, "GET", "/event/$nothing")
    assert (await query(Device(alice), THERE))["failures"] == {}
    assert absence(here, THERE) is None


@aio
async def test_a_server_that_only_speaks_is_not_waited_for_again_and_again(network: Network) -> None:
    here, _, alice = await away(network)
    heard = 0
    for _ in range(5):
        await network.clock.advance(reach.SOON)
        reach.heard_from(here.server, THERE)
        heard += not reach.is_away(here.server, THERE)
        await query(Device(alice), THERE)
    assert heard == reach.MOST_IN_VAIN


@aio
async def test_what_a_user_does_is_tried_in_any_case(network: Network) -> None:
    here, there, alice = await away(network)
    bob = await there.user("bob")
    room_id = await here.create(alice)
    mend(network)
    assert reach.is_away(here.server, THERE)
    await here.change(alice, room_id, "invite", user_id=bob.user_id)
    assert not reach.is_away(here.server, THERE)


@pytest.mark.parametrize(("status", "is_away"), [(502, True), (503, True), (504, True), (500, False), (429, False)])
@aio
async def test_what_stands_before_a_server_may_say_that_it_is_away(
    network: Network, status: int, is_away: bool
) -> None:
    here = await network.found(HERE)
    dead = Dead(network, "dead.test")
    dead.answers = status
    await query(Device(await here.user("alice")), "dead.test")
    assert reach.is_away(here.server, "dead.test") == is_away


@aio
async def test_a_server_that_says_itself_why_it_cannot_answer_is_there(network: Network) -> None:
    here = await network.found(HERE)
    room_id, node = await here.create(await here.user("alice")), here.node("tehran")
    dead = Dead(network, "dead.test")
    dead.answers, dead.says = 503, b'{"errcode":"M_UNKNOWN","error":"a database is down"}'
    for ask in (directory.resolve_alias(here.server, node, "#x:dead.test"), whole_state(here, room_id)):
        reach.failed(here.server, "dead.test", network.clock.monotonic(), Fault.CONNECTION)
        await network.clock.advance(reach.FIRST_PAUSE)
        with pytest.raises(ServerUnreachable):
            await ask
        assert absence(here, "dead.test") is None
    assert dead.asked == ["dead.test"] * 2


async def whole_state(here: Play, room_id: str) -> None:
    """Ask the dead server for what may be large."""

    async def take(pdus: list[Any]) -> None:
        raise AssertionError(pdus)

    await asking_rooms.whole_state(here.server, here.node("tehran"), "dead.test", room_id, "$event", take)


@aio
async def test_what_is_sent_in_vain_counts_and_so_it_does_after_a_restart(network: Network) -> None:
    here, there = await network.found(HERE), await network.found(THERE)
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    await guests.member(network, here, room_id, bob, "join")
    await network.settle()
    network.cut(HERE, THERE)
    await here.send(alice, room_id, "hello")
    await network.settle()
    assert reach.is_away(here.server, THERE)
    node = here.node("tehran")
    await network.clock.advance(1)
    await here.end()
    assert (await node.read(peers.find, THERE)).failures
    here.server.nodes.directory.memory(Absences).held.clear()
    node.memory(Lines).held.clear()
    await here.begin()
    await network.settle()
    assert reach.is_away(here.server, THERE)


@pytest.mark.parametrize("fault", [Fault.TOO_LARGE, Fault.BROKEN])
@aio
async def test_a_server_whose_answer_cannot_be_used_is_there(network: Network, fault: Fault) -> None:
    here = await network.found(HERE)
    reach.failed(here.server, THERE, 0.0, fault)
    assert not reach.is_away(here.server, THERE)


@aio
async def test_failures_that_are_found_out_together_are_one(network: Network) -> None:
    here = await network.found(HERE)
    began = network.clock.monotonic()
    await network.clock.advance(3)
    for _ in range(10):
        reach.failed(here.server, THERE, began, Fault.CONNECTION)
    held = absence(here, THERE)
    assert held is not None
    assert (held.failures, held.until) == (1, 6.0)


@aio
async def test_history_is_asked_for_where_it_can_be_had(network: Network) -> None:
    here, there = await network.found(HERE), await network.found(THERE)
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    for guest in (bob, await there.user("bill"), await (await network.found("third.test")).user("cleo")):
        await guests.member(network, here, room_id, guest, "join")
    node = here.node("tehran")
    room = await state.get(node, room_id)
    assert await backfill.servers_of(here.server, node, room) == [THERE, "third.test"]
    reach.failed(here.server, THERE, network.clock.monotonic(), Fault.CONNECTION)
    assert await backfill.servers_of(here.server, node, room) == ["third.test", THERE]


@aio
async def test_a_gap_is_filled_by_who_can_be_reached(network: Network) -> None:
    made = await scene(network)
    play, _ = await third(made)
    last = await made.there.send(made.bob, made.room_id, "hello")
    await network.settle()
    node = made.there.node("tehran")
    (row,) = await node.read(events.by_ids, [last])
    event = state.parse(await state.get(node, made.room_id), row)
    server = made.here.server

    async def asked() -> list[str]:
        return await gaps.servers_of(server, made.here.node("tehran"), THERE, made.room_id, event)

    assert await asked() == [THERE, play.server.name]
    reach.failed(server, THERE, network.clock.monotonic(), Fault.CONNECTION)
    assert await asked() == [play.server.name, THERE]


@aio
async def test_a_room_is_come_into_through_who_can_be_reached(network: Network) -> None:
    here, there = await network.found(HERE), await network.found(THERE)
    alice, bob = await here.user("alice"), await there.user("bob")
    dead = Dead(network, "dead.test")
    reach.failed(here.server, "dead.test", network.clock.monotonic(), Fault.CONNECTION)
    room_id = await there.create(bob, preset="public_chat")
    await here.ask(alice, "POST", f"/join/{quote(room_id)}?via=dead.test&via={THERE}&via=dead.test", {})
    assert dead.asked == []
