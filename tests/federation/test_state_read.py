"""What other servers may read of a room's state at an event, and of the authority of events."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation import remote, rooms_reading, rooms_reading_state
from homeserver.protocol.errors import LimitExceeded
from homeserver.protocol.events import from_pdu
from homeserver.rooms import state
from homeserver.storage import auth_links, events
from tests.federation.guests import asks, given, invitation, made, member, refusal
from tests.federation.test_events_read import FORBIDDEN, HERE, NOT_FOUND, scene, visibility
from tests.network import Network
from tests.rooms.play import Play, ciphertext
from tests.support import aio

Key = tuple[str, str]


async def state_at(there: Play, here: Play, room_id: str, event_id: str) -> dict[Key, str]:
    """The state before an event as another server reads it, whole and by ids, with its authority."""
    room = await state.get(here.node("tehran"), room_id)
    whole = await asks(there, HERE, "GET", f"/state/{quote(room_id)}", event_id=event_id)
    ids = await asks(there, HERE, "GET", f"/state_ids/{quote(room_id)}", event_id=event_id)
    found = [from_pdu(room.rules, pdu) for pdu in whole["pdus"]]
    chain = [from_pdu(room.rules, pdu) for pdu in whole["auth_chain"]]
    assert sorted(ids["pdu_ids"]) == sorted(event.event_id for event in found)
    assert sorted(ids["auth_chain_ids"]) == sorted(event.event_id for event in chain)
    assert set(ids["auth_chain_ids"]) == closure({event.event_id: event.auth_events for event in [*found, *chain]}, ids)
    return {(event.type, event.state_key or ""): event.event_id for event in found}


def closure(cited: dict[str, Any], ids: dict[str, Any]) -> set[str]:
    """All that the events of a state cite, and what these cite, and so on, by walking one by one."""
    found: set[str] = set()
    pending = [each for event_id in ids["pdu_ids"] for each in cited[event_id]]
    while pending:
        event_id = pending.pop()
        if event_id not in found:
            found.add(event_id)
            pending += cited[event_id]
    return found


async def now(play: Play, room_id: str) -> dict[Key, str]:
    room = await state.get(play.node("tehran"), room_id)
    return {key: entry.event_id for key, entry in room.now.state.items()}


@aio
async def test_the_state_before_each_event(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    topic = f"/rooms/{quote(room_id)}/state/m.room.topic"
    for number in range(9):  # snapshots of odd and even depth
        before = await now(here, room_id)
        event_id = str((await here.ask(alice, "PUT", topic, {"topic": str(number)}))["event_id"])
        assert await state_at(there, here, room_id, event_id) == before
    before = await now(here, room_id)
    said = await here.send(alice, room_id, "hello")
    assert await state_at(there, here, room_id, said) == before


@aio
async def test_the_state_before_events_on_branches(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    before = await now(here, room_id)
    mine = await made(network, here, room_id, bob, "m.room.encrypted", ciphertext("a branch"))
    topic = f"/rooms/{quote(room_id)}/state/m.room.topic"
    theirs = str((await here.ask(alice, "PUT", topic, {"topic": "the other branch"}))["event_id"])
    await given(here, room_id, mine)
    assert await state_at(there, here, room_id, mine.event_id) == before
    after = {**before, ("m.room.topic", ""): theirs}
    merged = str((await here.ask(alice, "PUT", topic, {"topic": "both"}))["event_id"])
    assert await state_at(there, here, room_id, merged) == after
    last = await here.send(alice, room_id, "hello")
    assert await state_at(there, here, room_id, last) == {**after, ("m.room.topic", ""): merged}


@aio
async def test_the_authority_of_an_event(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    room = await state.get(here.node("tehran"), room_id)
    for _ in range(3):
        await member(network, here, room_id, bob, "leave")
        await invitation(network, here, room_id, alice, bob)
        await member(network, here, room_id, bob, "join")
    said = await here.send(alice, room_id, "hello")
    path = f"/event_auth/{quote(room_id)}"
    for event_id in [said, *(await now(here, room_id)).values()]:
        answer = await asks(there, HERE, "GET", f"{path}/{quote(event_id)}")
        chain = {event.event_id: event for event in (from_pdu(room.rules, pdu) for pdu in answer["auth_chain"])}
        (row,) = await here.node("tehran").read(events.by_ids, [event_id])
        cited = {found: list(event.auth_events) for found, event in chain.items()}
        wanted = closure({**cited, event_id: events.cited(row.rest)}, {"pdu_ids": [event_id]})
        assert chain.keys() == wanted
    assert await refusal(there, HERE, "GET", f"{path}/%24none") == NOT_FOUND


@aio
async def test_members_get_the_whole_state_and_others_none(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network, initial_state=visibility("joined"))
    room = quote(room_id)
    said = await here.send(alice, room_id, "hello")
    assert await refusal(there, HERE, "GET", f"/state/{room}", event_id=said) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/state_ids/{room}", event_id=said) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/event_auth/{room}/{quote(said)}") == FORBIDDEN
    assert await refusal(there, HERE, "GET", "/state/%21none%3Ahere.test", event_id=said) == FORBIDDEN
    await member(network, here, room_id, bob, "join")
    assert ("m.room.create", "") in await state_at(there, here, room_id, said)
    assert await refusal(there, HERE, "GET", f"/state/{room}", event_id="$none") == NOT_FOUND
    assert await refusal(there, HERE, "GET", f"/state/{room}") == (400, "M_MISSING_PARAM")
    during = await here.send(alice, room_id, "during")
    await member(network, here, room_id, bob, "leave")
    assert ("m.room.create", "") in await state_at(there, here, room_id, during)
    assert await refusal(there, HERE, "GET", f"/state_ids/{room}", event_id=said) == NOT_FOUND, "he was not there"


@aio
async def test_the_home_node_answers_and_another_one_while_it_is_down(network: Network) -> None:
    here, there = await network.found(HERE), await network.found("there.test")
    alice, other, bob = await here.user("alice"), await here.user("fr-other", "paris"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    await here.change(other, room_id, "join")
    await member(network, here, room_id, bob, "join")
    said = await here.send(alice, room_id, "hello")
    await here.settle()
    asked = (there, HERE, "GET", f"/backfill/{quote(room_id)}")
    assert (await rooms_reading.open_room(here.server, "there.test", room_id)).node.name == "tehran"
    here.node("tehran").memory(state.Rooms).clear()
    await here.node("tehran").engine.close()
    assert len((await asks(*asked, v=said, limit=1))["pdus"]) == 1
    here.node("paris").memory(state.Rooms).clear()
    await here.node("paris").engine.close()
    assert await refusal(*asked, v=said, limit=1) == (503, "M_UNKNOWN")


@aio
async def test_a_long_chain_is_a_handful_of_trips(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    levels = await here.ask(alice, "GET", f"/rooms/{quote(room_id)}/state/m.room.power_levels")
    node = here.node("tehran")
    for number in range(100):
        levels["events"]["org.example.n"] = number
        await here.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.power_levels", levels)
    said = await here.send(alice, room_id, "hello")
    trips = node.engine.trips
    answer = await asks(there, HERE, "GET", f"/event_auth/{quote(room_id)}/{quote(said)}")
    assert len(answer["auth_chain"]) > 100
    assert node.engine.trips - trips < 15
    trips = node.engine.trips
    ids = await asks(there, HERE, "GET", f"/state_ids/{quote(room_id)}", event_id=said)
    assert len(ids["auth_chain_ids"]) > 100
    assert node.engine.trips - trips < 15


@aio
async def test_links_are_kept_of_state_events_only(network: Network) -> None:
    here, _, alice, _, room_id = await scene(network)
    node = here.node("tehran")
    said = await here.send(alice, room_id, "hello")
    current = await now(here, room_id)
    assert await node.read(auth_links.edges, [said], 0) == {said: []}
    cited = await node.read(auth_links.edges, [current["m.room.member", alice.user_id]], 0)
    (row,) = await node.read(events.by_ids, [current["m.room.member", alice.user_id]])
    assert {event_id: set(links) for event_id, links in cited.items()} == {row.event_id: set(events.cited(row.rest))}
    assert await node.read(auth_links.chain, []) == set()
    assert await node.read(auth_links.edges, ["$none"], 5) == {}
    levels = current["m.room.power_levels", ""]
    nearest = await node.read(auth_links.near, [levels], 1)
    assert len(nearest) == 2
    assert levels in {row.event_id for row in nearest}


@aio
async def test_a_server_gets_only_so_much_at_a_time(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    said = await here.send(alice, room_id, "hello")
    reading = await rooms_reading.open_room(here.server, "there.test", room_id)
    turns = [rooms_reading_state.Turn(reading) for _ in range(rooms_reading_state.AT_ONCE)]
    for turn in turns:
        turn.__enter__()
    with pytest.raises(LimitExceeded):
        rooms_reading_state.Turn(reading).__enter__()
    with pytest.raises(remote.RemoteRefusal) as refused:
        await asks(there, HERE, "GET", f"/state_ids/{quote(room_id)}", event_id=said)
    assert (refused.value.status, refused.value.errcode) == (429, "M_LIMIT_EXCEEDED")
    for turn in turns:
        turn.__exit__(None, None, None)
    await asks(there, HERE, "GET", f"/state_ids/{quote(room_id)}", event_id=said)


@aio
async def test_a_state_that_is_not_known_is_not_made_up(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    said = await here.send(alice, room_id, "hello")
    node = here.node("tehran")

    async def forget(tx: Any) -> None:
        await tx.run("UPDATE events SET state_group = NULL WHERE event_id = ?", said)

    await node.write(forget)
    assert await refusal(there, HERE, "GET", f"/state_ids/{quote(room_id)}", event_id=said) == NOT_FOUND
