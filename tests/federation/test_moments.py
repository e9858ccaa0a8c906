"""The event nearest to a moment, for users: here, and on other servers where these may have a nearer one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.deployment import Answer, User
from tests.federation.meetings import enter
from tests.federation.test_backfill import A, B, asked, page, read_back, texts
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

MINUTE = 60


async def moment(play: Play, user: User, room_id: str, ts: int, direction: str) -> dict[str, Any]:
    answer = await asking(user, room_id, ts=str(ts), dir=direction)
    assert answer.status == 200, answer
    return answer.json


async def asking(user: User, room_id: str, **query: str) -> Answer:
    return await user.asks("GET", f"/_matrix/client/v1/rooms/{quote(room_id)}/timestamp_to_event", **query)


async def minutes(network: Network, play: Play, user: User, room_id: str, count: int) -> list[tuple[str, int]]:
    """A message a minute: event ids and moments."""
    found = []
    for number in range(count):
        await network.clock.advance(MINUTE)
        found.append((await play.send(user, room_id, str(number)), network.clock.now_ms()))
    return found


@aio
async def test_the_nearest_event_of_a_room(network: Network) -> None:
    a = await network.found(A)
    alice, bob = await a.user("alice"), await a.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    (first, at), (second, later) = await minutes(network, a, alice, room_id, 2)
    assert await moment(a, alice, room_id, at, "b") == {"event_id": first, "origin_server_ts": at}
    assert await moment(a, alice, room_id, at, "f") == {"event_id": first, "origin_server_ts": at}
    assert await moment(a, alice, room_id, at + 1, "f") == {"event_id": second, "origin_server_ts": later}
    assert await moment(a, alice, room_id, later - 1, "b") == {"event_id": first, "origin_server_ts": at}
    assert (await asking(alice, room_id, ts=str(later + 1), dir="f")).errcode == "M_NOT_FOUND"
    assert (await asking(alice, room_id, ts="0", dir="b")).errcode == "M_NOT_FOUND"
    assert (await asking(bob, room_id, ts="0", dir="f")).status == 403
    assert (await asking(alice, room_id, dir="f")).errcode == "M_MISSING_PARAM"
    assert (await asking(alice, room_id, ts="0")).errcode == "M_MISSING_PARAM"
    assert (await asking(alice, room_id, ts="x", dir="f")).errcode == "M_INVALID_PARAM"
    assert (await asking(alice, room_id, ts="0", dir="x")).errcode == "M_INVALID_PARAM"


@aio
async def test_what_a_user_may_not_see_is_not_near(network: Network) -> None:
    a = await network.found(A)
    alice, bob = await a.user("alice"), await a.user("bob")
    visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
    room_id = await a.create(alice, preset="public_chat", initial_state=[visibility])
    ((_, at),) = await minutes(network, a, alice, room_id, 1)
    await network.clock.advance(MINUTE)
    await a.change(bob, room_id, "join")
    joined = network.clock.now_ms()
    assert (await moment(a, bob, room_id, at, "f"))["origin_server_ts"] == joined


@aio
async def test_other_servers_are_asked_where_history_is_lacking(network: Network) -> None:
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    said = await minutes(network, a, alice, room_id, 300)
    await network.clock.advance(MINUTE)
    await enter(b, bob, room_id, A)
    event_id, at = said[50]
    assert await moment(b, bob, room_id, at - 1, "f") == {"event_id": event_id, "origin_server_ts": at}
    assert await moment(b, bob, room_id, at + 1, "b") == {"event_id": event_id, "origin_server_ts": at}
    around = await b.ask(bob, "GET", f"/rooms/{quote(room_id)}/context/{quote(event_id, safe='')}", limit="10")
    assert texts(around["events_before"]) == ["49", "48", "47", "46", "45"]
    assert texts(await read_back(b, bob, room_id)) == [str(number) for number in reversed(range(300))], "no disorder"
    assert len(asked(network, "timestamp_to_event")) <= 2


@aio
async def test_nobody_is_asked_what_is_known_here(network: Network) -> None:
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, A)
    await page(b, bob, room_id)
    said = await minutes(network, a, alice, room_id, 3)
    await network.settle()
    assert (await moment(b, bob, room_id, said[1][1], "b"))["event_id"] == said[1][0]
    assert (await moment(b, bob, room_id, 0, "f"))["event_id"]
    assert asked(network, "timestamp_to_event") == []


@aio
async def test_a_server_out_of_reach_is_no_error(network: Network) -> None:
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    said = await minutes(network, a, alice, room_id, 2)
    await enter(b, bob, room_id, A)
    network.cut(A, B)
    assert (await moment(b, bob, room_id, said[0][1], "f"))["origin_server_ts"] == network.clock.now_ms()
    assert (await asking(bob, room_id, ts=str(said[0][1]), dir="b")).errcode == "M_NOT_FOUND"
