"""Servers that come into a room after somebody asked to be forgotten get what that user wrote redacted, however they
ask; those that were there have had it, and may have it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.accounts.deactivation import deactivate
from homeserver.rooms import chores
from tests.deployment import User
from tests.federation.guests import asks
from tests.federation.meetings import enter, members
from tests.network import Network
from tests.rooms.play import Play, text_of
from tests.support import aio

HOST = "a.test"


@dataclass
class Scene:
    """A room of a.test in which alice wrote ``first`` while bob of b.test was there, and ``second`` while he was not;
    then she was erased. Both are there again, with carol of c.test, who never was before."""

    network: Network
    host: Play
    room_id: str
    ward: User
    bob: User
    carol: User
    first: str
    second: str
    last: str

    async def told(self, name: str, path: str, **query: Any) -> dict[str, Any]:
        return await asks(self.network.plays[name], HOST, "GET", path, **query)


async def scene(network: Network, home: str) -> Scene:
    a, b, c = [await network.found(name) for name in (HOST, "b.test", "c.test")]
    ward, alice = await a.user("ward", home), await a.user("alice")
    bob, carol = await b.user("bob"), await c.user("carol")
    await a.ask(alice, "PUT", f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "Alice of the roses"})
    room_id = await a.create(ward, preset="public_chat")
    await enter(b, bob, room_id, HOST)
    await a.change(alice, room_id, "join")
    await a.settle()
    first = await a.send(alice, room_id, "first")
    await network.settle()
    await b.change(bob, room_id, "leave")
    await network.settle()
    second = await a.send(alice, room_id, "second")
    await network.settle()
    await deactivate(a.server, alice.user_id, erase=True)
    await chores.leave_rooms(a.server)
    await network.settle()
    for play, user in ((b, bob), (c, carol)):
        await enter(play, user, room_id, HOST)
    last = await a.send(ward, room_id, "last")
    await network.settle()
    return Scene(network, a, room_id, ward, bob, carol, first, second, last)


def texts(pdus: list[dict[str, Any]]) -> list[str]:
    return [text_of(pdu) for pdu in pdus if pdu["type"] == "m.room.encrypted"]


@pytest.mark.parametrize("home", ["tehran", "paris"])
@aio
async def test_who_comes_later_gets_it_redacted(network: Network, home: str) -> None:
    made = await scene(network, home)
    room, between = quote(made.room_id), {"earliest_events": [], "latest_events": [made.last], "limit": 50}
    for name, expected in (("b.test", ["first", "<redacted>"]), ("c.test", ["<redacted>", "<redacted>"])):
        got = [(await made.told(name, f"/event/{quote(each)}"))["pdus"] for each in (made.first, made.second)]
        assert [texts(pdus) for pdus in got] == [[each] for each in expected]
        pdus = (await made.told(name, f"/backfill/{room}", v=made.last, limit=100))["pdus"]
        assert texts(pdus)[::-1] == [*expected, "last"]
        found = await asks(network.plays[name], HOST, "POST", f"/get_missing_events/{room}", between)
        assert texts(found["events"]) == expected
        shown = any(pdu["content"].get("displayname") == "Alice of the roses" for pdu in pdus)
        assert shown == (name == "b.test"), "who was there when she came"


@aio
async def test_the_state_of_a_room_stays_whole(network: Network) -> None:
    made = await scene(network, "tehran")
    everybody = {made.ward.user_id, made.bob.user_id, made.carol.user_id}
    assert await members(network.plays["c.test"], made.carol, made.room_id) == everybody
    room = quote(made.room_id)
    by_server = [await made.told(name, f"/state/{room}", event_id=made.last) for name in ("b.test", "c.test")]
    assert by_server[0] == by_server[1]
    states = [await made.told(name, f"/event_auth/{room}/{quote(made.first)}") for name in ("b.test", "c.test")]
    assert states[0] == states[1]
    left = next(pdu for pdu in by_server[0]["pdus"] if pdu.get("state_key") == "@alice:a.test")
    assert left["content"]["membership"] == "leave"


@aio
async def test_what_a_user_elsewhere_reads_of_it(network: Network) -> None:
    made = await scene(network, "tehran")
    c = network.plays["c.test"]
    page = await c.ask(made.carol, "GET", f"/rooms/{quote(made.room_id)}/messages", dir="b", limit="100")
    assert [text_of(event) for event in page["chunk"] if event["type"] == "m.room.encrypted"] == [
        "last",
        "<redacted>",
        "<redacted>",
    ]


@aio
async def test_who_is_merely_gone_is_not_redacted(network: Network) -> None:
    a, c = await network.found(HOST), await network.found("c.test")
    ward, alice, carol = await a.user("ward"), await a.user("alice"), await c.user("carol")
    room_id = await a.create(ward, preset="public_chat")
    await a.change(alice, room_id, "join")
    event_id = await a.send(alice, room_id, "hello")
    await deactivate(a.server, alice.user_id)
    await chores.leave_rooms(a.server)
    await enter(c, carol, room_id, HOST)
    await network.settle()
    assert texts((await asks(c, HOST, "GET", f"/event/{quote(event_id)}"))["pdus"]) == ["hello"]
