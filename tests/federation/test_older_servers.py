"""Inviting users of a server that is too old for the route of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.runtime.exchange import Answer
from homeserver.runtime.outbound import Place
from tests.deployment import User
from tests.federation.meetings import members, membership, told
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

UNKNOWN = {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}


class Old:
    """A server that knows not all routes; ``asked`` are the versions of those by which it was asked to sign."""

    def __init__(self, network: Network, name: str) -> None:
        self.said: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self._name = name
        self._carry = network.carry
        network.carry = self.carry  # type: ignore[method-assign]

    def says(self, version: str, status: int, body: object) -> None:
        """Answer so on the route of a version."""
        self.said[version] = status, body if isinstance(body, bytes) else orjson.dumps(body)

    async def carry(
        self, source: str, place: Place, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """`Network.carry`, with what it says."""
        version, _, rest = target.removeprefix("/_matrix/federation/").partition("/")
        if place.targets[0].host == self._name and rest.startswith("invite/"):
            self.asked.append(version)
            if version in self.said:
                status, said = self.said[version]
                return Answer(status, {}, said)
        return await self._carry(source, place, method, target, headers, body)


async def towns(network: Network, version: str) -> tuple[Play, Play, User, User, str, Old]:
    """Two servers, of which the second is old, and a room of the first."""
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, room_version=version, name="Hall")
    return a, b, alice, bob, room_id, Old(network, "b.test")


async def refused(play: Play, user: User, room_id: str, other: str) -> tuple[int, str | None]:
    """Invite somebody, in vain and without a trace."""
    answer = await play.refused(user, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": other})
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(other)}"
    assert (await play.refused(user, "GET", path)).status == 404
    return answer.status, answer.errcode


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize(("status", "body"), [(404, UNKNOWN), (405, UNKNOWN), (400, UNKNOWN), (404, b"<h1>404</h1>")])
@aio
async def test_a_server_that_knows_the_older_route_only_is_asked_by_it(
    network: Network, version: str, status: int, body: object
) -> None:
    a, b, alice, bob, room_id, old = await towns(network, version)
    old.says("v2", status, body)
    await a.change(alice, room_id, "invite", user_id=bob.user_id)
    assert old.asked == ["v2", "v1"]
    assert await membership(a, alice, room_id, bob) == "invite"
    shown = await told(b, bob, "invite", room_id)
    assert shown is not None
    assert {"name": "Hall"} in [event["content"] for event in shown["invite_state"]["events"]]
    await b.change(bob, room_id, "join")
    assert await members(a, alice, room_id) == await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@aio
async def test_the_older_route_is_for_older_rooms(network: Network) -> None:
    a, _, alice, bob, room_id, old = await towns(network, "3")
    old.says("v2", 404, UNKNOWN)
    assert (await refused(a, alice, room_id, bob.user_id))[0] == 404
    assert old.asked == ["v2"]


@pytest.mark.parametrize(
    ("status", "errcode", "told_as"),
    [(403, "M_FORBIDDEN", 403), (400, "M_INCOMPATIBLE_ROOM_VERSION", 400), (404, "M_NOT_FOUND", 404)],
)
@aio
async def test_who_says_no_is_not_asked_again(network: Network, status: int, errcode: str, told_as: int) -> None:
    a, _, alice, bob, room_id, old = await towns(network, "1")
    old.says("v2", status, {"errcode": errcode, "error": "No"})
    assert (await refused(a, alice, room_id, bob.user_id))[0] == told_as
    assert old.asked == ["v2"]


@pytest.mark.parametrize(
    ("status", "body", "told_as"),
    [
        (200, [403, {"errcode": "M_FORBIDDEN", "error": "No"}], 403),
        (403, {"errcode": "M_FORBIDDEN", "error": "No"}, 403),
        (404, {"errcode": "M_NOT_FOUND", "error": "Who?"}, 404),
        (200, [200], 502),
        (200, [200, {}], 502),
        (200, [200, []], 502),
        (200, ["200", {"event": {}}], 502),
        (200, b"[", 502),
    ],
)
@aio
async def test_what_an_old_server_says_is_not_believed_more(
    network: Network, status: int, body: Any, told_as: int
) -> None:
    a, _, alice, bob, room_id, old = await towns(network, "2")
    old.says("v2", 404, UNKNOWN)
    old.says("v1", status, body)
    assert (await refused(a, alice, room_id, bob.user_id))[0] == told_as
    assert old.asked == ["v2", "v1"]


@aio
async def test_a_server_that_knows_no_route_does_not_answer(network: Network) -> None:
    a, _, alice, bob, room_id, old = await towns(network, "1")
    old.says("v2", 400, UNKNOWN)
    old.says("v1", 400, UNKNOWN)
    assert (await refused(a, alice, room_id, bob.user_id))[0] == 502
