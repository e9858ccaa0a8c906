"""What other servers may read of a room's events: one by one, backwards, and between those that they have."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.events import from_pdu
from homeserver.protocol.versions import rules_of
from homeserver.rooms import state
from homeserver.runtime.telemetry import Counter
from tests.deployment import POLICY, User, flow
from tests.federation.guests import asks, given, invitation, made, member, message, refusal
from tests.network import Network
from tests.rooms.play import Play, ciphertext
from tests.support import aio

HERE, THERE = "here.test", "there.test"
FORBIDDEN = (403, "M_FORBIDDEN")
NOT_FOUND = (404, "M_NOT_FOUND")


async def scene(network: Network, **wish: Any) -> tuple[Play, Play, User, User, str]:
    """A room of here that anybody may join; alice made it, and bob is from there."""
    here, there = await network.found(HERE), await network.found(THERE)
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, **{"preset": "public_chat", **wish})
    return here, there, alice, bob, room_id


def visibility(value: str) -> list[dict[str, Any]]:
    content = {"history_visibility": value}
    return [{"type": "m.room.history_visibility", "state_key": "", "content": content}]


async def pdus_of(play: Play, room_id: str, answer: dict[str, Any], key: str = "pdus") -> dict[str, dict[str, Any]]:
    """The events of an answer by id, in its order; each must be what its hash says."""
    rules = (await state.get(play.node("tehran"), room_id)).rules
    return {from_pdu(rules, pdu).event_id: pdu for pdu in answer[key]}


async def backfilled(
    there: Play, here: Play, room_id: str, *starts: str, limit: int = 100
) -> dict[str, dict[str, Any]]:
    answer = await asks(there, HERE, "GET", f"/backfill/{quote(room_id)}", v=list(starts), limit=limit)
    return await pdus_of(here, room_id, answer)


def refusals(play: Play) -> Counter:
    """The counter of questions that were refused."""
    return play.server.telemetry.counter("domicile_federation_readings_refused", "", ["reason"])


def is_redacted(pdu: dict[str, Any]) -> bool:
    return pdu["type"] == "m.room.encrypted" and "ciphertext" not in pdu["content"]


# one event ----------------------------------------------------------------------------------


@aio
async def test_one_event(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    event_id = await here.send(alice, room_id, "hello")
    answer = await asks(there, HERE, "GET", f"/event/{quote(event_id)}")
    (pdu,) = answer["pdus"]
    rules = (await state.get(here.node("tehran"), room_id)).rules
    event = from_pdu(rules, pdu)
    assert (event.event_id, event.sender, answer["origin"]) == (event_id, alice.user_id, HERE)
    event.verify(HERE, {here.server.identity.key.key_id: here.server.identity.key.verify_key})
    assert await refusal(there, HERE, "GET", "/event/%24none") == NOT_FOUND


@aio
async def test_nobody_reads_an_event_who_was_never_in_its_room(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network, initial_state=visibility("world_readable"))
    event_id = await here.send(alice, room_id, "hello")
    path = quote(room_id)
    assert await refusal(there, HERE, "GET", f"/event/{quote(event_id)}") == NOT_FOUND
    assert await refusal(there, HERE, "GET", f"/backfill/{path}", v=event_id, limit=5) == FORBIDDEN
    wanted = {"earliest_events": [], "latest_events": [event_id]}
    assert await refusal(there, HERE, "POST", f"/get_missing_events/{path}", wanted) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/timestamp_to_event/{path}", ts=0, dir="f") == FORBIDDEN
    await invitation(network, here, room_id, alice, bob)
    assert await refusal(there, HERE, "GET", f"/backfill/{path}", v=event_id, limit=5) == FORBIDDEN
    assert b"ciphertext" not in network.bytes_out(HERE)


@aio
async def test_an_event_of_another_room_is_none_of_this_one(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    other = await here.create(alice, preset="public_chat")
    secret = await here.send(alice, other, "secret")
    assert await refusal(there, HERE, "GET", f"/event/{quote(secret)}") == NOT_FOUND
    assert await backfilled(there, here, room_id, secret) == {}
    wanted = {"earliest_events": [], "latest_events": [secret]}
    assert (await asks(there, HERE, "POST", f"/get_missing_events/{quote(room_id)}", wanted))["events"] == []
    assert await refusal(there, HERE, "GET", f"/event_auth/{quote(room_id)}/{quote(secret)}") == NOT_FOUND
    assert await refusal(there, HERE, "GET", f"/state_ids/{quote(room_id)}", event_id=secret) == NOT_FOUND


@aio
async def test_rejected_events_are_not_given_away_and_soft_failed_ones_are(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    rejected = await given(
        here, room_id, await made(network, here, room_id, bob, "m.room.power_levels", {"users": {}}, "")
    )
    assert await refusal(there, HERE, "GET", f"/event/{quote(rejected)}") == NOT_FOUND
    late = await made(network, here, room_id, bob, "m.room.topic", {"topic": "late"}, None)
    await here.change(alice, room_id, "ban", user_id=bob.user_id)
    soft_failed = await given(here, room_id, late)
    carol = await there.user("carol")
    await member(network, here, room_id, carol, "join")
    assert len((await asks(there, HERE, "GET", f"/event/{quote(soft_failed)}"))["pdus"]) == 1


# visibility ---------------------------------------------------------------------------------


@aio
async def test_what_was_not_for_their_users_is_redacted(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network, initial_state=visibility("joined"))
    before = await here.send(alice, room_id, "before")
    await member(network, here, room_id, bob, "join")
    during = await here.send(alice, room_id, "during")
    found = await backfilled(there, here, room_id, during)
    assert is_redacted(found[before])
    assert not is_redacted(found[during])
    (one,) = (await asks(there, HERE, "GET", f"/event/{quote(before)}"))["pdus"]
    assert is_redacted(one)
    wanted = {"earliest_events": [], "latest_events": [during]}
    answer = await asks(there, HERE, "POST", f"/get_missing_events/{quote(room_id)}", wanted)
    assert is_redacted((await pdus_of(here, room_id, answer, "events"))[before])


@aio
async def test_who_left_gets_what_they_could_see_and_nothing_else(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    before = await here.send(alice, room_id, "before")
    await member(network, here, room_id, bob, "join")
    during = await here.send(alice, room_id, "during")
    left = await member(network, here, room_id, bob, "leave")
    after = await here.send(alice, room_id, "after")
    found = await backfilled(there, here, room_id, after)
    assert list(found)[:2] == [left, during]
    assert before in found
    assert not any(is_redacted(pdu) for pdu in found.values())
    assert await refusal(there, HERE, "GET", f"/event/{quote(after)}") == NOT_FOUND
    network.exchanges.clear()
    assert await refusal(there, HERE, "GET", f"/state_ids/{quote(room_id)}", event_id=after) == NOT_FOUND
    assert b"pdu_ids" not in network.bytes_out(HERE)


@aio
async def test_invited_servers_see_what_the_invited_may_once_they_are_in(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network, initial_state=visibility("invited"))
    before = await here.send(alice, room_id, "before")
    await invitation(network, here, room_id, alice, bob)
    invited = await here.send(alice, room_id, "invited")
    await member(network, here, room_id, bob, "join")
    found = await backfilled(there, here, room_id, invited)
    assert (is_redacted(found[before]), is_redacted(found[invited])) == (True, False)


@aio
async def test_an_acl_keeps_a_server_out(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    event_id = await here.send(alice, room_id, "hello")
    await backfilled(there, here, room_id, event_id)
    path = f"/rooms/{quote(room_id)}/state/m.room.server_acl"
    await here.ask(alice, "PUT", path, {"allow": ["*"], "deny": ["*.test"]})
    await network.settle()  # the message has been sent before
    network.exchanges.clear()
    room = quote(room_id)
    assert await refusal(there, HERE, "GET", f"/backfill/{room}", v=event_id, limit=5) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/event/{quote(event_id)}") == NOT_FOUND
    assert await refusal(there, HERE, "GET", f"/event_auth/{room}/{quote(event_id)}") == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/state/{room}", event_id=event_id) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/state_ids/{room}", event_id=event_id) == FORBIDDEN
    wanted = {"earliest_events": [], "latest_events": [event_id]}
    assert await refusal(there, HERE, "POST", f"/get_missing_events/{room}", wanted) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/timestamp_to_event/{room}", ts=0, dir="f") == FORBIDDEN
    assert event_id.encode() not in network.bytes_out(HERE)
    assert refusals(here).value("forbidden") == 7


# borders ------------------------------------------------------------------------------------


@aio
@pytest.mark.parametrize("node", ["tehran", "paris"])
async def test_no_event_goes_where_no_flow_leads(network: Network, node: str) -> None:
    one_way = POLICY + flow("IR", "FR", "unknown") + flow("FR", "IR")
    here, there = await network.found(HERE, policy=one_way), await network.found(THERE)
    alice, bob = await here.user("alice"), await there.user("bob")
    other = await here.user("fr-other" if node == "paris" else "other", node)
    room_id = await here.room_of(alice, other)
    await here.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.join_rules", {"join_rule": "public"})
    event_id = await here.send(other, room_id, "hello")
    await here.settle()
    await member(network, here, room_id, bob, "join")
    room = quote(room_id)
    if node == "tehran":
        assert event_id in await backfilled(there, here, room_id, event_id)
        return
    wanted = {"earliest_events": [], "latest_events": [event_id]}
    assert await refusal(there, HERE, "GET", f"/backfill/{room}", v=event_id, limit=5) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/event/{quote(event_id)}") == NOT_FOUND
    assert await refusal(there, HERE, "GET", f"/event_auth/{room}/{quote(event_id)}") == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/state/{room}", event_id=event_id) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/state_ids/{room}", event_id=event_id) == FORBIDDEN
    assert await refusal(there, HERE, "POST", f"/get_missing_events/{room}", wanted) == FORBIDDEN
    assert await refusal(there, HERE, "GET", f"/timestamp_to_event/{room}", ts=0, dir="f") == FORBIDDEN
    assert event_id.encode() not in network.bytes_out(HERE)
    assert b"ciphertext" not in network.bytes_out(HERE)
    assert refusals(here).value("no_flow") == 7


# backwards ----------------------------------------------------------------------------------


@aio
async def test_backfill_goes_back_from_what_is_named(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    sent = [await here.send(alice, room_id, str(number)) for number in range(30)]
    assert list(await backfilled(there, here, room_id, sent[20], limit=15)) == sent[20:5:-1]
    everything = await backfilled(there, here, room_id, sent[-1])
    assert everything.keys() >= set(sent)
    assert [pdu["type"] for pdu in everything.values()][-1] == "m.room.create"
    assert len(await backfilled(there, here, room_id, sent[-1], limit=10**6)) <= 100
    trips = here.node("tehran").engine.trips
    await backfilled(there, here, room_id, sent[-1])
    assert here.node("tehran").engine.trips - trips < 20
    room = quote(room_id)
    assert await refusal(there, HERE, "GET", f"/backfill/{room}", limit=5) == (400, "M_MISSING_PARAM")
    assert await refusal(there, HERE, "GET", f"/backfill/{room}", v="$x") == (400, "M_MISSING_PARAM")
    assert await refusal(there, HERE, "GET", f"/backfill/{room}", v="$x", limit=0) == (400, "M_INVALID_PARAM")
    many = [f"${number}" for number in range(101)]
    assert await refusal(there, HERE, "GET", f"/backfill/{room}", v=many, limit=5) == (400, "M_INVALID_PARAM")


@aio
async def test_both_branches_of_a_fork_are_walked(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    fork = await made(network, here, room_id, bob, "m.room.encrypted", ciphertext("fork"))
    mine = await here.send(alice, room_id, "one branch")
    await given(here, room_id, fork)
    merged = await here.send(alice, room_id, "both")
    found = await backfilled(there, here, room_id, merged, limit=3)
    assert set(found) == {merged, mine, fork.event_id}


@aio
async def test_what_is_between(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network)
    await member(network, here, room_id, bob, "join")
    sent = [await here.send(alice, room_id, str(number)) for number in range(30)]

    async def missing(earliest: int, latest: int, **more: int) -> list[str]:
        wanted = {"earliest_events": [sent[earliest]], "latest_events": [sent[latest]], **more}
        answer = await asks(there, HERE, "POST", f"/get_missing_events/{quote(room_id)}", wanted)
        return list(await pdus_of(here, room_id, answer, "events"))

    assert await missing(10, 15) == sent[11:15]
    assert await missing(0, 29) == sent[19:29], "ten, if nothing else is said: the nearest"
    assert await missing(0, 29, limit=12) == sent[17:29]
    assert await missing(10, 15, limit=0) == []
    assert len(await missing(0, 29, limit=10**9)) == 28
    rows = await here.node("tehran").read(_depths, sent)
    assert await missing(0, 29, limit=20, min_depth=rows[25]) == sent[25:29]
    room = quote(room_id)
    assert await refusal(there, HERE, "POST", f"/get_missing_events/{room}", {}) == (400, "M_MISSING_PARAM")
    wrong: list[dict[str, Any]] = [
        {"earliest_events": "$x", "latest_events": []},
        {"earliest_events": [], "latest_events": [7]},
        {"earliest_events": [], "latest_events": ["$\0"]},
        {"earliest_events": [], "latest_events": [], "limit": "5"},
        {"earliest_events": [], "latest_events": [], "min_depth": -1},
    ]
    for body in wrong:
        assert await refusal(there, HERE, "POST", f"/get_missing_events/{room}", body) == (400, "M_BAD_JSON")


async def _depths(tx: Any, event_ids: list[str]) -> list[int]:
    from homeserver.storage import events

    rows = {row.event_id: row.depth for row in await events.by_ids(tx, event_ids)}
    return [rows[event_id] for event_id in event_ids]


@aio
@pytest.mark.parametrize("version", ["1", "2", "3", "6", "10", "11", "12"])
async def test_events_of_every_room_version_are_given_as_they_were_signed(network: Network, version: str) -> None:
    here, there, alice, bob, room_id = await scene(network, room_version=version)
    await member(network, here, room_id, bob, "join")
    spoken = await message(network, here, room_id, bob, "hello")
    redaction = f"/rooms/{quote(room_id)}/redact/{quote(spoken, safe='')}/r1"
    last = str((await here.ask(alice, "PUT", redaction, {"reason": "why not"}))["event_id"])
    found = await backfilled(there, here, room_id, last)
    rules = rules_of(version)
    for event_id, pdu in found.items():
        event = from_pdu(rules, pdu)
        key = network.plays[pdu["sender"].partition(":")[2]].server.identity.key
        event.verify(pdu["sender"].partition(":")[2], {key.key_id: key.verify_key})
        assert event.event_id == event_id
    assert is_redacted(found[spoken])


# moments ------------------------------------------------------------------------------------


@aio
async def test_the_event_nearest_to_a_moment(network: Network) -> None:
    here, there, alice, bob, room_id = await scene(network, initial_state=visibility("joined"))
    path = f"/timestamp_to_event/{quote(room_id)}"
    await network.clock.advance(100)
    await here.send(alice, room_id, "before")
    await network.clock.advance(100)
    joined = await member(network, here, room_id, bob, "join")
    first = network.clock.now_ms()
    await network.clock.advance(100)
    last = await here.send(alice, room_id, "last")
    now = network.clock.now_ms()
    assert await asks(there, HERE, "GET", path, ts=first + 1, dir="f") == {"event_id": last, "origin_server_ts": now}
    assert (await asks(there, HERE, "GET", path, ts=now - 1, dir="b"))["event_id"] == joined
    assert (await asks(there, HERE, "GET", path, ts=now, dir="b"))["event_id"] == last
    assert await refusal(there, HERE, "GET", path, ts=now + 1, dir="f") == NOT_FOUND
    assert (await asks(there, HERE, "GET", path, ts=first - 150_000, dir="f"))["event_id"] == joined, "not hidden ones"
    created = (await state.get(here.node("tehran"), room_id)).now.state["m.room.create", ""].event_id
    assert (await asks(there, HERE, "GET", path, ts=0, dir="f"))["event_id"] == created, "the state is theirs to read"
    assert await refusal(there, HERE, "GET", path, ts=now) == (400, "M_MISSING_PARAM")
    assert await refusal(there, HERE, "GET", path, ts="x", dir="f") == (400, "M_INVALID_PARAM")
    assert await refusal(there, HERE, "GET", path, ts=1, dir="x") == (400, "M_INVALID_PARAM")
