"""Rooms that the members of another room may join, between servers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.federation.changes import spoil
from tests.federation.meetings import enter, kept_out, known, members
from tests.network import Network
from tests.support import aio


def for_members_of(room_id: str, rule: str = "restricted") -> list[dict[str, Any]]:
    """The state by which the members of a room are let in."""
    allow = [{"type": "m.room_membership", "room_id": room_id}]
    return [{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": rule, "allow": allow}}]


@pytest.mark.parametrize(("version", "rule"), [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")])
@aio
async def test_members_of_another_room_are_let_in(network: Network, version: str, rule: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    hall = await a.create(alice, preset="public_chat")
    room_id = await a.create(alice, initial_state=for_members_of(hall, rule), room_version=version)
    refused = await kept_out(bob, room_id, "a.test")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    await enter(b, bob, hall, "a.test")
    await enter(b, bob, room_id, "a.test")
    assert await members(a, alice, room_id) == await members(b, bob, room_id) == {alice.user_id, bob.user_id}
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert (await b.ask(bob, "GET", path))["join_authorised_via_users_server"] == alice.user_id
    room = await b.replica("tehran", room_id)
    row = await b.node("tehran").read(_event, room.now.state["m.room.member", bob.user_id].event_id)
    assert b'"a.test":{' in row
    assert b'"b.test":{' in row


async def _event(tx: Any, event_id: str) -> bytes:
    return bytes((await tx.one("SELECT rest FROM events WHERE event_id = ?", event_id))[0])


@aio
async def test_who_is_invited_needs_nobody_to_vouch(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    hall = await a.create(alice)
    room_id = await a.create(alice, initial_state=for_members_of(hall), invite=[bob.user_id])
    await b.change(bob, room_id, "join")
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert "join_authorised_via_users_server" not in await b.ask(bob, "GET", path)


@aio
async def test_a_server_that_cannot_see_the_condition_says_so(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    elsewhere = await b.create(bob)
    room_id = await a.create(alice, initial_state=for_members_of(elsewhere))
    refused = await kept_out(bob, room_id, "a.test")
    assert (refused.status, refused.errcode) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")


@aio
async def test_a_server_whose_members_may_not_invite_points_to_others(network: Network) -> None:
    a, b, c = [await network.found(name) for name in ("a.test", "b.test", "c.test")]
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await c.user("carol")
    hall = await a.create(alice, preset="public_chat")
    room_id = await a.create(
        alice, initial_state=for_members_of(hall), power_level_content_override={"invite": 50}, room_version="11"
    )
    for play, user in ((b, bob), (c, carol)):
        await enter(play, user, hall, "a.test")
    await enter(b, bob, room_id, "a.test")
    await network.settle()
    network.cut("a.test", "c.test")
    refused = await kept_out(carol, room_id, "b.test")
    assert (refused.status, refused.errcode) == (400, "M_UNABLE_TO_GRANT_JOIN")
    network.mend("a.test", "c.test")
    await c.ask(carol, "POST", f"/join/{quote(room_id)}?via=b.test&via=a.test", {})
    assert await members(c, carol, room_id) == {alice.user_id, bob.user_id, carol.user_id}


@aio
async def test_another_server_vouches_where_nobody_here_can(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol", "paris")
    hall = await a.create(alice, preset="public_chat")
    room_id = await a.create(alice, initial_state=for_members_of(hall), power_level_content_override={"invite": 50})
    for user in (bob, carol):
        await b.ask(user, "POST", f"/join/{quote(hall)}", {}, via="a.test")
    await enter(b, bob, room_id, "a.test")
    await network.settle()
    await a.send(alice, room_id, "before")
    network.cut("a.test", "b.test")
    refused = await b.refused(carol, "POST", f"/rooms/{quote(room_id)}/join", {})
    assert refused.status == 502
    network.mend("a.test", "b.test")
    await b.change(carol, room_id, "join")
    await network.settle()
    everybody = {alice.user_id, bob.user_id, carol.user_id}
    assert await members(a, alice, room_id) == await members(b, carol, room_id) == everybody
    assert await members(b, bob, room_id) == everybody
    assert await a.state_of("tehran", room_id) == await b.state_of("tehran", room_id)


@aio
async def test_a_join_for_which_nobody_signed_is_none(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    hall = await a.create(alice, preset="public_chat")
    room_id = await a.create(alice, initial_state=for_members_of(hall))
    await enter(b, bob, hall, "a.test")
    spoil(network, monkeypatch, "send_join", lambda value: value.pop("event"))
    assert (await kept_out(bob, room_id, "a.test")).status == 502
    assert not await known(b, room_id)
