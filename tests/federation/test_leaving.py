"""Refusing invitations, and leaving and coming back, between servers."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from config.load import policy_from_text
from homeserver.rooms import chores
from tests.deployment import PASSWORD, POLICY
from tests.federation.meetings import enter, kept_out, members, membership, told
from tests.network import OPEN, Network
from tests.rooms.play import CLIENT
from tests.support import aio


@pytest.mark.parametrize("version", ["1", "6", "12"])
@aio
async def test_an_invitation_is_refused(network: Network, version: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id], room_version=version)
    await b.change(bob, room_id, "leave", reason="no time")
    assert await membership(a, alice, room_id, bob) == "leave"
    assert await told(b, bob, "invite", room_id) is None
    left = await told(b, bob, "leave", room_id)
    assert left is not None
    (event,) = left["timeline"]["events"]
    assert event["content"] == {"membership": "leave", "reason": "no time"}
    await b.change(bob, room_id, "leave")  # twice is as good as once
    assert (await b.refused(bob, "POST", f"/rooms/{quote(room_id)}/join", {})).status == 403


@aio
async def test_nobody_can_make_a_user_keep_an_invitation(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id], room_version="2")
    network.cut("a.test", "b.test")
    await b.change(bob, room_id, "leave")
    assert await told(b, bob, "invite", room_id) is None
    assert await told(b, bob, "leave", room_id) is not None
    assert await membership(a, alice, room_id, bob) == "invite"


@aio
async def test_a_refusal_whose_answer_was_lost_holds_on_both_sides(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id])
    network.lose_answers("b.test", "a.test")
    await b.change(bob, room_id, "leave")
    assert await told(b, bob, "invite", room_id) is None
    assert await membership(a, alice, room_id, bob) == "invite", "the template was lost, so nothing followed"


@aio
async def test_a_refusal_does_not_leave_where_no_flow_leads_any_more(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id])
    closed = await network.found("c.test", policy=POLICY)
    b.server.policy.now = closed.server.policy.now
    await network.settle()
    before = network.bytes_out("b.test")
    await b.change(bob, room_id, "leave")
    await network.settle()
    assert network.bytes_out("b.test") == before
    assert await told(b, bob, "invite", room_id) is None


@aio
async def test_who_left_comes_back_to_what_the_room_has_become(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat", name="Before")
    await enter(b, bob, room_id, "a.test")
    await network.settle()
    await b.change(bob, room_id, "leave")
    await network.settle()
    assert await membership(a, alice, room_id, bob) == "leave"
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "After"})
    carol = await a.user("carol")
    await a.change(carol, room_id, "join")
    await b.ask(bob, "POST", f"/join/{quote(room_id)}", {})
    await network.settle()
    assert await a.state_of("tehran", room_id) == await b.state_of("tehran", room_id)
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id, carol.user_id}
    assert (await b.ask(bob, "GET", f"/rooms/{quote(room_id)}/state/m.room.name/")) == {"name": "After"}
    await b.send(bob, room_id, "again")
    await network.settle()
    assert await a.texts(alice, room_id) == ["again"]


@aio
async def test_who_comes_back_from_another_node_makes_that_the_home(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol", "paris")
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, "a.test")
    await b.change(bob, room_id, "leave")
    await network.settle()
    await enter(b, carol, room_id, "a.test")
    assert await b.server.nodes.of_room(room_id) is b.node("paris")
    await b.change(bob, room_id, "join")
    await network.settle()
    assert await b.state_of("tehran", room_id) == await b.state_of("paris", room_id)
    assert (await b.replica("tehran", room_id)).home == "paris"
    assert await members(a, alice, room_id) == {alice.user_id, bob.user_id, carol.user_id}


@aio
async def test_an_invitation_is_taken_back(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob", "paris")
    room_id = await a.create(alice, invite=[bob.user_id])
    await a.change(alice, room_id, "kick", user_id=bob.user_id)
    await network.settle()
    assert await told(b, bob, "invite", room_id) is None
    assert await told(b, bob, "leave", room_id) is not None


@aio
async def test_nobody_joins_what_was_left_without_asking_who_is_there(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol")
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, "a.test")
    await b.change(bob, room_id, "leave")
    await network.settle()
    network.cut("a.test", "b.test")
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(carol.user_id)}"
    assert (await b.refused(carol, "PUT", path, {"membership": "join"})).status == 403
    assert (await b.refused(carol, "POST", f"/rooms/{quote(room_id)}/join", {})).status == 502


@aio
async def test_whose_account_is_closed_refuses_invitations(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id])
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": bob.user_id}, "password": PASSWORD}
    await b.ask(bob, "POST", "/account/deactivate", {"auth": auth})
    await chores.leave_rooms(b.server)
    assert await membership(a, alice, room_id, bob) == "leave"


@aio
async def test_somebody_is_removed_and_banned(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    await enter(b, bob, room_id, "a.test")
    await a.change(alice, room_id, "kick", user_id=bob.user_id)
    await network.settle()
    assert await told(b, bob, "leave", room_id) is not None
    await enter(b, bob, room_id, "a.test")
    await a.change(alice, room_id, "ban", user_id=bob.user_id)
    await network.settle()
    assert (await kept_out(bob, room_id, "a.test")).status == 403
    await a.change(alice, room_id, "unban", user_id=bob.user_id)
    await enter(b, bob, room_id, "a.test")
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}


NO_EVENTS = OPEN.replace(
    '[[flows]]\nfrom = "IR"\nto = ["unknown"]\nclasses = ["*"]',
    '[[flows]]\nfrom = "IR"\nto = ["unknown"]\nclasses = ["keys", "profile"]',
)
"""No events flow between Iran and servers that nobody has placed, either way."""


@aio
async def test_an_invitation_that_is_taken_back_is_gone_where_no_events_may_come_in(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id])
    assert await told(b, bob, "invite", room_id) is not None
    b.server.policy.now = policy_from_text(NO_EVENTS, "residency.toml", "b.test")
    await a.change(alice, room_id, "kick", user_id=bob.user_id, reason="a secret of hers")
    await network.settle()
    assert await told(b, bob, "invite", room_id) is None
    left = await told(b, bob, "leave", room_id)
    assert left is not None
    (event,) = left["timeline"]["events"]
    assert (event["sender"], event["content"]) == (bob.user_id, {"membership": "leave"})
    assert "a secret of hers" not in str(await b.ask(bob, "GET", "/sync"))


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_an_invitation_that_the_room_knows_nothing_of_is_refused(network: Network, node: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, dora = await a.user("alice"), await b.user("bob", node), await b.user("dora")
    room_id = await a.create(alice, preset="public_chat")
    network.lose_answers("a.test", "b.test")
    await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    network.mend("a.test", "b.test")
    assert await told(b, bob, "invite", room_id) is not None
    await enter(b, dora, room_id, "a.test")
    assert await told(b, bob, "invite", room_id) is not None
    await b.change(bob, room_id, "leave")
    assert await told(b, bob, "invite", room_id) is None
    assert await told(b, bob, "leave", room_id) is not None
    await b.change(bob, room_id, "join")
    await network.settle()
    assert await members(a, alice, room_id) == {alice.user_id, bob.user_id, dora.user_id}


@aio
async def test_who_was_banned_meanwhile_keeps_no_invitation(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, dora = await a.user("alice"), await b.user("bob"), await b.user("dora")
    room_id = await a.create(alice, preset="public_chat", invite=[bob.user_id])
    network.cut("a.test", "b.test")
    await a.change(alice, room_id, "ban", user_id=bob.user_id)
    await network.settle()
    network.mend("a.test", "b.test")
    await enter(b, dora, room_id, "a.test")
    await b.refused(bob, "POST", f"/rooms/{quote(room_id)}/join", {})
    assert (await bob.asks("POST", f"{CLIENT}/rooms/{quote(room_id)}/leave", {})).status == 403
    assert await told(b, bob, "invite", room_id) is None
    assert await membership(b, dora, room_id, bob) == "ban"
    assert (await b.replica("tehran", room_id)).now.membership(bob.user_id) == "ban"
