"""Invitations by an address, once an identity server knows whose it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.signing import SigningKey, sign_json
from tests.deployment import User
from tests.federation.meetings import members, membership, told
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

IDENTITY = SigningKey("0", b"i" * 32)
ON_BIND = "/_matrix/federation/v1/3pid/onbind"


async def invite_by_address(play: Play, user: User, room_id: str) -> None:
    """What a server puts into a room when the address is nobody's yet."""
    content = {"display_name": "b…@e…", "public_key": IDENTITY.verify_key.base64, "key_validity_url": "https://id.test"}
    path = f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/token"
    await play.ask(user, "PUT", path, content)


def notice(room_id: str, sender: User, user: User, *, key: SigningKey = IDENTITY, mxid: str = "") -> dict[str, Any]:
    """What an identity server tells when an address has become somebody's."""
    address = {"medium": "email", "address": "bob@example.com", "mxid": mxid or user.user_id}
    signed = sign_json({"mxid": user.user_id, "token": "token"}, "id.test", key)
    return {**address, "invites": [{**address, "room_id": room_id, "sender": sender.user_id, "signed": signed}]}


@pytest.mark.parametrize("version", ["6", "12"])
@aio
async def test_who_proves_an_address_is_invited_by_another_server(network: Network, version: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob", "paris")
    room_id = await a.create(alice, name="Hall", room_version=version)
    await invite_by_address(a, alice, room_id)
    answer = await b.deployment.asked("PUT", ON_BIND, notice(room_id, alice, bob))
    assert answer.status == 200
    assert await told(b, bob, "invite", room_id) is not None
    assert await membership(a, alice, room_id, bob) == "invite"
    await b.change(bob, room_id, "join")
    assert await members(a, alice, room_id) == {alice.user_id, bob.user_id}


@aio
async def test_who_proves_an_address_is_invited_at_home(network: Network) -> None:
    a = await network.found("a.test")
    alice, bob = await a.user("alice"), await a.user("bob", "paris")
    room_id = await a.create(alice)
    await invite_by_address(a, alice, room_id)
    assert (await a.deployment.asked("PUT", ON_BIND, notice(room_id, alice, bob))).status == 200
    await a.settle()
    assert await told(a, bob, "invite", room_id) is not None
    assert not network.exchanges


@aio
async def test_nobody_else_is_believed(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, eve = await a.user("alice"), await b.user("bob"), await b.user("eve")
    room_id = await a.create(alice)
    await invite_by_address(a, alice, room_id)
    forged = notice(room_id, alice, bob, key=SigningKey("0", b"e" * 32))
    for_another = notice(room_id, alice, eve, mxid=bob.user_id)
    elsewhere = notice("!none:a.test", alice, bob)
    for body in (forged, for_another, elsewhere):
        assert (await b.deployment.asked("PUT", ON_BIND, body)).status == 200
        assert await told(b, bob, "invite", room_id) is None
        assert await told(b, eve, "invite", room_id) is None
    assert len([each for each in network.exchanges if "exchange_third_party" in each.target]) == 2
    nobody = notice(room_id, alice, bob, mxid="@nobody:b.test")
    assert (await b.deployment.asked("PUT", ON_BIND, nobody)).status == 404
    for body in ({}, {**forged, "mxid": 5}, {**forged, "invites": {}}):
        assert (await b.deployment.asked("PUT", ON_BIND, body)).status == 400
    assert (await b.deployment.asked("PUT", ON_BIND, {**forged, "invites": [1, {}, None]})).status == 200
