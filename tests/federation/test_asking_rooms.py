"""Large answers about rooms: taken as they come, bounded in number, and of the right form or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from federation import asking_rooms, parts, reach
from federation.reach import Absences
from homeserver.protocol.errors import ServerUnreachable
from homeserver.runtime.exchange import Answer, Fault, Unreachable
from tests import network as wires
from tests.federation.liars import Liar
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

HERE, THERE, ROOM = "here.test", "there.test", "!room:there.test"


class Taken:
    """What came, some at a time."""

    def __init__(self) -> None:
        self.some: list[list[Any]] = []

    async def take(self, pdus: list[Any]) -> None:
        """Take some."""
        self.some.append(pdus)


async def whole_state(here: Play) -> list[list[Any]]:
    """What is taken of a state for which there.test is asked."""
    taken = Taken()
    await asking_rooms.whole_state(here.server, here.node("tehran"), THERE, ROOM, "$event", taken.take)
    return taken.some


async def event_auth(here: Play) -> list[list[Any]]:
    """The same for an auth chain."""
    taken = Taken()
    await asking_rooms.event_auth(here.server, here.node("tehran"), THERE, ROOM, "$event", taken.take)
    return taken.some


async def state_ids(here: Play) -> asking_rooms.StateIds:
    """The ids of a state, as there.test gives them."""
    return await asking_rooms.state_ids(here.server, here.node("tehran"), THERE, ROOM, "$event")


async def two(network: Network) -> tuple[Play, Liar]:
    """A server, and one that lies to it."""
    here = await network.found(HERE)
    await network.found(THERE)
    return here, Liar(network, THERE)


@aio
async def test_events_are_taken_some_at_a_time(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, liar = await two(network)
    monkeypatch.setattr(parts, "AT_ONCE", 4)
    chain, now = [{"c": number} for number in range(8)], [{"s": number} for number in range(6)]
    liar.says("state/", {"x": [1, 2], "auth_chain": chain, "pdus": now})
    liar.says("event_auth", {"auth_chain": chain[:3]})
    assert await whole_state(here) == [chain[:4], chain[4:], now[:4], now[4:]]
    assert await event_auth(here) == [chain[:3]]
    liar.says("event_auth", {"auth_chain": []})
    assert await event_auth(here) == []


@aio
async def test_no_more_are_taken_than_a_room_may_have(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, liar = await two(network)
    monkeypatch.setattr(asking_rooms, "MOST_IDS", 5)
    monkeypatch.setattr(parts, "AT_ONCE", 2)
    liar.says("state/", {"auth_chain": [{}] * 20, "pdus": [{}] * 4})
    assert [len(some) for some in await whole_state(here)] == [2, 2, 1, 2, 2]
    ids = [f"${number:043}" for number in range(7)]
    liar.says("state_ids", {"pdu_ids": ids, "auth_chain_ids": ids[:2]})
    assert await state_ids(here) == (ids[:5], ids[:2])


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"auth_chain":[]}',
        b'{"auth_chain":[],"pdus":{}}',
        b'{"auth_chain":[],"pdus":[{}]',
        b'{"auth_chain":[],"pdus":[{}],"pdus":[]}',
        b'{"auth_chain":[],"pdus":[{},]}',
        404,
        500,
    ],
)
@aio
async def test_what_is_no_answer(network: Network, body: bytes | int) -> None:
    here, liar = await two(network)
    liar.says("state/", body)
    with pytest.raises(ServerUnreachable):
        await whole_state(here)
    assert not reach.is_away(here.server, THERE)


@pytest.mark.parametrize("named", [1, {}, "no id", None])
@aio
async def test_ids_that_are_none(network: Network, named: object) -> None:
    here, liar = await two(network)
    liar.says("state_ids", {"pdu_ids": ["$" + "a" * 43, named], "auth_chain_ids": []})
    with pytest.raises(ServerUnreachable, match="events that are none"):
        await state_ids(here)


@aio
async def test_who_asks_in_vain_remembers_it_and_so_does_who_is_answered(network: Network) -> None:
    here, liar = await two(network)
    liar.says("event_auth", {"auth_chain": []})
    network.cut(HERE, THERE)
    with pytest.raises(ServerUnreachable):
        await event_auth(here)
    assert reach.is_away(here.server, THERE)
    network._cut.clear()
    await event_auth(here)
    assert here.server.nodes.directory.memory(Absences).held.get(THERE) is None
    liar.says("event_auth", Answer(503, {}, b"{}"))
    with pytest.raises(ServerUnreachable):
        await event_auth(here)
    assert reach.is_away(here.server, THERE)


@aio
async def test_a_server_that_goes_away_while_it_answers(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, liar = await two(network)
    liar.says("event_auth", {"auth_chain": [{}]})

    async def broken(body: bytes, most: int) -> AsyncIterator[bytes]:
        yield orjson.dumps({"auth_chain": [{}]})[:-1]
        raise Unreachable(Fault.CONNECTION, "gone")

    monkeypatch.setattr(wires, "_pieces", broken)
    with pytest.raises(ServerUnreachable):
        await event_auth(here)
    assert reach.is_away(here.server, THERE)
