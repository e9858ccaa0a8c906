"""What is missing before an event of another server is fetched, if it is to be had, and with bounds if it is not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from urllib.parse import quote

import pytest

from federation import asking_rooms, gaps
from homeserver.protocol import auth_chain
from homeserver.protocol.events import Event
from homeserver.rooms import outliers, state
from homeserver.rooms.checks import ENCRYPTION
from homeserver.storage import events as stored
from homeserver.storage import state as stored_state
from homeserver.storage.events import Verdict
from tests.federation.forging import Scene, scene, third
from tests.federation.liars import Liar
from tests.federation.meetings import enter
from tests.network import Network
from tests.support import aio

VERSIONS = pytest.mark.parametrize("version", ["1", "2", "11", "12"])
FREE = {"state_default": 0, "events": {"m.room.power_levels": 100, "m.room.name": 0}}


async def event_there(made: Scene, event_id: str) -> Event:
    """An event as the other server has it."""
    node = made.there.node("tehran")
    room = await state.get(node, made.room_id)
    (row,) = await node.read(stored.by_ids, [event_id])
    return state.parse(room, row)


async def name(made: Scene, text: str) -> str:
    """Bob names the room on his server."""
    path = f"/rooms/{quote(made.room_id)}/state/m.room.name/"
    return str((await made.there.ask(made.bob, "PUT", path, {"name": text}))["event_id"])


async def name_here(made: Scene) -> str | None:
    entry = (await made.room()).now.state.get(("m.room.name", ""))
    if entry is None:
        return None
    row = await made.held(entry.event_id)
    assert row is not None
    return str(state.parse(await made.room(), row).content["name"])


def asked(network: Network, what: str) -> int:
    return sum(what in each.target for each in network.exchanges if each.source == "here.test")


# what is to be had --------------------------------------------------------------------------------


@VERSIONS
@aio
async def test_missing_events_are_fetched_and_placed_in_order(network: Network, version: str) -> None:
    made = await scene(network, room_version=version, power_level_content_override=FREE)
    network.cut("here.test", "there.test")
    texts = [str(number) for number in range(8)]
    sent = [await made.there.send(made.bob, made.room_id, text) for text in texts]
    named = await name(made, "Missed")
    last = await made.there.send(made.bob, made.room_id, "last")
    network.mend("here.test", "there.test")
    answer = await made.tell([await event_there(made, last)])
    assert answer == {last: {}}
    assert await made.here.texts(made.alice, made.room_id) == [*texts, "last"]
    assert await name_here(made) == "Missed"
    assert [await made.verdict(each) for each in (*sent, named)] == [Verdict.ACCEPTED] * 9
    assert asked(network, "get_missing_events") == 1
    assert asked(network, "state") == 0
    assert list((await made.room()).now.tips) == [last]


@aio
async def test_missing_events_may_come_in_any_order(network: Network) -> None:
    made = await scene(network)
    chain = [await made.message("0")]
    for number in range(1, 5):
        chain.append(await made.message(f"{number}", after=chain[-1:]))
    Liar(network, "there.test").tells(*reversed(chain[:-1]), made=made)
    assert await made.tell(chain[-1:]) == {chain[-1].event_id: {}}
    assert await made.here.texts(made.alice, made.room_id) == ["0", "1", "2", "3", "4"]


@aio
async def test_a_long_gap_is_walked_in_steps(network: Network) -> None:
    made = await scene(network)
    network.cut("here.test", "there.test")
    texts = [str(number) for number in range(130)]
    for text in texts:
        last = await made.there.send(made.bob, made.room_id, text)
    network.mend("here.test", "there.test")
    assert await made.tell([await event_there(made, last)]) == {last: {}}
    assert await made.here.texts(made.alice, made.room_id) == texts
    assert (asked(network, "get_missing_events"), asked(network, "backfill")) == (1, 2)


@VERSIONS
@aio
async def test_where_the_walk_ends_the_state_is_asked_for(
    network: Network, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await scene(network, room_version=version, power_level_content_override=FREE)
    network.cut("here.test", "there.test")
    await name(made, "Missed")
    dave = await made.there.user("dave")
    await made.there.change(dave, made.room_id, "join")
    for number in range(12):
        await made.there.send(made.bob, made.room_id, f"{number}")
    hers = await made.here.send(made.alice, made.room_id, "meanwhile")
    last = await made.there.send(dave, made.room_id, "last")
    network.mend("here.test", "there.test")
    monkeypatch.setattr(asking_rooms, "MISSING_AT_ONCE", 3)
    spent = gaps.Budget
    monkeypatch.setattr(gaps, "Budget", lambda until: spent(until, events=1))
    assert await made.tell([await event_there(made, last)]) == {last: {}}
    assert (asked(network, "get_missing_events"), asked(network, "state_ids")) == (1, 1)
    assert await name_here(made) == "Missed"
    room = await made.room()
    assert room.now.membership(dave.user_id) == "join"
    assert room.now.joined == 3
    assert set(room.now.tips) == {hers, last}
    await made.here.replica("tehran", made.room_id)
    await made.here.state_of("tehran", made.room_id)


@aio
async def test_a_large_state_is_asked_for_whole(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scene(network)
    network.cut("here.test", "there.test")
    users = [await made.there.user(f"user{number}") for number in range(6)]
    for user in users:
        await made.there.change(user, made.room_id, "join")
    last = await made.there.send(users[0], made.room_id, "hello")
    network.mend("here.test", "there.test")
    spent = gaps.Budget
    monkeypatch.setattr(gaps, "Budget", lambda until: spent(until, events=1))
    monkeypatch.setattr(asking_rooms, "MISSING_AT_ONCE", 1)
    monkeypatch.setattr(gaps, "ONE_BY_ONE", 3)
    assert await made.tell([await event_there(made, last)]) == {last: {}}
    assert asked(network, "/state/") == 1
    room = await made.room()
    assert [room.now.membership(user.user_id) for user in users] == ["join"] * 6


@VERSIONS
@aio
async def test_authorities_are_fetched(network: Network, version: str) -> None:
    made = await scene(network, room_version=version)
    network.cut("here.test", "there.test")
    dave = await made.there.user("dave")
    await made.there.change(dave, made.room_id, "join")
    last = await made.there.send(dave, made.room_id, "I am new")
    network.mend("here.test", "there.test")
    assert await made.tell([await event_there(made, last)]) == {last: {}}
    assert await made.here.texts(made.alice, made.room_id) == ["I am new"]
    assert (await made.room()).now.membership(dave.user_id) == "join"


@aio
async def test_another_server_is_asked_when_the_sender_does_not_answer(network: Network) -> None:
    made = await scene(network)
    play, _ = await third(made)
    network.cut("here.test", "there.test")
    await made.there.send(made.bob, made.room_id, "one")
    last = await made.there.send(made.bob, made.room_id, "two")
    await network.settle()
    network.mend("here.test", "there.test")
    liar = Liar(network, "there.test")
    for path in ("get_missing_events", "backfill", "state", "event"):
        liar.says(path, None)
    event = await event_there(made, last)
    assert await made.tell([event], by=play) == {last: {}}
    assert await made.here.texts(made.alice, made.room_id) == ["one", "two"]


# what is not --------------------------------------------------------------------------------------

LIES: list[object] = [
    None,
    500,
    404,
    b"no JSON",
    b"[]",
    {},
    {"events": 5, "pdus": {}, "auth_chain": None, "pdu_ids": "x", "auth_chain_ids": []},
    {"events": [5, None, "x", {}], "pdus": [[]], "auth_chain": [1], "pdu_ids": [5], "auth_chain_ids": [None]},
    {"events": [], "pdus": [], "auth_chain": [], "pdu_ids": [], "auth_chain_ids": []},
    {"events": [], "pdus": [], "auth_chain": [], "pdu_ids": ["$a", "$b"], "auth_chain_ids": ["$c"]},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
@aio
async def test_answers_that_do_not_help(network: Network, lie: object) -> None:
    made = await scene(network)
    before = await made.message("never told")
    event = await made.message("after it", after=[before])
    proved = await made.message("proved by nothing", auth_events=["$nothing"])
    liar = Liar(network, "there.test")
    for path in ("get_missing_events", "backfill", "state", "event"):
        liar.says(path, lie)
    answer = await made.tell([event, proved])
    assert all("not to be had" in answer[each.event_id]["error"] for each in (event, proved))
    assert [await made.verdict(each) for each in (before, event, proved)] == [None] * 3
    assert len(liar.asked) < 30
    fine = await made.message("fine")
    assert await made.tell([fine]) == {fine.event_id: {}}
    assert await made.here.texts(made.alice, made.room_id) == ["fine"]


@aio
async def test_events_of_a_gap_are_believed_no_more_than_others(network: Network) -> None:
    made = await scene(network)
    play, carol = await third(made)
    root = list((await made.room()).now.tips)
    stolen = await made.forged(carol, "m.room.topic", {"topic": "stolen"}, "", by=made.there, prev_events=root)
    power = await made.forged(made.bob, "m.room.power_levels", {"users_default": 100}, "", prev_events=root)
    event = await made.message("after", after=[power])
    Liar(network, "there.test").tells(stolen, power, made=made)
    assert await made.tell([event]) == {event.event_id: {}}
    assert await made.verdict(stolen) is None
    assert await made.verdict(power) is Verdict.REJECTED
    assert play.server.name == "third.test"


@pytest.mark.parametrize("version", ["1", "2"])
@aio
async def test_circles(network: Network, version: str) -> None:
    """Only where servers choose the ids can events follow on each other."""
    made = await scene(network, room_version=version)
    one = await made.message("one", event_id="$one:there.test", prev_events=["$two:there.test"])
    two = await made.message("two", event_id="$two:there.test", after=[one])
    proof = await made.message("proof", event_id="$proof:there.test", auth_events=["$root:there.test"])
    root = await made.forged(
        made.bob, "m.room.topic", {}, "", event_id="$root:there.test", auth_events=["$proof:there.test"]
    )
    liar = Liar(network, "there.test")
    liar.tells(one, two, proof, root, made=made)
    liar.says("event_auth", {"auth_chain": [proof.pdu(), root.pdu()]})
    answer = await made.tell([two, proof])
    assert all("not to be had" in answer[each.event_id]["error"] for each in (two, proof))
    assert len(liar.asked) < 60
    assert [await made.verdict(each) for each in (one, two, proof, root)] == [None] * 4


@aio
async def test_a_state_that_was_made_up(network: Network) -> None:
    """Whoever claims a state gets no power by it, and takes none."""
    made = await scene(network)
    room = await made.room()
    ids = {key: entry.event_id for key, entry in room.now.state.items()}
    power = await made.forged(made.bob, "m.room.power_levels", {"users": {made.bob.user_id: 100}}, "")
    liar = Liar(network, "there.test")
    liar.tells(power, made=made)
    claims = [
        {**ids, ("m.room.power_levels", ""): power.event_id},
        {key: event_id for key, event_id in ids.items() if key[0] != "m.room.create"},
        {**ids, ("a", "b"): ids["m.room.member", made.bob.user_id]},
        {**ids, ("a", "b"): next(iter(room.now.tips)) + "x"},
    ]
    for number, claimed in enumerate(claims):
        liar.says("state_ids", {"pdu_ids": list(claimed.values()), "auth_chain_ids": []})
        cited = [ids["m.room.member", made.bob.user_id]]
        event = await made.forged(
            made.bob, "m.room.name", {"name": f"{number}"}, "", prev_events=["$lost"], auth_events=cited
        )
        await made.tell([event])
        assert await made.verdict(event) is not Verdict.ACCEPTED, claimed
        now = (await made.room()).now.state
        assert ("m.room.name", "") not in now
        assert now["m.room.power_levels", ""].event_id == ids["m.room.power_levels", ""]
        assert power.event_id not in await state_after(made, event)
    assert await made.verdict(power) is Verdict.REJECTED


async def state_after(made: Scene, event: Event) -> set[str]:
    """The state after an event, as here.test holds it; empty when it does not have the event."""
    row, node = await made.held(event), made.here.node("tehran")
    if row is None:
        return set()
    assert row.state_group is not None
    group = await node.read(stored_state.load_group, row.state_group)
    nids = await node.read(stored_state.group_state, group)
    return {each.event_id for each in await node.read(stored.by_nids, set(nids.values()))}


@aio
async def test_a_flood_of_gaps(network: Network) -> None:
    """However many gaps are invented in a transaction, few requests come of them, one walk at a time."""
    made = await scene(network)
    liar = Liar(network, "there.test")
    for path in ("get_missing_events", "backfill", "state", "event"):
        liar.says(path, {"events": [], "pdus": [], "pdu_ids": [], "auth_chain_ids": [], "auth_chain": []})
    invented = [await made.message(f"{number}", prev_events=[f"$lost{number}"]) for number in range(50)]
    fine = await made.message("fine")
    answer = await made.tell([*invented[:49], fine])
    assert answer[fine.event_id] == {}
    assert len(liar.asked) <= 2 * gaps.MOST_WALKS + gaps.MOST_STATES
    assert await made.here.texts(made.alice, made.room_id) == ["fine"]


@aio
async def test_one_walk_in_a_room_at_a_time(network: Network) -> None:
    made = await scene(network)
    inside, most, gate = [0], [0], asyncio.Event()
    honest = asking_rooms.missing_events

    async def slow(*args: Any, **kw: Any) -> Any:
        inside[0] += 1
        most[0] = max(inside[0], most[0])
        if not gate.is_set():
            asyncio.get_running_loop().call_later(0.05, gate.set)
        await gate.wait()
        inside[0] -= 1
        return await honest(*args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking_rooms, "missing_events", slow)
        events = [await made.message(f"{number}", prev_events=[f"$lost{number}"]) for number in range(3)]
        await asyncio.gather(*(made.tell([event]) for event in events))
    assert most == [1]


@aio
async def test_a_room_that_is_not_harmed_by_another(network: Network) -> None:
    made = await scene(network)
    other = await made.here.create(made.alice, preset="public_chat")
    await enter(made.there, made.bob, other, "here.test")
    gate = asyncio.Event()
    room_id, made.room_id = made.room_id, other
    stuck = await made.message("stuck", prev_events=["$lost"])
    made.room_id = room_id
    honest = asking_rooms.missing_events

    async def slow(*args: Any, **kw: Any) -> Any:
        await gate.wait()
        return await honest(*args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking_rooms, "missing_events", slow)
        waiting = asyncio.ensure_future(made.tell([stuck]))
        fine = await made.message("fine")
        assert await made.tell([fine]) == {fine.event_id: {}}
        assert not waiting.done()
        gate.set()
        assert (await waiting)[stuck.event_id]["error"]
    assert ENCRYPTION in (await made.room()).now.state


@aio
async def test_few_wait_for_a_walk(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scene(network)
    gate, asked = asyncio.Event(), asyncio.Event()

    async def slow(*_: Any, **__: Any) -> list[Any]:
        asked.set()
        await gate.wait()
        return []

    monkeypatch.setattr(asking_rooms, "missing_events", slow)
    monkeypatch.setattr(gaps, "MOST_WAITING", 0)
    events = [await made.message(f"{number}", prev_events=[f"$lost{number}"]) for number in range(2)]
    walking = asyncio.ensure_future(made.tell(events[:1]))
    await asked.wait()
    answer = await made.tell(events[1:])
    assert answer == {events[1].event_id: {"error": "Too much is being looked for in that room"}}
    gate.set()
    assert (await walking)[events[0].event_id]["error"]
    assert not made.here.node("tehran").memory(gaps.Walks).locks


@aio
async def test_a_large_state_is_judged_apart(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are served while many events are judged."""
    made = await scene(network)
    monkeypatch.setattr(outliers, "LONG", 1)
    judge, served = auth_chain.judge, threading.Event()

    def slow(*args: Any) -> Any:
        assert served.wait(10), "nobody else was served"
        return judge(*args)

    monkeypatch.setattr(auth_chain, "judge", slow)
    asyncio.get_running_loop().call_later(0.01, served.set)
    event = await made.message("known by its auth events")
    kept = await outliers.keep(made.here.server, made.here.node("tehran"), made.room_id, [event])
    assert kept.here == {event.event_id}
