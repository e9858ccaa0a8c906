"""Users are asked before rooms of theirs reach other servers, and nothing leaves until they agree."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.deployment import User
from tests.federation.meetings import enter, known, members, membership, told
from tests.federation.test_third_party import ON_BIND, invite_by_address, notice, proof
from tests.network import OPEN, Network
from tests.residency.asking import agree, asked
from tests.rooms.play import CLIENT, Play
from tests.support import aio

ASKING = OPEN.replace("consent = false\n", "")
PLACED = (
    ASKING
    + """
[jurisdictions.DE]
name = "Germany"
[[peers]]
server = "c.test"
jurisdiction = "DE"
"""
    + "".join(
        f'[[flows]]\nfrom = "{source}"\nto = {targets}\nclasses = ["*"]\n'
        for source, targets in (("IR", '["DE"]'), ("FR", '["DE"]'), ("DE", '["IR", "FR", "unknown"]'))
    )
)


async def meeting(network: Network) -> tuple[Play, Play, User, User]:
    """Alice, whose server asks, and bob, of a server that nobody has placed."""
    a, b = await network.found("a.test", policy=ASKING), await network.found("b.test")
    return a, b, await a.user("alice"), await b.user("bob")


@pytest.mark.parametrize("verb", ["join", "knock"])
@aio
async def test_coming_into_a_room_of_others(network: Network, verb: str) -> None:
    a, b, alice, bob = await meeting(network)
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "public" if verb == "join" else "knock"}}
    room_id = await b.create(bob, initial_state=[rule])
    path = f"{CLIENT}/{verb}/{quote(room_id)}"
    address = asked(await alice.asks("POST", path, {}, via="b.test"), "unknown")
    assert network.exchanges == []
    assert not await known(a, room_id)
    await agree(alice, address)
    assert (await alice.asks("POST", path, {}, via="b.test")).status == 200
    assert await membership(b, bob, room_id, alice) == verb


@aio
async def test_inviting_a_user_of_another_server(network: Network) -> None:
    a, b, alice, bob = await meeting(network)
    room_id = await a.create(alice)
    path = f"{CLIENT}/rooms/{quote(room_id)}/invite"
    address = asked(await alice.asks("POST", path, {"user_id": bob.user_id}), "unknown")
    asked(await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]}), "unknown")
    assert network.exchanges == []
    await agree(alice, address)
    assert (await alice.asks("POST", path, {"user_id": bob.user_id})).status == 200
    assert await told(b, bob, "invite", room_id) is not None


@aio
async def test_an_invitation_asks_when_it_is_accepted(network: Network) -> None:
    """Whoever is invited is shown that; to refuse asks nothing."""
    a, b, alice, bob = await meeting(network)
    rooms = [await b.create(bob, invite=[alice.user_id]) for _ in range(2)]
    assert await told(a, alice, "invite", rooms[0]) is not None
    sent = len(network.exchanges)
    address = asked(await alice.asks("POST", f"{CLIENT}/rooms/{quote(rooms[0])}/join", {}), "unknown")
    assert len(network.exchanges) == sent
    await a.change(alice, rooms[1], "leave")
    await agree(alice, address)
    await a.change(alice, rooms[0], "join")
    assert await members(b, bob, rooms[0]) == {alice.user_id, bob.user_id}


@aio
async def test_who_is_in_a_room_is_told_by_the_answer_to_the_join_alone(network: Network) -> None:
    """Then the user leaves again at once, is asked about all that is there, and nothing of the room is kept."""
    a = await network.found("a.test", policy=PLACED)
    b, c = await network.found("b.test"), await network.found("c.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await c.user("carol")
    room_id = await b.create(bob, preset="public_chat")
    await enter(c, carol, room_id, "b.test")
    path = f"{CLIENT}/join/{quote(room_id)}"
    await agree(alice, asked(await alice.asks("POST", path, {}, via="b.test"), "unknown"))
    address = asked(await alice.asks("POST", path, {}, via="b.test"), "DE")
    assert not await known(a, room_id)
    assert await members(b, bob, room_id) == {bob.user_id, carol.user_id}
    await agree(alice, address)
    await enter(a, alice, room_id, "b.test")
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id, carol.user_id}


@aio
async def test_users_of_others_come_without_our_members_being_asked(network: Network) -> None:
    a, b, alice, bob = await meeting(network)
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, "a.test")
    await a.send(alice, room_id, "welcome")
    await network.settle()
    assert await b.texts(bob, room_id) == ["welcome"]
    asked(await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]}), "unknown")


@pytest.mark.parametrize("agrees", [False, True])
@aio
async def test_nobody_is_invited_by_address_in_the_name_of_who_has_not_agreed(network: Network, agrees: bool) -> None:
    a, b, alice, bob = await meeting(network)
    room_id = await a.create(alice)
    await invite_by_address(a, alice, room_id)
    if agrees:
        answer = await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]})
        await agree(alice, asked(answer, "unknown"))
    assert (await b.deployment.asked("PUT", ON_BIND, notice(room_id, alice, bob))).status == 200
    assert (await told(b, bob, "invite", room_id) is not None) is agrees
    (exchange,) = [each for each in network.exchanges if "exchange_third_party" in each.target]
    assert exchange.status == (200 if agrees else 403)
    assert b"consent" not in exchange.answer


@aio
async def test_nobody_is_invited_by_address_at_home_in_the_name_of_who_has_not_agreed(network: Network) -> None:
    a = await network.found("a.test", policy=ASKING)
    alice, bob = await a.user("alice"), await a.user("bob", "paris")
    room_id = await a.create(alice)
    await invite_by_address(a, alice, room_id)
    assert (await a.deployment.asked("PUT", ON_BIND, notice(room_id, alice, bob))).status == 200
    assert await told(a, bob, "invite", room_id) is None
    path = f"{CLIENT}/rooms/{quote(room_id)}/join"
    body = {"third_party_signed": proof(alice, bob)}
    await agree(bob, asked(await bob.asks("POST", path, body), "IR", source="FR"))
    assert (await bob.asks("POST", path, body)).errcode == "M_FORBIDDEN"
    answer = await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]})
    await agree(alice, asked(answer, "FR"))
    assert (await bob.asks("POST", path, body)).status == 200


@aio
async def test_who_brings_a_proof_is_asked_before_it_leaves(network: Network) -> None:
    _, b, alice, bob = await meeting(network)
    room_id = await b.create(bob)
    await invite_by_address(b, bob, room_id)
    path, body = f"{CLIENT}/rooms/{quote(room_id)}/join", {"third_party_signed": proof(bob, alice)}
    address = asked(await alice.asks("POST", path, body), "unknown")
    assert network.exchanges == []
    await agree(alice, address)
    assert (await alice.asks("POST", path, body)).status == 200
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}
