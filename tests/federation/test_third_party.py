"""Invitations by an address, once an identity server knows whose it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.signing import SigningKey, sign_json
from tests.deployment import POLICY, User
from tests.federation.meetings import members, membership, told
from tests.network import Network
from tests.rooms.play import CLIENT, Play
from tests.support import aio

IDENTITY = SigningKey("0", b"i" * 32)
ON_BIND = "/_matrix/federation/v1/3pid/onbind"


async def invite_by_address(play: Play, user: User, room_id: str) -> None:
    """What a server puts into a room when the address is nobody's yet."""
    content = {"display_name": "b…@e…", "public_key": IDENTITY.verify_key.base64}  # valid for ever: nobody to be asked
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


# with the request to join -------------------------------------------------------------------


def proof(sender: User, user: User, *, key: SigningKey = IDENTITY, token: str = "token") -> dict[str, Any]:
    """What an identity server gives to whoever proves that the address is theirs."""
    return sign_json({"mxid": user.user_id, "sender": sender.user_id, "token": token}, "id.test", key)


def join_paths(room_id: str) -> list[str]:
    return [f"{CLIENT}/rooms/{quote(room_id)}/join", f"{CLIENT}/join/{quote(room_id)}"]


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_who_brings_a_proof_joins_here(network: Network, way: int, node: str) -> None:
    a = await network.found("a.test")
    alice, bob = await a.user("alice"), await a.user("bob", node)
    room_id = await a.create(alice)
    await invite_by_address(a, alice, room_id)
    path = join_paths(room_id)[way]
    assert (await bob.asks("POST", path, {})).status == 403
    answer = await bob.asks("POST", path, {"third_party_signed": proof(alice, bob), "reason": "at last"})
    assert (answer.status, answer.json) == (200, {"room_id": room_id})
    assert await members(a, alice, room_id) == {alice.user_id, bob.user_id}
    invited = next(each for each in await a.timeline(alice, room_id) if "third_party_invite" in each["content"])
    assert (invited["sender"], invited["state_key"]) == (alice.user_id, bob.user_id)
    assert invited["content"]["third_party_invite"]["signed"] == proof(alice, bob)
    again = await bob.asks("POST", path, {"third_party_signed": proof(alice, bob)})
    assert again.status == 200


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("version", ["6", "12"])
@aio
async def test_who_brings_a_proof_joins_elsewhere(network: Network, version: str, present: bool) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, dora = await a.user("alice"), await b.user("bob", "paris"), await b.user("dora")
    room_id = await a.create(alice, room_version=version, invite=[dora.user_id] if present else [])
    expected = {alice.user_id, bob.user_id}
    if present:
        await b.change(dora, room_id, "join")
        expected.add(dora.user_id)
    await invite_by_address(a, alice, room_id)
    await network.settle()
    answer = await bob.asks("POST", join_paths(room_id)[0], {"third_party_signed": proof(alice, bob)})
    assert answer.status == 200, answer
    await network.settle()
    assert await members(a, alice, room_id) == expected
    assert await members(b, bob, room_id) == expected


@pytest.mark.parametrize("server", ["a.test", "b.test"])
@aio
async def test_a_proof_that_is_none_lets_nobody_in(network: Network, server: str) -> None:
    a, _ = await network.found("a.test"), await network.found("b.test")
    alice, eve = await a.user("alice"), await a.user("eve")
    bob = await network.plays[server].user("bob")
    room_id = await a.create(alice)
    await invite_by_address(a, alice, room_id)
    path = join_paths(room_id)[1]
    for signed in (
        proof(alice, eve),
        proof(alice, bob, key=SigningKey("0", b"e" * 32)),
        proof(alice, bob, token="other"),
        proof(eve, bob),
    ):
        answer = await bob.asks("POST", path, {"third_party_signed": signed}, via="a.test")
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), signed
    whole = proof(alice, bob)
    for name in whole:
        broken = {key: value for key, value in whole.items() if key != name}
        assert (await bob.asks("POST", path, {"third_party_signed": broken}, via="a.test")).status == 400
    assert (await bob.asks("POST", path, {"third_party_signed": {**whole, "sender": "eve"}})).status == 400
    await a.change(alice, room_id, "invite", user_id=bob.user_id)
    for signed in (proof(alice, eve), proof(alice, bob, token="other")):
        assert (await bob.asks("POST", path, {"third_party_signed": signed})).status == 403, "though he is invited"
    assert await members(a, alice, room_id) == {alice.user_id}


@aio
async def test_a_proof_is_not_taken_across_a_border(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test", policy=POLICY)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice)
    await invite_by_address(a, alice, room_id)
    answer = await bob.asks("POST", join_paths(room_id)[1], {"third_party_signed": proof(alice, bob)}, via="a.test")
    assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")
    assert network.exchanges == []
