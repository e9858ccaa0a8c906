"""What is of the moment is told to a bounded number of servers: those that have the most to do with it."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from homeserver.rooms import outgoing
from tests.deployment import User
from tests.federation import guests
from tests.federation.test_outgoing_edus import be_online
from tests.federation.test_sender import ONE, THREE, TWO, contents, sent
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio


def told(network: Network, kind: str) -> list[str]:
    """Which servers have been told something, in the order of their names."""
    return [
        name
        for name in (THREE, TWO)
        for each in sent(network, ONE, name)
        for edu in contents(each)["edus"]
        if edu["edu_type"] == kind
    ]


async def hall(network: Network) -> tuple[Play, User, list[str]]:
    """Two rooms of alice on the first server: both with users of the second, one with a user of the third, too."""
    one, two, three = await network.found(ONE), await network.found(TWO), await network.found(THREE)
    alice, cleo = await one.user("alice"), await three.user("cleo")
    rooms = [await one.create(alice, preset="public_chat") for _ in range(2)]
    await guests.member(network, one, rooms[0], cleo, "join")
    for name in ("bob", "bill"):
        guest = await two.user(name)
        for room_id in rooms:
            await guests.member(network, one, room_id, guest, "join")
    await network.settle()
    return one, alice, rooms


@pytest.mark.parametrize(("most", "expected"), [(1, [TWO]), (2, [THREE, TWO])])
@aio
async def test_typing_is_told_to_the_servers_with_the_most_members(
    network: Network, monkeypatch: pytest.MonkeyPatch, most: int, expected: list[str]
) -> None:
    one, alice, rooms = await hall(network)
    monkeypatch.setattr(outgoing, "MOST_TOLD", most)
    path = f"/rooms/{quote(rooms[0])}/typing/{quote(alice.user_id)}"
    await one.ask(alice, "PUT", path, {"typing": True, "timeout": 20_000})
    await network.settle()
    assert told(network, "m.typing") == expected
    await one.ask(alice, "PUT", path, {"typing": False})
    await network.settle()
    assert told(network, "m.typing") == sorted(expected * 2)
    await one.send(alice, rooms[0], "hello")
    await network.settle()
    assert all(contents(sent(network, ONE, name)[-1])["pdus"] for name in (TWO, THREE)), "an event is for all"


@pytest.mark.parametrize(("most", "expected"), [(1, [TWO]), (2, [THREE, TWO])])
@aio
async def test_presence_is_told_to_the_servers_with_the_most_rooms_in_common(
    network: Network, monkeypatch: pytest.MonkeyPatch, most: int, expected: list[str]
) -> None:
    one, alice, _ = await hall(network)
    monkeypatch.setattr(outgoing, "MOST_TOLD", most)
    await be_online(one, alice)
    await network.settle()
    assert told(network, "m.presence") == expected
