"""What happens at a border to another server beyond what `tests.matrix` tries of every hook: copies of keys that age,
and events of authors whose node may send none there, though the room's home may.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from federation import remote
from homeserver.protocol.versions import VERSIONS
from tests.deployment import User
from tests.e2ee.play import Device
from tests.federation.guests import asks
from tests.matrix.asked import Spy
from tests.matrix.between_servers_questions import FAILED, failed
from tests.matrix.between_servers_relations import invited
from tests.matrix.rows import DENIED, FAR, HERE, IN, THERE, Column, outcome, quoted, sealed
from tests.matrix.servers import Servers, meet
from tests.matrix.world import Phase
from tests.network import Network
from tests.rooms.play import Play
from tests.support import Databases, aio

NOT_FROM_FRANCE = Phase(Column.DENIED, (FAR, "events"))


@pytest.fixture
def engines(tmp_path: Path) -> Databases:
    """What is asked of the policy does not depend on the database."""
    return Databases("sqlite", tmp_path)


@aio
async def test_a_device_list_of_which_no_changes_may_come_in_is_shown_no_more(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    border = await meet(network, Spy(monkeypatch))
    alice, bob = Device(border.alice), Device(border.bob)
    await bob.publish()
    await border.network.settle()
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id}
    border.change(Phase(Column.DENIED, (IN, "keys")))
    laptop = await bob.another()
    await laptop.publish()
    await border.network.settle()
    answer = await alice.query(bob)
    assert (answer["device_keys"], failed(answer)) == ({}, FAILED)
    border.change(Phase(Column.ALLOWED))
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id, laptop.device_id}


# whose events they are ----------------------------------------------------------------------


async def with_france(network: Network, patch: pytest.MonkeyPatch) -> tuple[Servers, User]:
    """The border, with Dora of here.test, at home in Paris, in the room that is at home in Tehran."""
    border = await meet(network, Spy(patch))
    dora = await border.here.user("dora", "paris")
    await border.here.change(dora, border.room_id, "join")
    await network.settle()
    return border, dora


@pytest.mark.parametrize("away", [False, True])
@aio
async def test_an_event_goes_where_its_author_s_node_may_send_it(
    network: Network, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    border, dora = await with_france(network, monkeypatch)
    if away:  # what is sent is read from the database then
        network.cut(HERE, THERE)
    border.change(NOT_FROM_FRANCE)
    await border.here.send(border.alice, border.room_id, "heron")
    await border.here.send(dora, border.room_id, "kestrel")
    await border.here.settle()
    if away:
        await network.settle()
        network.mend(HERE, THERE)
        await network.clock.advance(10)
    await network.settle()
    assert sealed("heron") in border.left(HERE)
    assert sealed("kestrel") not in border.left(HERE)
    assert await border.here.texts(border.alice, border.room_id) == ["heron", "kestrel"]
    assert border.here.server.telemetry.counter("domicile_federation_withheld", "", ["class"]).value("events") == 1
    border.change(Phase(Column.ALLOWED))
    await border.here.send(dora, border.room_id, "osprey")
    await network.settle()
    assert sealed("osprey") in border.left(HERE)


@aio
async def test_what_an_author_s_node_may_not_send_is_not_given_either(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    border, dora = await with_france(network, monkeypatch)
    for user, word in ((border.alice, "heron"), (dora, "kestrel")):
        await border.here.send(user, border.room_id, word)
    await border.here.change(dora, border.room_id, "leave")
    await border.here.settle()
    last = await border.here.send(border.alice, border.room_id, "osprey")
    await network.settle()
    network.exchanges.clear()
    carols = [await border.there.user(f"carol{number}") for number in range(2)]
    room = quoted(border.room_id)
    between = {"earliest_events": [], "latest_events": [last], "limit": 50}

    async def tries() -> list[str]:
        asked: list[Awaitable[object]] = [
            asks(border.there, HERE, "GET", f"/backfill{room}", v=last, limit=100),
            asks(border.there, HERE, "POST", f"/get_missing_events{room}", between),
            asks(border.there, HERE, "GET", f"/state{room}", event_id=last),
            asks(border.there, HERE, "GET", f"/state_ids{room}", event_id=last),
            asks(border.there, HERE, "GET", f"/event_auth{room}{quoted(last)}"),
            asks(
                border.there, HERE, "GET", f"/make_join{quoted(border.room_id, border.bob.user_id)}", ver=list(VERSIONS)
            ),
        ]
        return [await outcome(each) for each in asked] + [await invited(border.alice, border.room_id, carols.pop())]

    border.change(NOT_FROM_FRANCE)
    assert await tries() == ["200", "200", DENIED, DENIED, DENIED, DENIED, DENIED]
    assert sealed("heron") in border.left(HERE)
    assert sealed("kestrel") not in border.left(HERE)
    assert dora.user_id.encode() not in network.bytes_out(HERE)
    border.change(Phase(Column.ALLOWED))
    assert await tries() == ["200"] * 7
    assert sealed("kestrel") in border.left(HERE)


def hands_in(there: Play, path: str) -> Awaitable[object]:
    """Hand in an event that is none."""
    return remote.ask(there.server, HERE, "PUT", f"/_matrix/federation{path}", {}, most=2**20)


@aio
async def test_no_step_of_a_join_or_a_knock_gets_past_an_author_s_node(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is asked before anything else, so that what is handed in may be nothing at all."""
    border, dora = await with_france(network, monkeypatch)
    await border.here.change(dora, border.room_id, "leave")
    await border.here.settle()
    rules = f"/rooms{quoted(border.room_id)}/state/m.room.join_rules"
    await border.here.ask(border.alice, "PUT", rules, {"join_rule": "knock"})
    by_user, by_event = quoted(border.room_id, f"@carol:{THERE}"), quoted(border.room_id, "$none")

    async def tries() -> list[str]:
        asked: list[Awaitable[object]] = [
            asks(border.there, HERE, "GET", f"/make_knock{by_user}", ver=list(VERSIONS)),
            hands_in(border.there, f"/v2/send_join{by_event}"),
            hands_in(border.there, f"/v1/send_knock{by_event}"),
        ]
        return [await outcome(each) for each in asked]

    border.change(NOT_FROM_FRANCE)
    assert await tries() == [DENIED] * 3
    border.change(Phase(Column.ALLOWED))
    assert await tries() == ["200", "400 M_INVALID_PARAM", "400 M_INVALID_PARAM"]
