"""Requests about membership with every part of them spoilt in turn: each is refused in words, and harms nobody."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any
from urllib.parse import quote

import pytest

from federation import remote
from homeserver.protocol import canonical
from tests.deployment import User
from tests.federation.meetings import members
from tests.federation.test_resident import invitation, joining
from tests.federation.test_third_party import invite_by_address, notice
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

ODD: list[Any] = [None, True, -1, 2**80, 0.5, "", "\0", "@:", "x" * 70_000, [], [None], {}, {"": None}, [[["$e", {}]]]]


def spoilt(value: Any) -> Iterator[Any]:
    """Copies of a JSON object in each of which one part is another thing, or lacks."""
    for path in _paths(value):
        for odd in ODD:
            copy = deepcopy(value)
            _holder(copy, path)[path[-1]] = odd
            yield copy
        copy = deepcopy(value)
        del _holder(copy, path)[path[-1]]
        yield copy


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, part in parts:
        yield (*before, name)
        yield from _paths(part, (*before, name))


def _holder(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path[:-1]:
        value = value[name]
    return value


async def _statuses(source: Play, destination: str, target: str, bodies: Iterator[Any]) -> set[int]:
    found = set()
    for body in bodies:
        encoded = canonical.encode(body, strict=False)
        found.add(await _status(source, destination, "PUT", target, encoded))
    return found


async def _status(source: Play, destination: str, method: str, target: str, body: bytes | None = None) -> int:
    try:
        await remote.ask(source.server, destination, method, target, body, most=2**20)
    except remote.RemoteRefusal as refusal:
        return refusal.status if refusal.errcode else 0
    return 200


async def _hall(network: Network, version: str) -> tuple[Play, Play, User, User, str]:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    return a, b, alice, bob, await a.create(alice, preset="public_chat", room_version=version)


@pytest.mark.parametrize("version", ["1", "11"])
@pytest.mark.parametrize("kind", ["join", "leave", "knock"])
@aio
async def test_member_events(network: Network, version: str, kind: str) -> None:
    a, b, alice, bob, room_id = await _hall(network, version)
    event = await joining(b, room_id, bob.user_id)
    path = f"send_{kind}/{quote(room_id, safe='')}/{quote(event.event_id, safe='')}"
    target = f"/_matrix/federation/{'v1' if kind == 'knock' else 'v2'}/{path}"
    statuses = await _statuses(b, "a.test", target, spoilt(event.pdu()))
    assert statuses <= {200, 400, 403, 404, 413}
    assert (200 in statuses) <= (kind == "join"), "what is not signed may be spoilt"
    assert alice.user_id in await members(a, alice, room_id)


@pytest.mark.parametrize("version", ["1", "12"])
@aio
async def test_invitations(network: Network, version: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    asked = await invitation(a, b, alice, bob, network, version)
    statuses = await _statuses(a, "b.test", asked["target"], spoilt(asked["body"]))
    assert 400 in statuses
    assert statuses <= {200, 400, 403, 404, 413}


@aio
async def test_third_party_invites(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network, "11")
    await invite_by_address(a, alice, room_id)
    told = notice(room_id, alice, bob)
    signed = told["invites"][0]["signed"]
    content = {"membership": "invite", "third_party_invite": {"display_name": "b", "signed": signed}}
    body = {
        "type": "m.room.member",
        "room_id": room_id,
        "sender": alice.user_id,
        "state_key": bob.user_id,
        "content": content,
    }
    target = f"/_matrix/federation/v1/exchange_third_party_invite/{quote(room_id, safe='')}"
    statuses = await _statuses(b, "a.test", target, spoilt(body))
    assert statuses <= {200, 400, 403, 404, 413}
    for changed in spoilt(told):
        path = "/_matrix/federation/v1/3pid/onbind"
        answer = await b.deployment.asked("PUT", path, canonical.encode(changed, strict=False))
        assert answer.status in (200, 400, 404, 413), changed


@pytest.mark.parametrize("kind", ["join", "leave", "knock"])
@aio
async def test_templates(network: Network, kind: str) -> None:
    _, b, _, bob, room_id = await _hall(network, "11")
    names = ["", "!", "!x", "!x:a.test", "x" * 300, "\0", "%", "@bob:b.test", "..", "/", "é"]
    for room in [*names, room_id]:
        for user in [*names, bob.user_id]:
            target = f"/_matrix/federation/v1/make_{kind}/{quote(room, safe='')}/{quote(user, safe='')}?ver=%00&ver=11"
            if room and user:  # else there is no such address
                assert await _status(b, "a.test", "GET", target) in (200, 400, 403, 404), (room, user)


@aio
async def test_rooms_with_names_that_are_none(network: Network) -> None:
    _, _, _, bob, _ = await _hall(network, "11")
    for room in ("!" + "x" * 9000 + ":a.test", "!x:a test", "!x:", "x", "!x:a.test:99999999", "!\0:a.test"):
        for verb in ("join", "leave", "forget"):
            path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/{verb}"
            assert (await bob.asks("POST", path, {})).status in (400, 403, 404), (room, verb)
        path = f"/_matrix/client/v3/knock/{quote(room, safe='')}"
        assert (await bob.asks("POST", path, {}, via="a.test")).status in (400, 403, 404), room
    assert not [each for each in network.exchanges if each.source == "b.test"]
